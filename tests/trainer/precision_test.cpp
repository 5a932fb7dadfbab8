// What the names of precisions mean, loss scaling within the loop, clipping and what hooks see of gradients.
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

TEST(LossScale, GrowsAfterGoodSteps) {
  const auto scales = [](optim::GradScalerOptions options) {
    auto watch = std::make_shared<Overflow>();
    Small module;
    Trainer(quiet({.precision = "16-mixed", .grad_scaler = options, .max_epochs = 1, .callbacks = {watch}}))
        .fit(module, samples(5));
    Doubles values;
    for (const auto& batch : watch->left) values.push_back(std::round(batch.scale));
    return values;
  };
  EXPECT_EQ(scales({.init_scale = 8, .growth_interval = 2}), (Doubles{8, 8, 16, 16, 32}));
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

// ---- clipping, and gradients in hooks ----

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
    if (knows_norm) { EXPECT_NEAR(t.optimizer()->grad_norm(), norm, 1e-5) << "before clipping"; }
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
