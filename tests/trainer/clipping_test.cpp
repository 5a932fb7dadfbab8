// Clipping, and what hooks see of gradients.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "anneal/tests/expect.h"
#include "anneal/tests/trainer/support.h"

namespace anneal_test {
namespace {

using anneal::testing::expect_contains;
using Doubles = std::vector<double>;

constexpr std::int64_t windows_of = 3;

// The gradient of a batch is its x.
struct Vector : TrainingModule {
  nn::Parameter weight{{this, "weight"}, zeros({3})};
  Tensor training_step(const Batch& batch, StepContext&) override { return sum(weight * batch["x"].reshape({3})); }
  OptimizerConfig configure_optimizers() override { return {optim::SGD(parameters(), {.lr = 1})}; }
};

// Seven batches; windows of three average to {2, -1, 2}, {5, -4, 2} and, of the last alone, {7, -6, 2}.
Doubles gradient_of(std::int64_t batch) { return {static_cast<double>(batch + 1), static_cast<double>(-batch), 2}; }
const std::vector<Doubles> averages{{2, -1, 2}, {5, -4, 2}, {7, -6, 2}};

DataLoader gradients() {
  Doubles x;
  for (std::int64_t i = 0; i < 7; ++i)
    for (const double value : gradient_of(i)) x.push_back(value);
  return DataLoader(TensorDataset{{"x", tensor(x, {7, 3})}});
}

double norm_of(const Doubles& g) { return std::sqrt(std::inner_product(g.begin(), g.end(), g.begin(), 0.0)); }

void expect_near(const Doubles& got, const Doubles& want, const char* what) {
  ASSERT_EQ(got.size(), want.size());
  for (std::size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], want[i], 2e-6) << what << ' ' << i;
}

// Follows gradients and weights through the windows.
struct Follower : Callback {
  double scale = 1;
  bool reads = false;
  std::string algorithm = {};
  double limit = 0;
  bool knows_norm = false;
  Doubles sum = {0, 0, 0}, weight = {0, 0, 0};
  std::size_t window = 0;

  void on_after_backward(Trainer& trainer, TrainingModule& module) override {
    for (std::size_t i = 0; i < 3; ++i) sum[i] += scale * gradient_of(trainer.batch_idx())[i];
    EXPECT_EQ(module.parameters()[0].tensor.grad().to_vector(), sum) << "scaled, and the sum so far";
  }
  void on_before_optimizer_step(Trainer&, TrainingModule& module, optim::Optimizer&) override {
    const Tensor p = module.parameters()[0].tensor;
    if (reads) expect_near(p.grad().to_vector(), averages.at(window), "averaged, unscaled, not yet clipped");
    if (reads) expect_near(p.grad().to_vector(), averages.at(window), "the same when it is read again");
  }
  void on_train_batch_end(Trainer& t, TrainingModule& module, const Tensor&, const Batch&, StepContext& s) override {
    if ((s.batch_idx() + 1) % windows_of != 0 && !t.is_last_batch()) return;
    Doubles clipped = averages.at(window++);
    const double norm = norm_of(clipped), factor = std::min(1.0, limit / norm);
    for (std::size_t i = 0; i < 3; ++i) {
      if (algorithm == "norm") clipped[i] *= factor;
      else clipped[i] = std::clamp(clipped[i], -limit, limit);
      weight[i] -= clipped[i];
    }
    expect_near(module.parameters()[0].tensor.to_vector(), weight, "weight");
    if (knows_norm) { EXPECT_NEAR(t.optimizer()->grad_norm().item(), norm, 1e-5) << "before clipping"; }
    sum = {0, 0, 0};
  }
};

TEST(Clipping, EqualsTheHandCalculation) {
  for (const std::string algorithm : {"norm", "value"})
    for (const std::string precision : {"32-true", "64-true", "16-mixed", "bf16-mixed"})
      for (const bool reads : {false, true})
        for (const double limit : {4.0, 1000.0}) {
          const bool logs = limit == 1000;
          SCOPED_TRACE(algorithm + ' ' + precision + (reads ? " read " : " ") + std::to_string(limit));
          auto follower = std::make_shared<Follower>();
          follower->scale = precision == "16-mixed" ? 65536 : 1;
          follower->reads = reads;
          follower->algorithm = algorithm;
          follower->limit = limit;
          follower->knows_norm = algorithm == "norm" || precision == "16-mixed" || logs;
          Vector module;
          Trainer trainer(quiet({.precision = precision,
                                 .max_epochs = 1,
                                 .accumulate_grad_batches = windows_of,
                                 .gradient_clip_val = limit,
                                 .gradient_clip_algorithm = algorithm,
                                 .log_grad_norm = logs,
                                 .callbacks = {follower}}));
          EXPECT_EQ(trainer.fit(module, gradients()).global_step, 3);
          EXPECT_EQ(follower->window, 3u);
          if (logs) { EXPECT_NEAR(trainer.callback_metrics()["grad_norm"], norm_of(averages[2]), 1e-5); }
        }
  struct Two : TrainingModule {
    nn::Parameter a{{this, "a"}, zeros({1})}, b{{this, "b"}, zeros({1})};
    Tensor training_step(const Batch&, StepContext&) override { return sum(a) * 3.0 + sum(b) * 4.0; }
    OptimizerConfig configure_optimizers() override { return {optim::SGD(parameters(), {.lr = 1})}; }
  } two;
  Trainer(quiet({.max_epochs = 1, .gradient_clip_val = 1})).fit(two, counting_loader(1));
  EXPECT_NEAR(two.a.item(), -0.6, 1e-6) << "the norm is that of both";
  EXPECT_NEAR(two.b.item(), -0.8, 1e-6);
}

// Gradients (6, 0) and (0, 8), whose mean has the norm 5; the limit is 1.
TEST(Clipping, IsOfTheWindowsGradient) {
  struct Two : TrainingModule {
    nn::Parameter a{{this, "a"}, zeros({1})}, b{{this, "b"}, zeros({1})};
    Tensor training_step(const Batch&, StepContext& step) override {
      return step.batch_idx() == 0 ? sum(a) * 6.0 : sum(b) * 8.0;
    }
    OptimizerConfig configure_optimizers() override { return {optim::SGD(parameters(), {.lr = 1})}; }
  } two;
  Trainer(quiet({.max_epochs = 1, .accumulate_grad_batches = 2, .gradient_clip_val = 1})).fit(two, counting_loader(2));
  EXPECT_NEAR(two.a.item(), -0.6, 1e-6);
  EXPECT_NEAR(two.b.item(), -0.8, 1e-6);
}

TEST(Clipping, ComesAfterUnscaling) {
  struct Seen : TrainingModule {
    nn::Parameter weight{{this, "weight"}, zeros({2})};
    Doubles scaled, unscaled;
    Tensor training_step(const Batch&, StepContext&) override { return sum(weight * tensor({3, 4})); }
    void on_after_backward() override { scaled = weight.grad().to_vector(); }
    void on_before_optimizer_step(optim::Optimizer&) override { unscaled = weight.grad().to_vector(); }
    OptimizerConfig configure_optimizers() override { return {optim::SGD(parameters(), {.lr = 1})}; }
  } seen;
  Trainer(quiet({.precision = "16-mixed",
                 .grad_scaler = optim::GradScalerOptions{.init_scale = 1024},
                 .max_epochs = 1,
                 .gradient_clip_val = 1}))
      .fit(seen, counting_loader(1));
  EXPECT_EQ(seen.scaled, (Doubles{3072, 4096}));
  EXPECT_EQ(seen.unscaled, (Doubles{3, 4}));
  expect_near(seen.weight.to_vector(), {-0.6, -0.8}, "weight");
}

// Two groups with gradients 3 and (4, 5).
struct Grouped : TrainingModule {
  nn::Parameter a{{this, "a"}, full({1}, 2.0)}, b{{this, "b"}, zeros({2})};
  Tensor training_step(const Batch&, StepContext&) override {
    return sum(a) * 3.0 + sum(b * tensor({4, 5}, {2}, {.dtype = DType::f32}));
  }
  OptimizerConfig configure_optimizers() override {
    const std::vector<NamedTensor> first{{"a", a}}, second{{"b", b}};
    return {optim::SGD(std::vector<optim::ParamGroup<optim::SGDOptions>>{{first, {.lr = 1}}, {second, {.lr = 1}}})};
  }
};

TEST(Clipping, ByAnyNormByGroupAndAdaptive) {
  const auto updates = [](TrainerOptions options) {
    for (const std::string precision : {"16-mixed", "32-true"}) {
      Grouped module;
      options.max_epochs = 1;
      options.precision = precision;
      Trainer(quiet(options)).fit(module, counting_loader(1));
      const std::vector<double> b = module.b.to_vector();
      if (precision == "32-true") return std::vector<double>{2 - module.a.item(), -b[0], -b[1]};
      EXPECT_LT(module.a.item(), 2) << "clipped after unscaling";
    }
    return std::vector<double>();
  };
  const auto expect_updates = [&](const TrainerOptions& options, const std::vector<double>& expected) {
    const std::vector<double> got = updates(options);
    for (std::size_t i = 0; i < 3; ++i) EXPECT_NEAR(got[i], expected[i], 2e-6) << i;
  };
  constexpr double infinity = std::numeric_limits<double>::infinity();
  expect_updates({.gradient_clip_val = 6, .gradient_clip_norm_type = 1}, {1.5, 2, 2.5});
  expect_updates({.gradient_clip_val = 1, .gradient_clip_norm_type = infinity}, {0.6, 0.8, 1});
  const double second = std::sqrt(41.0);
  expect_updates({.gradient_clip_group_vals = {0, 1}}, {3, 4 / second, 5 / second});
  expect_updates({.gradient_clip_norm_type = infinity, .gradient_clip_group_vals = {1, 10}}, {1, 4, 5});
  expect_updates({.gradient_clip_val = 0.5, .gradient_clip_algorithm = "adaptive"},
                 {1, 0.5e-3 * 4 / second, 0.5e-3 * 5 / second});
}

TEST(Clipping, RefusesBadOptions) {
  const auto error = [](TrainerOptions options) {
    return message_of<ConfigError>([&] { Trainer trainer(quiet(options)); });
  };
  EXPECT_TRUE(error({.gradient_clip_norm_type = 0}).starts_with("gradient_clip_norm_type"));
  EXPECT_TRUE(error({.gradient_clip_group_vals = {1, -1}}).starts_with("gradient_clip_group_vals"));
  EXPECT_TRUE(error({.gradient_clip_val = 1, .gradient_clip_group_vals = {1}}).starts_with("gradient_clip_group_vals"));
  EXPECT_TRUE(error({.gradient_clip_algorithm = "value", .gradient_clip_group_vals = {1}}).find("with value") !=
              std::string::npos);
  Grouped module;
  const std::string wrong = message_of<Error>(
      [&] { Trainer(quiet({.max_epochs = 1, .gradient_clip_group_vals = {1}})).fit(module, counting_loader(1)); });
  expect_contains(wrong, "expected a limit for each of 2 groups, got 1");
  EXPECT_TRUE(error({.gradient_clip_val = -1}).starts_with("gradient_clip_val"));
  const std::string text = error({.gradient_clip_algorithm = "l2"});
  EXPECT_TRUE(text.starts_with("gradient_clip_algorithm")) << text;
  expect_contains(text, "\"l2\"");
}

}  // namespace
}  // namespace anneal_test
