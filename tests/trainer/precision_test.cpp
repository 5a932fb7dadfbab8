// What the names of precisions mean, and loss scaling within the loop.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "anneal/tests/expect.h"
#include "anneal/tests/trainer/support.h"

namespace anneal_test {
namespace {

using anneal::testing::expect_contains;
using Doubles = std::vector<double>;
constexpr double infinity = std::numeric_limits<double>::infinity();

// ---- dtypes ----

struct Dtypes {
  std::string precision;
  DType parameters, x, wide, hidden;  // of a batch's f32 and f64 tensors and of what a layer makes
};
const std::vector<Dtypes> dtypes{{"32-true", DType::f32, DType::f32, DType::f64, DType::f32},
                                 {"64-true", DType::f64, DType::f64, DType::f64, DType::f64},
                                 {"16-true", DType::f16, DType::f16, DType::f16, DType::f16},
                                 {"bf16-true", DType::bf16, DType::bf16, DType::bf16, DType::bf16},
                                 {"16-mixed", DType::f32, DType::f32, DType::f64, DType::f16},
                                 {"bf16-mixed", DType::f32, DType::f32, DType::f64, DType::bf16}};

// A classifier of points by whether they lie in the unit circle; it notes dtypes and losses.
struct Circle : TrainingModule {
  nn::Linear in{{this, "in"}, 2, 16}, out{{this, "out"}, 16, 2};
  nn::Buffer center{{this, "center"}, zeros({2})};
  const Dtypes* expected = nullptr;
  Doubles losses;

  Tensor loss_of(const Batch& batch) const {
    const Tensor hidden = tanh(in(batch["x"] - center));
    EXPECT_EQ(batch["x"].dtype(), expected->x);
    EXPECT_EQ(batch["wide"].dtype(), expected->wide);
    EXPECT_EQ(batch["y"].dtype(), DType::i64);
    EXPECT_EQ(hidden.dtype(), expected->hidden);
    return cross_entropy(out(hidden), batch["y"]);
  }
  Tensor training_step(const Batch& batch, StepContext&) override {
    const Tensor loss = loss_of(batch);
    EXPECT_EQ(loss.dtype() == DType::f64, expected->parameters == DType::f64);
    losses.push_back(loss.item());
    return loss;
  }
  void validation_step(const Batch& batch, StepContext& step) override { step.log("val_loss", loss_of(batch)); }
  OptimizerConfig configure_optimizers() override { return {optim::SGD(parameters(), {.lr = 0.3, .momentum = 0.9})}; }
  void on_before_optimizer_step(optim::Optimizer&) override {
    for (const NamedTensor& p : parameters()) {
      EXPECT_EQ(p.tensor.dtype(), expected->parameters) << p.name;
      EXPECT_EQ(p.tensor.grad().dtype(), expected->parameters) << p.name;
    }
    EXPECT_EQ(center.dtype(), expected->parameters);
  }
};

DataLoader points() {
  Generator generator(3);
  const Tensor x = randn({64, 2}, {}, generator);
  const Tensor y = lt(sum(square(x), {1}), full({64}, 1)).to(DType::i64);
  return DataLoader(TensorDataset{{"x", x}, {"y", y}, {"wide", x.to(DType::f64)}}, {.batch_size = 16});
}

TEST(Precision, EachOneTrainsInItsDtypes) {
  for (const Dtypes& expected : dtypes) {
    SCOPED_TRACE(expected.precision);
    manual_seed(1);
    Circle module;
    module.expected = &expected;
    Trainer trainer(quiet({.precision = expected.precision, .max_epochs = 40}));
    trainer.fit(module, points(), points());
    const double first = module.losses.front(), last = module.losses.back();
    EXPECT_NEAR(first, 0.7, 0.3);
    EXPECT_LT(last, 0.4 * first);
    EXPECT_LT(*trainer.callback_metrics().find("val_loss"), 0.5 * first);
    EXPECT_EQ(trainer.skipped_steps(), 0);
    trainer.validate(module, points(), {.verbose = false});
  }
}

TEST(Precision, TrueF32LeavesAModuleAsItIs) {
  Probe probe;
  probe.to(DType::f64);
  probe.in_training_step = [](const Batch& batch, StepContext&) { EXPECT_EQ(batch["x"].dtype(), DType::f64); };
  const DataLoader loader(TensorDataset{{"x", ones({2, 1}, {.dtype = DType::f64})}});
  Trainer(quiet({.max_epochs = 1})).fit(probe, loader);
  EXPECT_EQ(probe.weight.dtype(), DType::f64);
}

TEST(Precision, ShortNames) {
  for (const auto& [name, expected] : {std::pair{"32", 0}, {"64", 1}, {"16", 4}, {"bf16", 5}}) {
    Circle module;
    module.expected = &dtypes[static_cast<std::size_t>(expected)];
    Trainer(quiet({.precision = name, .max_steps = 1})).fit(module, points());
    EXPECT_EQ(module.losses.size(), 1u);
  }
}

TEST(Precision, AnUnknownNameGetsTheList) {
  const std::string error = message_of<ConfigError>([] { Trainer trainer(quiet({.precision = "fp8"})); });
  EXPECT_TRUE(error.starts_with("precision")) << error;
  expect_contains(error, "\"fp8\"");
  for (const Dtypes& known : dtypes) expect_contains(error, known.precision);
  for (const char* bad : {"", "8"}) EXPECT_THROW(Trainer(quiet({.precision = bad})), ConfigError);
}

TEST(Precision, AGradScalerIsFor16Mixed) {
  const auto error = [](const std::string& precision, optim::GradScalerOptions scaler) {
    return message_of<ConfigError>([&] {
      Probe probe;
      Trainer(quiet({.precision = precision, .grad_scaler = scaler, .max_epochs = 1})).fit(probe, counting_loader(1));
    });
  };
  for (const Dtypes& known : dtypes) {
    const std::string text = error(known.precision, {});
    if (known.precision == "16-mixed") EXPECT_EQ(text, "");
    else EXPECT_TRUE(text.starts_with("grad_scaler") && text.ends_with(known.precision)) << text;
  }
  EXPECT_TRUE(error("16-mixed", {.growth_factor = 0}).starts_with("growth_factor"));
}

// ---- loss scaling ----

// Its loss is logged; the schedule moves with each optimizer step.
struct Small : TrainingModule {
  nn::Sequential net{{this, "net"}, nn::Linear(2, 4), nn::Tanh(), nn::Linear(4, 1)};
  double loss = 0;

  Tensor training_step(const Batch& batch, StepContext& step) override {
    const Tensor y = mse_loss(net(batch["x"]), batch["y"]);
    step.log("loss", y);
    loss = y.item();
    return y;
  }
  OptimizerConfig configure_optimizers() override {
    return {optim::AdamW(parameters(), {.lr = 0.01}), optim::exponential_lr(0.9), Interval::step};
  }
};

DataLoader samples(std::int64_t batches) {
  Generator generator(7);
  const Tensor x = randn({batches * 2, 2}, {}, generator);
  return DataLoader(TensorDataset{{"x", x}, {"y", sum(x, {1}, true)}}, {.batch_size = 2});
}

Doubles all_weights(const TrainingModule& module) {
  Doubles values;
  for (const NamedTensor& p : module.parameters())
    for (const double value : p.tensor.to_vector()) values.push_back(value);
  return values;
}

// Makes a gradient infinite in the given batches of the run, and notes what each batch leaves behind.
struct Overflow : Callback {
  std::vector<std::int64_t> at = {};
  bool reads = false;  // gradients before the step, which averages and unscales them in memory
  std::int64_t save_after = -1;
  fs::path path = {};

  struct Left {
    double scale;  // that the batch's loss was multiplied by
    Doubles weights;
    std::int64_t step, skipped;
    double lr;
    bool operator==(const Left&) const = default;
  };
  std::vector<Left> left = {};
  double scale = 0;

  void on_before_backward(Trainer&, TrainingModule& module, const Tensor& loss) override {
    scale = loss.item() / dynamic_cast<Small&>(module).loss;
  }
  void on_after_backward(Trainer& trainer, TrainingModule& module) override {
    if (std::ranges::count(at, trainer.total_batch_idx()) > 0)
      module.parameters()[1].tensor.grad().select(0, 0).fill_(infinity);
  }
  void on_before_optimizer_step(Trainer& trainer, TrainingModule& module, optim::Optimizer&) override {
    if (!reads) return;
    const double value = module.parameters()[1].tensor.grad().to_vector()[0];
    EXPECT_EQ(std::isfinite(value), std::ranges::count(at, trainer.total_batch_idx()) == 0);
  }
  void on_train_batch_end(Trainer& t, TrainingModule& module, const Tensor&, const Batch&, StepContext&) override {
    left.push_back({scale, all_weights(module), t.global_step(), t.skipped_steps(), t.optimizer()->lr()});
    if (t.total_batch_idx() == save_after) t.save_checkpoint(path);
  }
};

// The steps of the rows that have a loss.
struct Rows : Logger {
  std::vector<std::int64_t> steps;
  void log_metrics(const MetricMap& metrics, std::int64_t step) override {
    if (metrics.contains("loss")) steps.push_back(step);
  }
  fs::path log_dir() const override { return {}; }
};

TEST(LossScale, AnOverflowMovesNothingButTheScale) {
  for (const bool reads : {false, true}) {
    SCOPED_TRACE(reads);
    auto overflow = std::make_shared<Overflow>();
    overflow->at = {2, 5, 6};
    overflow->reads = reads;
    auto rows = std::make_shared<Rows>();
    Trainer trainer(quiet({.precision = "16-mixed",
                           .grad_scaler = optim::GradScalerOptions{.init_scale = 1024, .growth_interval = 3},
                           .max_epochs = 1,
                           .log_every_n_steps = 1,
                           .logger = rows,
                           .callbacks = {overflow}}));
    manual_seed(4);
    Small module;
    EXPECT_EQ(trainer.fit(module, samples(11)).global_step, 8);
    EXPECT_EQ(trainer.skipped_steps(), 3);
    EXPECT_EQ(rows->steps, (std::vector<std::int64_t>{1, 2, 3, 4, 5, 6, 7, 8}));

    const std::vector<Overflow::Left>& left = overflow->left;
    ASSERT_EQ(left.size(), 11u);
    Doubles scales;
    for (const auto& batch : left) scales.push_back(std::round(batch.scale));
    EXPECT_EQ(scales, (Doubles{1024, 1024, 1024, 512, 512, 512, 256, 128, 128, 128, 256}));
    for (std::size_t i = 1; i < left.size(); ++i) {
      const bool skipped = i == 2 || i == 5 || i == 6;
      EXPECT_EQ(left[i].weights == left[i - 1].weights, skipped) << i;
      EXPECT_EQ(left[i].step - left[i - 1].step, skipped ? 0 : 1) << i;
      EXPECT_EQ(left[i].skipped - left[i - 1].skipped, skipped ? 1 : 0) << i;
      EXPECT_EQ(left[i].lr == left[i - 1].lr, skipped) << i;
    }
  }
}

// The gradient of batch i is i + 1: what it is more is the scale.
struct Scaled : Probe {
  Doubles scales;
  std::int64_t overflows_at = -1, leaves_out = -1;

  Tensor training_step(const Batch& batch, StepContext& step) override {
    return step.batch_idx() == leaves_out ? Tensor() : Probe::training_step(batch, step);
  }
  void on_after_backward() override {
    const std::int64_t batch = trainer().batch_idx();
    scales.push_back(weight.grad().item() / static_cast<double>(batch + 1));
    if (batch == overflows_at) weight.grad().fill_(infinity);
  }
  OptimizerConfig configure_optimizers() override {
    return {optim::SGD(parameters(), {.lr = 1}), optim::exponential_lr(0.5), Interval::step};
  }
};

TEST(LossScale, AnOverflowingBatchIsAsIfItWereNotThere) {
  Scaled overflows, without;
  overflows.overflows_at = without.leaves_out = 2;
  const TrainerOptions options = quiet({.precision = "16-mixed", .max_epochs = 1});
  Trainer trainer(options);
  EXPECT_EQ(trainer.fit(overflows, counting_loader(6)).global_step, 5);
  EXPECT_EQ(overflows.scales, (Doubles{65536, 65536, 65536, 32768, 32768, 32768}));
  EXPECT_EQ(trainer.skipped_steps(), 1);
  EXPECT_EQ(trainer.optimizer()->lr(), 0x1p-5) << "the schedule moved five times";
  EXPECT_EQ(Trainer(options).fit(without, counting_loader(6)).global_step, 5);
  EXPECT_EQ(overflows.weight.item(), without.weight.item());
}

TEST(LossScale, GrowsAfterGoodSteps) {
  const auto scales = [](optim::GradScalerOptions options) {
    Scaled module;
    Trainer(quiet({.precision = "16-mixed", .grad_scaler = options, .max_epochs = 1})).fit(module, counting_loader(5));
    return module.scales;
  };
  EXPECT_EQ(scales({.init_scale = 16384, .growth_interval = 2}), (Doubles{16384, 16384, 32768, 32768, 65536}));
  EXPECT_EQ(scales({.init_scale = 4, .growth_factor = 3, .growth_interval = 1}), (Doubles{4, 12, 36, 108, 324}));
  EXPECT_EQ(scales({.init_scale = 16, .growth_interval = 0}), (Doubles{16, 16, 16, 16, 16}));
}

TEST(LossScale, AResumedRunIsTheUndisturbedOneToTheBit) {
  constexpr std::int64_t batches = 20, cut = 9;
  for (const std::int64_t accumulate : {1, 3}) {
    SCOPED_TRACE(accumulate);
    const TempFolder dir;
    const auto run = [&](std::uint64_t seed, std::int64_t save_after, const FitOptions& fit) {
      auto overflow = std::make_shared<Overflow>();
      overflow->at = {4, 11, 15};  // with windows of three, 11 is in the window that is cut
      overflow->save_after = save_after;
      overflow->path = dir / "cut";
      Trainer trainer(quiet({.precision = "16-mixed",
                             .grad_scaler = optim::GradScalerOptions{.init_scale = 256, .growth_interval = 3},
                             .max_epochs = 1,
                             .accumulate_grad_batches = accumulate,
                             .callbacks = {overflow}}));
      manual_seed(seed);
      Small module;
      trainer.fit(module, samples(batches), fit);
      return overflow->left;
    };
    const std::vector<Overflow::Left> whole = run(4, cut, {}), rest = run(99, -1, {.resume = (dir / "cut").string()});
    ASSERT_EQ(whole.size(), batches);
    EXPECT_EQ(rest, std::vector(whole.begin() + cut + 1, whole.end()));
    EXPECT_EQ(whole[cut].skipped, 1);
    EXPECT_EQ(whole.back().skipped, 3);
    EXPECT_EQ(whole.back().step, (batches + accumulate - 1) / accumulate - 3);
  }
}

TEST(LossScale, CollapsesWithAnError) {
  const auto batches_until_error = [](double init_scale, std::vector<std::int64_t> good) {
    auto overflow = std::make_shared<Overflow>();
    for (std::int64_t i = 0; i < 150; ++i)
      if (std::ranges::count(good, i) == 0) overflow->at.push_back(i);
    Trainer trainer(quiet({.precision = "16-mixed",
                           .grad_scaler = optim::GradScalerOptions{.init_scale = init_scale},
                           .max_epochs = 1,
                           .callbacks = {overflow}}));
    Small module;
    const std::string error = message_of<Error>([&] { trainer.fit(module, samples(150)); });
    if (!error.empty()) expect_contains(error, "loss scale collapsed");
    return std::pair(overflow->left.size(), !error.empty());
  };
  EXPECT_EQ(batches_until_error(1, {}), std::pair(99ul, true)) << "a hundred skips in a row";
  EXPECT_EQ(batches_until_error(0x1p110, {}), std::pair(110ul, true)) << "and a scale below 1";
  EXPECT_EQ(batches_until_error(1, {99}), std::pair(150ul, false)) << "a good step in between";
}

}  // namespace
}  // namespace anneal_test
