// Limits, intervals of validation, counters, stopping, accumulation: rows C-001 to C-090.
#include <gtest/gtest.h>

#include "anneal/tests/trainer/support.h"

namespace anneal_test {
namespace {

using Checks = std::vector<std::int64_t>;

struct Outcome {
  FitResult result;
  Watch watch;
};

Outcome fit(TrainerOptions options, std::int64_t n, std::int64_t v = 0, std::shared_ptr<Callback> extra = nullptr) {
  auto watch = std::make_shared<Watch>();
  options.callbacks.push_back(watch);
  if (extra) options.callbacks.push_back(extra);
  Trainer trainer(quiet(options));
  Probe probe;
  const DataLoader train = counting_loader(n), val = counting_loader(v);
  const FitResult result = v > 0 ? trainer.fit(probe, train, val) : trainer.fit(probe, train);
  return {result, *watch};
}

TEST(Limits, EpochsAndSteps) {
  const auto epochs = fit({.max_epochs = 3}, 2);
  EXPECT_EQ(epochs.result.global_step, 6);
  EXPECT_EQ(epochs.result.epochs, 3);
  EXPECT_EQ(epochs.result.reason, StopReason::max_epochs);
  for (const TrainerOptions& none : {TrainerOptions{.max_epochs = 0}, TrainerOptions{.max_steps = 0}}) {
    const auto outcome = fit(none, 2);
    EXPECT_EQ(outcome.watch.train_starts + outcome.watch.batches + outcome.watch.epoch_ends, 0);
    EXPECT_EQ(outcome.result.global_step, 0);
  }
  const auto steps = fit({.max_steps = 3}, 5, 1);
  EXPECT_EQ(steps.result.global_step, 3);
  EXPECT_EQ(steps.result.epochs, 1);
  EXPECT_EQ(steps.result.reason, StopReason::max_steps);
  EXPECT_EQ(steps.watch.epoch_ends, 1);
  EXPECT_EQ(steps.watch.checks, Checks());
  const auto both = fit({.max_epochs = 2, .max_steps = 7}, 5, 1);
  EXPECT_EQ(both.result.global_step, 7);
  EXPECT_EQ(both.watch.checks, Checks{5});
  EXPECT_EQ(both.watch.epoch_ends, 2);
  EXPECT_EQ(fit({.max_steps = 5}, 5, 1).watch.checks, Checks{5});
  const auto first = fit({.max_epochs = 1, .max_steps = 10}, 5);
  EXPECT_EQ(first.result.global_step, 5);
  EXPECT_EQ(first.result.reason, StopReason::max_epochs);
  const auto estimated = [](TrainerOptions options) {
    std::int64_t number = 0;
    options.accumulate_grad_batches = 4;
    fit(options, 10, 0, std::make_shared<AtBatchEnd>([&](Trainer& trainer, std::int64_t) {
          number = trainer.estimated_stepping_batches();
          trainer.stop();
        }));
    return number;
  };
  EXPECT_EQ(estimated({.max_epochs = 3}), 9);
  EXPECT_EQ(estimated({.max_steps = 5}), 5);
  EXPECT_EQ(estimated({.max_epochs = 3, .max_steps = 5}), 5);
  EXPECT_EQ(estimated({.max_epochs = -1}), -1) << "there is no limit";
  struct Asking : Probe {
    std::int64_t number = 0;
    OptimizerConfig configure_optimizers() override {
      number = trainer().estimated_stepping_batches();
      return Probe::configure_optimizers();
    }
  } asking;
  Trainer(quiet({.max_epochs = 3, .accumulate_grad_batches = 4})).fit(asking, counting_loader(10));
  EXPECT_EQ(asking.number, 9);
}

TEST(Limits, MinimaUnset) {
  EXPECT_EQ(*resolve({}).min_epochs, 0);
  EXPECT_EQ(*resolve({.min_steps = 3}).min_epochs, 1);
  EXPECT_EQ(*resolve({.min_epochs = 0, .min_steps = 3}).min_epochs, 0);
}

TEST(Limits, MaxEpochsUnset) {
  std::string text;
  const auto sink = [&](std::string_view line) { text += line; };
  EXPECT_EQ(*Trainer({.logger = false, .seed = 1, .sink = sink}).options().max_epochs, 1000);
  EXPECT_NE(text.find("1000"), std::string::npos);
  EXPECT_EQ(*Trainer(quiet({.max_steps = 3})).options().max_epochs, -1);
}

TEST(Limits, BadValuesNameTheirOption) {
  const auto error = [](TrainerOptions options) {
    return message_of<ConfigError>([&] { Trainer trainer(quiet(options)); });
  };
  EXPECT_TRUE(error({.max_epochs = -2}).starts_with("max_epochs"));
  EXPECT_TRUE(error({.max_steps = -2}).starts_with("max_steps"));
  EXPECT_TRUE(error({.min_epochs = -1}).starts_with("min_epochs"));
  EXPECT_TRUE(error({.min_steps = -1}).starts_with("min_steps"));
  EXPECT_TRUE(error({.max_epochs = 2, .min_epochs = 5}).starts_with("min_epochs"));
  EXPECT_TRUE(error({.max_steps = 2, .min_steps = 5}).starts_with("min_steps"));
  EXPECT_TRUE(error({.limit_train_batches = 1.5}).starts_with("limit_train_batches"));
  EXPECT_TRUE(error({.limit_train_batches = -1}).starts_with("limit_train_batches"));
  EXPECT_TRUE(error({.fast_dev_run = -1}).starts_with("fast_dev_run"));
  EXPECT_TRUE(error({.devices = -1}).starts_with("devices"));
  EXPECT_TRUE(error({.accelerator = "tpu"}).starts_with("accelerator: expected auto"));
  EXPECT_TRUE(error({.val_check_interval = 0}).starts_with("val_check_interval"));
  EXPECT_TRUE(error({.val_check_interval = -1}).starts_with("val_check_interval"));
  EXPECT_TRUE(error({.val_check_interval = 0.0}).starts_with("val_check_interval"));
  EXPECT_TRUE(error({.val_check_interval = 1.5}).starts_with("val_check_interval"));
  EXPECT_TRUE(
      error({.val_check_interval = 0.5, .check_val_every_n_epoch = std::nullopt}).starts_with("val_check_interval"));
  EXPECT_TRUE(error({.check_val_every_n_epoch = 0}).starts_with("check_val_every_n_epoch"));
  EXPECT_TRUE(error({.num_sanity_val_steps = -2}).starts_with("num_sanity_val_steps"));
  EXPECT_TRUE(error({.log_every_n_steps = -1}).starts_with("log_every_n_steps"));
  EXPECT_TRUE(error({.accumulate_grad_batches = 0}).starts_with("accumulate_grad_batches"));
  EXPECT_NE(error({.max_epochs = -2}).find("-2"), std::string::npos);
  EXPECT_TRUE(message_of<ConfigError>([] {
                fit({.max_epochs = 1, .limit_train_batches = 0.05}, 10);
              }).starts_with("limit_train_batches"));
  EXPECT_TRUE(message_of<ConfigError>([] {
                fit({.max_epochs = 1, .limit_val_batches = 0.1}, 10, 4);
              }).starts_with("limit_val_batches"));
  EXPECT_TRUE(message_of<ConfigError>([] {
                fit({.max_epochs = 1, .val_check_interval = 11}, 10, 1);
              }).starts_with("val_check_interval"));
  EXPECT_EQ(fit({.max_epochs = 1, .val_check_interval = 11}, 10).result.global_step, 10);
}

TEST(Limits, CallbacksMustAgreeWithTheSwitches) {
  const auto error = [](TrainerOptions options) { return message_of<ConfigError>([&] { Trainer trainer(options); }); };
  const auto sink = [](std::string_view) {};
  EXPECT_TRUE(error({.logger = false, .callbacks = {ModelCheckpoint()}, .enable_checkpointing = false, .sink = sink})
                  .starts_with("enable_checkpointing"));
  EXPECT_TRUE(error({.logger = false, .callbacks = {ProgressBar()}, .enable_progress_bar = false, .sink = sink})
                  .starts_with("enable_progress_bar"));
  EXPECT_TRUE(
      error({.logger = false, .callbacks = {ProgressBar(), ProgressBar()}, .sink = sink}).starts_with("callbacks"));
  EXPECT_TRUE(error({.logger = false, .callbacks = {CurvePlot(), CurvePlot()}, .sink = sink}).starts_with("callbacks"));
  const Trainer trainer({.logger = false, .callbacks = {ModelCheckpoint(), CurvePlot()}, .sink = sink});
  EXPECT_TRUE(dynamic_cast<ModelCheckpoint*>(trainer.callbacks().back().get()));
}

TEST(Limits, NumberOfBatches) {
  const auto trained = [](Amount limit, std::int64_t n) {
    return fit({.max_epochs = 1, .limit_train_batches = limit}, n).result.global_step;
  };
  EXPECT_EQ(trained(1, 10), 1);
  EXPECT_EQ(trained(1.0, 10), 10);
  EXPECT_EQ(trained(0.29, 10), 2);
  EXPECT_EQ(trained(2.0, 10), 2);
  EXPECT_EQ(trained(100, 10), 10);
  EXPECT_EQ(trained(0.57, 100), 57);
  for (const Amount none : {Amount(0), Amount(0.0)}) {
    const auto outcome = fit({.max_epochs = 1, .limit_train_batches = none}, 10, 1);
    EXPECT_EQ(outcome.result.epochs, 0);
    EXPECT_EQ(outcome.watch.val_batches + outcome.watch.sanity_batches + outcome.watch.train_starts, 0);
  }
  const auto validated = [](Amount limit) {
    return fit({.max_epochs = 1, .limit_val_batches = limit}, 2, 4).watch.val_batches;
  };
  EXPECT_EQ(validated(0), 0);
  EXPECT_EQ(validated(1), 1);
  EXPECT_EQ(validated(0.5), 2);
  const auto sanity = [](std::int64_t steps) {
    return fit({.max_epochs = 1, .num_sanity_val_steps = steps}, 2, 5).watch.sanity_batches;
  };
  EXPECT_EQ(sanity(2), 2);
  EXPECT_EQ(sanity(-1), 5);
  EXPECT_EQ(sanity(0), 0);
  EXPECT_EQ(sanity(100), 5);
  const auto empty = fit({.max_epochs = 3}, 0);
  EXPECT_EQ(empty.result.reason, StopReason::no_data);
  EXPECT_EQ(empty.watch.train_starts, 0);
  const auto trial = fit({.max_epochs = 2, .fast_dev_run = 3}, 6, 6);
  EXPECT_EQ(trial.watch.batches, 3);
  EXPECT_EQ(trial.watch.val_batches, 3);
  EXPECT_EQ(fit({.max_epochs = 1, .fast_dev_run = 0}, 6).watch.batches, 6);
}

TEST(Limits, FastDevRunWritesNothing) {
  const TempFolder dir;
  auto watch = std::make_shared<Watch>();
  Trainer trainer({.max_epochs = 2,
                   .fast_dev_run = true,
                   .callbacks = {watch, CurvePlot()},
                   .default_root_dir = dir.path(),
                   .seed = 1,
                   .sink = [](std::string_view) {}});
  Probe probe;
  trainer.fit(probe, counting_loader(6), counting_loader(6));
  EXPECT_EQ(watch->batches, 1);
  EXPECT_EQ(watch->val_batches, 1);
  EXPECT_EQ(watch->sanity_batches, 0);
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

TEST(Validation, WhenItIsDue) {
  const auto at = [](TrainerOptions options, std::int64_t n) { return fit(options, n, 1).watch.checks; };
  EXPECT_EQ(at({.max_epochs = 1, .val_check_interval = 0.25}, 10), (Checks{2, 4, 6, 8, 10}));
  EXPECT_EQ(at({.max_epochs = 1, .val_check_interval = 0.3}, 10), (Checks{3, 6, 9}));
  EXPECT_EQ(at({.max_epochs = 1, .val_check_interval = 0.01}, 10), (Checks{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}));
  EXPECT_EQ(at({.max_epochs = 1, .val_check_interval = 1}, 10), (Checks{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}));
  EXPECT_EQ(at({.max_epochs = 1}, 10), (Checks{10}));
  EXPECT_EQ(at({.max_epochs = 1, .val_check_interval = 4}, 10), (Checks{4, 8}));
  EXPECT_EQ(at({.max_epochs = 1, .val_check_interval = 2.0}, 5), (Checks{2, 4}));
  EXPECT_EQ(at({.max_epochs = 3, .val_check_interval = 7, .check_val_every_n_epoch = std::nullopt}, 5),
            (Checks{7, 14}));
  EXPECT_EQ(at({.max_epochs = 2, .check_val_every_n_epoch = std::nullopt}, 5), (Checks{5, 10}));
  EXPECT_EQ(at({.max_epochs = 5, .check_val_every_n_epoch = 2}, 3), (Checks{6, 12}));
  EXPECT_EQ(at({.max_epochs = 3, .val_check_interval = 2, .check_val_every_n_epoch = 2}, 4), (Checks{6, 8}));
  EXPECT_EQ(at({.max_epochs = 1, .limit_train_batches = 4, .val_check_interval = 0.5}, 10), (Checks{2, 4}));
  EXPECT_EQ(at({.max_epochs = -1, .max_steps = 6, .val_check_interval = 4}, 10), (Checks{4}));
}

TEST(Validation, NeedsALoaderAndAStep) {
  std::string text;
  TrainerOptions options = quiet({.max_epochs = 1});
  options.sink = [&](std::string_view line) { text += line; };
  auto watch = std::make_shared<Watch>();
  options.callbacks = {watch};
  struct WithoutStep : TrainingModule {
    nn::Parameter weight{{this, "weight"}, zeros({1})};
    Tensor training_step(const Batch&, StepContext&) override { return sum(weight); }
    OptimizerConfig configure_optimizers() override { return {optim::SGD(parameters(), {.lr = 0.1})}; }
  } without_step;
  Trainer(options).fit(without_step, counting_loader(1), counting_loader(1));
  EXPECT_NE(text.find("a loader for validation, but the module has no validation_step"), std::string::npos) << text;
  EXPECT_EQ(watch->val_batches + watch->sanity_batches, 0);
  text.clear();
  Trainer(options).fit(without_step, counting_loader(1));
  EXPECT_EQ(text, "");

  Probe probe;
  Trainer(options).fit(probe, counting_loader(1));
  EXPECT_NE(text.find("a validation_step, but there is no loader for it"), std::string::npos) << text;
  text.clear();
  Trainer(options).fit(probe, counting_loader(1), counting_loader(1));
  TrainingModule& unknown = probe;  // its type does not tell what it overrides
  Trainer(options).fit(unknown, counting_loader(1));
  options.limit_val_batches = 0;
  Trainer(options).fit(probe, counting_loader(1));
  EXPECT_EQ(text, "");
}

std::shared_ptr<Callback> stop_at(std::int64_t batch) {
  return std::make_shared<AtBatchEnd>([=](Trainer& trainer, std::int64_t i) {
    if (i == batch) trainer.stop();
  });
}

TEST(Stopping, WaitsForMinimaAndWindows) {
  const auto plain = fit({.max_epochs = 9}, 6, 1, stop_at(2));
  EXPECT_EQ(plain.result.global_step, 3);
  EXPECT_EQ(plain.result.epochs, 1);
  EXPECT_EQ(plain.result.reason, StopReason::stopped);
  EXPECT_EQ(plain.watch.checks, Checks{3});
  EXPECT_EQ(plain.watch.epoch_ends, 1);
  const auto steps = fit({.max_epochs = 9, .min_steps = 10}, 6, 1, stop_at(2));
  EXPECT_EQ(steps.result.global_step, 10);
  EXPECT_EQ(steps.watch.checks, (Checks{6, 10}));
  const auto epochs = fit({.max_epochs = 9, .min_epochs = 2}, 6, 1, stop_at(2));
  EXPECT_EQ(epochs.result.global_step, 12);
  EXPECT_EQ(epochs.result.epochs, 2);
  const auto window = fit({.max_epochs = 9, .accumulate_grad_batches = 4}, 6, 0, stop_at(2));
  EXPECT_EQ(window.watch.batches, 4);
  EXPECT_EQ(window.result.global_step, 1);
  const auto no_check = fit({.max_epochs = 9, .check_val_every_n_epoch = 2}, 6, 1, stop_at(2));
  EXPECT_EQ(no_check.result.global_step, 3);
  EXPECT_EQ(no_check.watch.checks, Checks()) << "the epoch is none of those that have checks";
}

TEST(Stopping, SaysOnceThatItWaits) {
  std::string text;
  TrainerOptions options = quiet({.max_epochs = 9, .min_epochs = 2, .callbacks = {stop_at(2)}});
  options.sink = [&](std::string_view line) { text += line; };
  Probe probe;
  EXPECT_EQ(Trainer(options).fit(probe, counting_loader(6), counting_loader(1)).global_step, 12);
  EXPECT_EQ(text, "a request to stop waits for min_epochs (2) and min_steps (0)\n");
}

// Records the gradient at each step.
struct Gradients : Callback {
  std::vector<double> values;
  void on_before_optimizer_step(Trainer&, TrainingModule& module, optim::Optimizer&) override {
    values.push_back(module.parameters()[0].tensor.grad().item());
  }
};

TEST(Accumulation, MeanOverTheTrueWindow) {
  auto gradients = std::make_shared<Gradients>();
  // The gradient of batch i is i + 1.
  const auto outcome = fit({.max_epochs = 2, .accumulate_grad_batches = 4}, 10, 0, gradients);
  EXPECT_EQ(outcome.result.global_step, 6);
  EXPECT_EQ(gradients->values, (std::vector<double>{2.5, 6.5, 9.5, 2.5, 6.5, 9.5}));
  auto one = std::make_shared<Gradients>();
  fit({.max_epochs = 1, .accumulate_grad_batches = 100}, 3, 0, one);
  EXPECT_EQ(one->values, (std::vector<double>{2}));

  struct Losses : Callback {
    std::vector<double> values;
    void on_train_batch_end(Trainer&, TrainingModule&, const Tensor& loss, const Batch&, StepContext&) override {
      values.push_back(loss.item());
    }
  };
  // The gradient is 1, and the loss 8 until the first step.
  struct Eight : Probe {
    Tensor training_step(const Batch&, StepContext&) override { return sum(weight) + 8.0; }
  } module;
  gradients = std::make_shared<Gradients>();
  const auto losses = std::make_shared<Losses>();
  Trainer(quiet({.max_epochs = 1, .accumulate_grad_batches = 4, .callbacks = {gradients, losses}}))
      .fit(module, counting_loader(10));
  EXPECT_EQ(gradients->values, (std::vector<double>{1, 1, 1}));
  ASSERT_EQ(losses->values.size(), 10U);
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(losses->values[i], 8) << "not divided";
}

TEST(Accumulation, EqualsOneLargeBatch) {
  struct Model : TrainingModule {
    nn::Linear fc{{this, "fc"}, 3, 1};
    Model() { to(DType::f64); }
    Tensor training_step(const Batch& batch, StepContext&) override { return mse_loss(fc(batch["x"]), batch["y"]); }
    OptimizerConfig configure_optimizers() override { return {optim::AdamW(parameters(), {.lr = 1e-2})}; }
  };
  Generator generator(5);
  const Tensor x = randn({160, 3}, {.dtype = DType::f64}, generator),
               y = randn({160, 1}, {.dtype = DType::f64}, generator);
  const auto train = [&](std::int64_t batch, std::int64_t k) {
    manual_seed(3);
    Model model;
    Trainer trainer(quiet({.max_epochs = 1, .accumulate_grad_batches = k}));
    EXPECT_EQ(trainer.fit(model, DataLoader(TensorDataset{{"x", x}, {"y", y}}, {.batch_size = batch})).global_step, 20);
    return model.fc.weight.to_vector();
  };
  const auto small = train(2, 4), large = train(8, 1);
  for (std::size_t i = 0; i < small.size(); ++i) EXPECT_NEAR(small[i], large[i], 1e-12);
}

TEST(Steps, WithoutLoss) {
  struct Some : Probe {
    std::int64_t without = 0, steps = 0;
    void optimizer_step(optim::Optimizer& optimizer) override { ++steps, Probe::optimizer_step(optimizer); }
    Tensor training_step(const Batch& batch, StepContext& step) override {
      return step.batch_idx() == without ? Tensor() : Probe::training_step(batch, step);
    }
  };
  for (const std::int64_t k : {1, 2}) {
    auto gradients = std::make_shared<Gradients>();
    Trainer trainer(quiet({.max_epochs = 1, .accumulate_grad_batches = k, .callbacks = {gradients}}));
    Some module;
    module.without = k == 1 ? 1 : 0;
    EXPECT_EQ(trainer.fit(module, counting_loader(k == 1 ? 3 : 2)).global_step, k == 1 ? 2 : 1);
    EXPECT_EQ(module.steps, k == 1 ? 2 : 1);
    EXPECT_EQ(gradients->values, (k == 1 ? std::vector<double>{1, 3} : std::vector<double>{2}));
  }
}

TEST(Schedules, MoveByStepsOrEpochs) {
  struct Scheduled : Probe {
    Interval interval = Interval::step;
    std::int64_t frequency = 1;
    OptimizerConfig configure_optimizers() override {
      return {optim::SGD(parameters(), {.lr = 1}), optim::exponential_lr(0.5), interval, frequency};
    }
  };
  const auto rates = [](Interval interval, std::int64_t frequency, std::int64_t k, std::int64_t n,
                        std::int64_t epochs) {
    std::vector<double> seen;
    Trainer trainer(quiet(
        {.max_epochs = epochs, .accumulate_grad_batches = k, .callbacks = {AtBatchEnd([&](Trainer& t, std::int64_t) {
                                                               seen.push_back(-std::log2(t.optimizer()->lr()));
                                                             })}}));
    Scheduled module;
    module.interval = interval;
    module.frequency = frequency;
    trainer.fit(module, counting_loader(n));
    return seen;
  };
  using Rates = std::vector<double>;
  EXPECT_EQ(rates(Interval::step, 1, 1, 4, 1), (Rates{1, 2, 3, 4}));
  EXPECT_EQ(rates(Interval::step, 3, 1, 4, 2), (Rates{0, 0, 1, 1, 1, 2, 2, 2}));
  EXPECT_EQ(rates(Interval::step, 3, 1, 4, 3), (Rates{0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4}));
  EXPECT_EQ(rates(Interval::step, 1, 2, 4, 1), (Rates{0, 1, 1, 2}));
  EXPECT_EQ(rates(Interval::step, 3, 2, 4, 3), (Rates{0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2}));
  EXPECT_EQ(rates(Interval::epoch, 1, 1, 4, 1), (Rates{0, 0, 0, 1}));
  EXPECT_EQ(rates(Interval::epoch, 1, 1, 2, 2), (Rates{0, 1, 1, 2}));
  EXPECT_EQ(rates(Interval::epoch, 2, 1, 2, 2), (Rates{0, 0, 0, 1}));
}

TEST(OverfitBatches, EveryEpochSeesTheSameFirstBatches) {
  Probe probe;
  std::vector<double> seen;
  probe.in_training_step = [&](const Batch& batch, StepContext&) { seen.push_back(batch["x"].item()); };
  auto watch = std::make_shared<Watch>();
  std::string text;
  TrainerOptions options = quiet({.max_epochs = 2,
                                  .limit_train_batches = 5,
                                  .overfit_batches = 0.3,
                                  .num_sanity_val_steps = 0,
                                  .callbacks = {watch}});
  options.sink = [&](std::string_view line) { text += line; };
  const Tensor x = arange(10).to(DType::f32).reshape({10, 1});
  const DataLoader shuffled(TensorDataset{{"x", x}}, {.shuffle = true});
  Trainer(options).fit(probe, shuffled, shuffled);
  EXPECT_EQ(seen, (std::vector<double>{0, 1, 2, 0, 1, 2}));
  EXPECT_EQ(watch->val_batches, 6);
  EXPECT_NE(text.find("overfit_batches"), std::string::npos);
  EXPECT_THROW(Trainer(quiet({.overfit_batches = -1})), ConfigError);
  using Batches = std::pair<std::int64_t, std::int64_t>;
  const auto batches = [](TrainerOptions limits) {
    limits.max_epochs = 1;
    const auto run = fit(limits, 10, 4);
    return Batches(run.watch.batches, run.watch.val_batches);
  };
  EXPECT_EQ(batches({.overfit_batches = 2}), Batches(2, 2));
  EXPECT_EQ(batches({.overfit_batches = 0.5}), Batches(5, 2));
  EXPECT_EQ(batches({.limit_train_batches = 5, .overfit_batches = 2}), Batches(2, 2));
  EXPECT_TRUE(Trainer(quiet({.overfit_batches = 2})).options().limit_test_batches.is_all());
}

TEST(Runs, EachFitStartsAnew) {
  Trainer trainer(quiet({.max_epochs = 1}));
  Probe probe;
  trainer.fit(probe, counting_loader(2));
  EXPECT_EQ(trainer.fit(probe, counting_loader(2)).global_step, 2);
  EXPECT_NEAR(probe.weight.item(), -0.6, 1e-6);
}

TEST(Runs, AMissingPartIsNamed) {
  struct Empty : TrainingModule {
    nn::Parameter weight{{this, "weight"}, zeros({1})};
  };
  Empty empty;
  Trainer trainer(quiet({.max_epochs = 1}));
  EXPECT_TRUE(message_of<ConfigError>([&] { trainer.fit(empty, counting_loader(1)); }).starts_with("training_step"));
  EXPECT_TRUE(message_of<ConfigError>([&] { trainer.test(empty, counting_loader(1)); }).starts_with("test_step"));
  EXPECT_TRUE(
      message_of<ConfigError>([&] { trainer.validate(empty, counting_loader(1)); }).starts_with("validation_step"));
}

TEST(Runs, WithoutAnOptimizerNothingIsCounted) {
  struct Fixed : Probe {
    OptimizerConfig configure_optimizers() override { return {}; }
  } module;
  auto watch = std::make_shared<Watch>();
  std::string text;
  TrainerOptions options = quiet({.max_epochs = 2, .callbacks = {watch}});
  options.sink = [&](std::string_view line) { text += line; };
  const FitResult result = Trainer(options).fit(module, counting_loader(3));
  EXPECT_EQ(result.global_step, 0);
  EXPECT_EQ(result.epochs, 2);
  EXPECT_EQ(watch->batches, 6);
  EXPECT_EQ(module.weight.item(), 0);
  EXPECT_NE(text.find("configure_optimizers returned no optimizer"), std::string::npos) << text;
}

TEST(Runs, ALossThatCannotBeLoweredIsAnError) {
  struct Other : Probe {
    std::function<Tensor(const Tensor&)> loss;
    Tensor training_step(const Batch&, StepContext&) override { return loss(weight); }
  } module;
  const auto message = [&](std::function<Tensor(const Tensor&)> loss) {
    module.loss = std::move(loss);
    return message_of<Error>([&] { Trainer(quiet({.max_epochs = 1})).fit(module, counting_loader(1)); });
  };
  EXPECT_NE(message([](const Tensor& w) { return w.expand({3}) * 2.0; }).find("got [3]"), std::string::npos);
  EXPECT_NE(message([](const Tensor&) { return ones({}); }).find("without gradient"), std::string::npos);
}

}  // namespace
}  // namespace anneal_test
