// 200 steps with clipping, loss scaling and averages against PyTorch's numbers.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "anneal/tests/fixture.h"
#include "anneal/tests/trainer/support.h"
#include "anneal/trainer/checkpoint.h"
#include "anneal/trainer/plugin.h"

namespace anneal_test {
namespace {

using Doubles = std::vector<double>;
using Json = nlohmann::json;

// The fixture's model and data: see make_trainer.py.
struct Net : TrainingModule {
  explicit Net(bool with_norm = false) : norm(with_norm ? new nn::BatchNorm1d({this, "norm"}, 6) : nullptr) {
    to(DType::f64);
    int k = 0;
    for (const nn::Linear* layer : {&in, &out})
      for (const Tensor& p : {layer->weight.detach(), layer->bias.detach()})
        for (double& value : p.span<double>()) value = 0.5 * std::cos(1.7 * k++);
  }
  nn::Linear in{{this, "in"}, 3, 6};
  std::unique_ptr<nn::BatchNorm1d> norm;
  nn::Linear out{{this, "out"}, 6, 1};
  std::vector<std::int64_t> bad;

  Tensor training_step(const Batch& batch, StepContext& step) override {
    const Tensor hidden = in(batch["x"]);
    const Tensor loss = mse_loss(out(tanh(norm ? (*norm)(hidden) : hidden)).squeeze(1), batch["y"]);
    const bool is_bad = std::ranges::find(bad, step.trainer().total_batch_idx()) != bad.end();
    return is_bad ? loss * std::numeric_limits<double>::infinity() : loss;
  }
  OptimizerConfig configure_optimizers() override { return {optim::SGD(parameters(), {.lr = 0.1, .momentum = 0.9})}; }
};

Batch batch_of(double t) {
  const Tensor i = arange(8).to(DType::f64), j = arange(3).to(DType::f64);
  return {{"x", sin(i.unsqueeze(1) * 0.7 + j * 1.3 + 0.1 * t)}, {"y", cos(i * 0.5 + 0.2 * t)}};
}
// Epochs of so many steps; a number that the loader does not tell.
DataLoader steps_of(std::int64_t epoch_size) {
  return DataLoader([=](std::int64_t epoch) {
    return [=, i = std::int64_t{0}]() mutable {
      return i < epoch_size ? std::optional(batch_of(static_cast<double>(epoch * epoch_size + i++))) : std::nullopt;
    };
  });
}

struct DoublePrecision : PrecisionPlugin {
  explicit DoublePrecision(bool scaled) : is_scaled(scaled) {}
  bool is_scaled;
  std::optional<DType> parameters() const override { return DType::f64; }
  bool scaled() const override { return is_scaled; }
};

Doubles flat(const StateDict& tensors) {
  Doubles all;
  for (const NamedTensor& entry : tensors)
    for (const double value : entry.tensor.to_vector()) all.push_back(value);
  return all;
}
void expect_near(const Doubles& values, const Doubles& expected) {
  ASSERT_EQ(values.size(), expected.size());
  for (std::size_t i = 0; i < values.size(); ++i) ASSERT_NEAR(values[i], expected[i], 1e-6) << i;
}

// The Trainer's options for a run of the fixture.
TrainerOptions options_of(const Json& given) {
  TrainerOptions options{.max_epochs = 1};
  if (given.contains("clip_norm")) {
    const Json& p = given["norm_type"];
    options.gradient_clip_val = given["clip_norm"].get<double>();
    options.gradient_clip_norm_type = p == "inf" ? std::numeric_limits<double>::infinity() : p.get<double>();
  } else if (given.contains("clip_value")) {
    options.gradient_clip_val = given["clip_value"].get<double>();
    options.gradient_clip_algorithm = "value";
  }
  if (given.contains("ema")) options.callbacks = {EMAWeightAveraging({.decay = given["ema"]})};
  options.plugins = {DoublePrecision(given.contains("init_scale"))};
  if (given.contains("init_scale"))
    options.grad_scaler = {.init_scale = given["init_scale"], .growth_interval = given["growth_interval"]};
  return options;
}

TEST(PyTorch, TwoHundredSteps) {
  const TempFolder dir;
  const Json all = anneal::testing::fixture("trainer.json");
  ASSERT_EQ(all["runs"].size(), 9U);
  for (const Json& run : all["runs"])
    for (std::size_t k = 0; k < all["steps"].size(); ++k) {
      const std::int64_t steps = all["steps"][k];
      SCOPED_TRACE(format("{}, {} steps", run["name"].get<std::string>(), steps));
      const Json& given = run["options"];
      Net net;
      net.bad = given.value("bad", std::vector<std::int64_t>());
      TrainerOptions options = options_of(given);
      options.limit_train_batches = steps;
      Trainer trainer(quiet(options));
      trainer.fit(net, steps_of(200));
      expect_near(flat(net.parameters()), run["values"][k]);
      if (!given.contains("init_scale")) continue;
      trainer.save_checkpoint(dir / "a");
      const StateDict scaler = load_checkpoint(dir / "a").scaler;
      EXPECT_EQ(std::ranges::find(scaler, "scale", &NamedTensor::name)->tensor.item(), run["scales"][k]);
    }
}

TEST(PyTorch, StochasticWeightAveraging) {
  const Json swa = anneal::testing::fixture("trainer.json")["swa"];
  const Json& given = swa["options"];
  Net net(true);
  const std::int64_t start = given["start"];
  Trainer(quiet({.max_epochs = given["epochs"].get<std::int64_t>(),
                 .callbacks = {StochasticWeightAveraging({.swa_lrs = {given["swa_lr"].get<double>()},
                                                          .swa_epoch_start = start + 1,
                                                          .annealing_epochs = given["anneal_epochs"],
                                                          .annealing_strategy = given["anneal_strategy"]})},
                 .plugins = {DoublePrecision(false)}}))
      .fit(net, steps_of(20));
  expect_near(flat(net.parameters()), swa["values"]);
  expect_near(net.norm->running_mean.to_vector(), swa["mean"]);
  expect_near(net.norm->running_var.to_vector(), swa["var"]);
}

}  // namespace
}  // namespace anneal_test
