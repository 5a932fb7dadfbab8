// The order of hooks, what surrounds validation, and the way out by an exception.
#include <gtest/gtest.h>

#include "anneal/core/autograd.h"
#include "anneal/tests/trainer/support.h"

namespace anneal_test {
namespace {

using Log = std::vector<std::string>;

// Every hook of callbacks writes "C <hook>", of the module "M <hook>".
struct Recorder : Callback {
  explicit Recorder(Log* log) : log(log) {}
  Log* log;
  void note(const char* hook) { log->push_back(std::string("C ") + hook); }
  void setup(Trainer&, TrainingModule&, Stage) override { note("setup"); }
  void teardown(Trainer&, TrainingModule&, Stage) override { note("teardown"); }
  void on_exception(Trainer&, TrainingModule&, const std::exception_ptr&) override { note("on_exception"); }
  void on_fit_start(Trainer&, TrainingModule&) override { note("on_fit_start"); }
  void on_fit_end(Trainer&, TrainingModule&) override { note("on_fit_end"); }
  void on_sanity_check_start(Trainer&, TrainingModule&) override { note("on_sanity_check_start"); }
  void on_sanity_check_end(Trainer&, TrainingModule&) override { note("on_sanity_check_end"); }
  void on_train_start(Trainer&, TrainingModule&) override { note("on_train_start"); }
  void on_train_end(Trainer&, TrainingModule&) override { note("on_train_end"); }
  void on_train_epoch_start(Trainer&, TrainingModule&) override { note("on_train_epoch_start"); }
  void on_train_epoch_end(Trainer&, TrainingModule&) override { note("on_train_epoch_end"); }
  void on_train_batch_start(Trainer&, TrainingModule&, const Batch&, StepContext&) override {
    note("on_train_batch_start");
  }
  void on_train_batch_end(Trainer&, TrainingModule&, const Tensor&, const Batch&, StepContext&) override {
    note("on_train_batch_end");
  }
  void on_before_zero_grad(Trainer&, TrainingModule&, optim::Optimizer&) override { note("on_before_zero_grad"); }
  void on_before_backward(Trainer&, TrainingModule&, const Tensor&) override { note("on_before_backward"); }
  void on_after_backward(Trainer&, TrainingModule&) override { note("on_after_backward"); }
  void on_before_optimizer_step(Trainer&, TrainingModule&, optim::Optimizer&) override {
    note("on_before_optimizer_step");
  }
  void on_validation_start(Trainer&, TrainingModule&) override { note("on_validation_start"); }
  void on_validation_end(Trainer&, TrainingModule&) override { note("on_validation_end"); }
  void on_validation_epoch_start(Trainer&, TrainingModule&) override { note("on_validation_epoch_start"); }
  void on_validation_epoch_end(Trainer&, TrainingModule&) override { note("on_validation_epoch_end"); }
  void on_validation_batch_start(Trainer&, TrainingModule&, const Batch&, StepContext&) override {
    note("on_validation_batch_start");
  }
  void on_validation_batch_end(Trainer&, TrainingModule&, const Batch&, StepContext&) override {
    note("on_validation_batch_end");
  }
};

// The same, but called when the epoch's metrics are there.
struct Monitor : Callback {
  explicit Monitor(Log* log) : log(log) {}
  Log* log;
  bool monitors() const override { return true; }
  void on_train_epoch_end(Trainer&, TrainingModule&) override { log->push_back("C monitor"); }
};

struct Recorded : Probe {
  Log* log = nullptr;
  std::optional<Interval> interval = {};  // of a schedule
  void note(const char* hook) { log->push_back(std::string("M ") + hook); }
  Tensor training_step(const Batch& batch, StepContext& step) override {
    return note("training_step"), Probe::training_step(batch, step);
  }
  void validation_step(const Batch&, StepContext&) override { note("validation_step"); }
  OptimizerConfig configure_optimizers() override {
    note("configure_optimizers");
    if (!interval) return Probe::configure_optimizers();
    return {optim::SGD(parameters(), {.lr = 0.1}), optim::constant_lr(), *interval};
  }
  void setup(Stage) override { note("setup"); }
  void teardown(Stage) override { note("teardown"); }
  void on_fit_start() override { note("on_fit_start"); }
  void on_fit_end() override { note("on_fit_end"); }
  void on_train_start() override { note("on_train_start"); }
  void on_train_end() override { note("on_train_end"); }
  void on_train_epoch_start() override { note("on_train_epoch_start"); }
  void on_train_epoch_end() override { note("on_train_epoch_end"); }
  void on_train_batch_start(const Batch&, StepContext&) override { note("on_train_batch_start"); }
  void on_train_batch_end(const Tensor&, const Batch&, StepContext&) override { note("on_train_batch_end"); }
  void on_before_zero_grad(optim::Optimizer&) override { note("on_before_zero_grad"); }
  void optimizer_zero_grad(optim::Optimizer& o) override { note("optimizer_zero_grad"), Probe::optimizer_zero_grad(o); }
  void on_before_backward(const Tensor&) override { note("on_before_backward"); }
  void backward(const Tensor& loss) override { note("backward"), Probe::backward(loss); }
  void on_after_backward() override { note("on_after_backward"); }
  void on_before_optimizer_step(optim::Optimizer&) override { note("on_before_optimizer_step"); }
  void optimizer_step(optim::Optimizer& o) override { note("optimizer_step"), Probe::optimizer_step(o); }
  void lr_scheduler_step(optim::LRScheduler& s) override { note("lr_scheduler_step"), Probe::lr_scheduler_step(s); }
  void on_validation_model_eval() override { note("on_validation_model_eval"), Probe::on_validation_model_eval(); }
  void on_validation_model_train() override { note("on_validation_model_train"); }
  void on_validation_model_zero_grad() override { note("on_validation_model_zero_grad"); }
  void on_validation_start() override { note("on_validation_start"); }
  void on_validation_end() override { note("on_validation_end"); }
  void on_validation_epoch_start() override { note("on_validation_epoch_start"); }
  void on_validation_epoch_end() override { note("on_validation_epoch_end"); }
  void on_validation_batch_start(const Batch&, StepContext&) override { note("on_validation_batch_start"); }
  void on_validation_batch_end(const Batch&, StepContext&) override { note("on_validation_batch_end"); }
};

void both(Log& log, const std::string& hook) {
  log.push_back("C " + hook);
  log.push_back("M " + hook);
}

// The specification's order of one evaluation with one batch.
void evaluation(Log& log) {
  log.push_back("M on_validation_model_eval");
  for (const char* hook : {"on_validation_start", "on_validation_epoch_start", "on_validation_batch_start"})
    both(log, hook);
  log.push_back("M validation_step");
  for (const char* hook : {"on_validation_batch_end", "on_validation_epoch_end", "on_validation_end"}) both(log, hook);
  log.push_back("M on_validation_model_train");
}

void batch(Log& log, bool first_of_window, bool last_of_window, bool schedule_moves) {
  both(log, "on_train_batch_start");
  log.push_back("M training_step");
  if (first_of_window) {
    both(log, "on_before_zero_grad");
    log.push_back("M optimizer_zero_grad");
  }
  both(log, "on_before_backward");
  log.push_back("M backward");
  both(log, "on_after_backward");
  if (last_of_window) {
    both(log, "on_before_optimizer_step");
    log.push_back("M optimizer_step");
  }
  if (schedule_moves) log.push_back("M lr_scheduler_step");
  both(log, "on_train_batch_end");
}

void expect_order(Interval interval) {
  Log log, expected;
  Trainer trainer(quiet({.max_epochs = 1,
                         .num_sanity_val_steps = 1,
                         .accumulate_grad_batches = 2,
                         .callbacks = {Monitor(&log), Recorder(&log)}}));
  Recorded module;
  module.log = &log;
  module.interval = interval;
  trainer.fit(module, counting_loader(3), counting_loader(1));

  both(expected, "setup");
  expected.push_back("M configure_optimizers");
  both(expected, "on_fit_start");
  expected.push_back("C on_sanity_check_start");
  evaluation(expected);
  expected.push_back("C on_sanity_check_end");
  both(expected, "on_train_start");
  both(expected, "on_train_epoch_start");
  batch(expected, true, false, false);
  batch(expected, false, true, interval == Interval::step);
  batch(expected, true, true, true);
  expected.push_back("M on_validation_model_zero_grad");
  evaluation(expected);
  both(expected, "on_train_epoch_end");
  expected.push_back("C monitor");
  both(expected, "on_train_end");
  both(expected, "on_fit_end");
  both(expected, "teardown");
  EXPECT_EQ(log, expected);
}

TEST(Hooks, OrderIsTheSpecifications) {
  for (const Interval interval : {Interval::step, Interval::epoch}) expect_order(interval);
}

TEST(Hooks, CallbacksComeInTheirOrderAndBeforeTheModule) {
  Log log;
  const auto noting = [&](const char* name) {
    return LambdaCallback({.on_train_start = [&log, name](Trainer&, TrainingModule&) { log.emplace_back(name); },
                           .on_train_epoch_end = [&log, name](Trainer&, TrainingModule&) { log.emplace_back(name); }});
  };
  struct Last : Probe {
    Log* log;
    void on_train_start() override { log->emplace_back("module"); }
    void on_train_epoch_end() override { log->emplace_back("module"); }
  } module;
  module.log = &log;
  Trainer(quiet({.max_epochs = 1, .callbacks = {noting("a"), noting("b"), Monitor(&log), noting("c")}}))
      .fit(module, counting_loader(1));
  EXPECT_EQ(log, (Log{"a", "b", "c", "module", "a", "b", "c", "module", "C monitor"}));
}

TEST(Hooks, CountersInHooks) {
  struct Counters : Callback {
    std::vector<std::int64_t> epochs, at_end, total;
    void on_train_batch_start(Trainer& t, TrainingModule&, const Batch&, StepContext&) override {
      total.push_back(t.total_batch_idx());
    }
    void on_train_epoch_end(Trainer& t, TrainingModule&) override { epochs.push_back(t.current_epoch()); }
    void on_train_end(Trainer& t, TrainingModule&) override { at_end.push_back(t.current_epoch()); }
    void on_train_batch_end(Trainer& t, TrainingModule&, const Tensor&, const Batch&, StepContext& step) override {
      EXPECT_EQ(t.batch_idx(), step.batch_idx());
      EXPECT_EQ(t.is_last_batch(), step.batch_idx() == 1);
      EXPECT_EQ(t.total_batch_idx(), total.back());
      EXPECT_EQ(t.global_step(), total.back() + 1);
    }
  };
  auto counters = std::make_shared<Counters>();
  Trainer trainer(quiet({.max_epochs = 2, .callbacks = {counters}}));
  Probe probe;
  trainer.fit(probe, counting_loader(2));
  EXPECT_EQ(counters->epochs, (std::vector<std::int64_t>{0, 1}));
  EXPECT_EQ(counters->at_end, (std::vector<std::int64_t>{2}));
  EXPECT_EQ(counters->total, (std::vector<std::int64_t>{0, 1, 2, 3}));
  Trainer(quiet({.max_epochs = 1, .callbacks = {counters}})).fit(probe, counting_loader(2));
  EXPECT_EQ(counters->at_end.back(), 1);
}

TEST(Validation, ModesAreRestoredOneByOne) {
  struct Model : Probe {
    nn::Dropout frozen{{this, "frozen"}, 0.5}, other{{this, "other"}, 0.5};
    void validation_step(const Batch&, StepContext&) override {
      EXPECT_FALSE(frozen.training() || other.training() || training());
      EXPECT_FALSE(grad_enabled());
    }
    Tensor training_step(const Batch& batch, StepContext& step) override {
      EXPECT_TRUE(other.training() && training() && grad_enabled());
      EXPECT_FALSE(frozen.training());
      return Probe::training_step(batch, step);
    }
  } model;
  model.frozen.eval();
  std::string text;
  TrainerOptions options = quiet({.max_epochs = 2});
  options.sink = [&](std::string_view line) { text += line; };
  Trainer(options).fit(model, counting_loader(2), counting_loader(1));
  EXPECT_NE(text.find("modules in eval mode, which are trained so: 1"), std::string::npos) << text;
  EXPECT_FALSE(model.frozen.training());
  EXPECT_TRUE(model.other.training());
}

// Training and validation both draw random numbers.
struct Noisy : Probe {
  Tensor training_step(const Batch&, StepContext&) override { return sum(weight * rand({1})); }
  void validation_step(const Batch&, StepContext& step) override { step.log("noise", rand({1})); }
};
double noisy_weight(TrainerOptions options, bool validates = true) {
  Trainer trainer(quiet(options));
  Noisy noisy;
  const DataLoader train = counting_loader(4), val = counting_loader(3);
  if (validates) trainer.fit(noisy, train, val);
  else trainer.fit(noisy, train);
  return noisy.weight.item();
}

TEST(Validation, DoesNotMoveTheRandomNumbersOfTraining) {
  const double weight = noisy_weight({.max_epochs = 2}, false);
  EXPECT_NE(weight, 0);
  EXPECT_EQ(weight, noisy_weight({.max_epochs = 2}));
  EXPECT_EQ(weight, noisy_weight({.max_epochs = 2, .val_check_interval = 1}));
  EXPECT_EQ(weight, noisy_weight({.max_epochs = 2, .num_sanity_val_steps = 0}));
  EXPECT_NE(weight, noisy_weight({.max_epochs = 2, .seed = 2}));
}

TEST(SanityCheck, LeavesNoMetrics) {
  struct Empty : Callback {
    void on_train_start(Trainer& trainer, TrainingModule&) override {
      EXPECT_TRUE(trainer.callback_metrics().empty() && trainer.logged_metrics().empty() &&
                  trainer.progress_bar_metrics().empty());
      EXPECT_EQ(trainer.num_checks(), 0);
    }
  };
  Noisy noisy;
  Trainer trainer(quiet({.max_epochs = 1, .callbacks = {Empty()}}));
  trainer.fit(noisy, counting_loader(1), counting_loader(1));
  EXPECT_TRUE(trainer.callback_metrics().contains("noise"));
}

TEST(SanityCheck, IsNotForARunThatGoesOn) {
  const TempFolder dir;
  const std::string path = (dir / "c.safetensors").string();
  auto watch = std::make_shared<Watch>();
  Probe probe;
  const auto fit = [&](const FitOptions& options) {
    Trainer trainer(quiet({.max_epochs = 2, .callbacks = {watch, AtBatchEnd([&](Trainer& t, std::int64_t) {
                                                            if (t.global_step() == 2) t.save_checkpoint(path);
                                                          })}}));
    trainer.fit(probe, counting_loader(2), counting_loader(1), options);
  };
  fit({});
  EXPECT_EQ(watch->sanity_batches, 1);
  fit({.resume = path});
  EXPECT_EQ(watch->sanity_batches, 1);
  EXPECT_EQ(watch->val_batches, 2 + 2);
}

TEST(Exceptions, LoggersAndTheStatusTellOfThem) {
  struct Ends : Logger {
    Log all;
    void log_metrics(const MetricMap&, std::int64_t) override {}
    void finalize(std::string_view status) override { all.emplace_back(status); }
    fs::path log_dir() const override { return "."; }
  };
  const auto ends = std::make_shared<Ends>();
  TrainerOptions options{.max_epochs = 1};
  options.logger = ends;
  Trainer trainer(quiet(options));
  EXPECT_EQ(trainer.status(), RunStatus::none);
  Probe probe;
  probe.in_training_step = [&](const Batch&, StepContext&) {
    EXPECT_EQ(trainer.status(), RunStatus::running);
    throw Error("no");
  };
  EXPECT_THROW(trainer.fit(probe, counting_loader(1)), Error);
  EXPECT_EQ(trainer.status(), RunStatus::interrupted);
  probe.in_training_step = nullptr;
  trainer.fit(probe, counting_loader(1));
  EXPECT_EQ(trainer.status(), RunStatus::finished);
  EXPECT_EQ(ends->all, (Log{"failed", "success"}));
}

TEST(Exceptions, EndTheRunAndArriveUnchanged) {
  struct Odd {
    int number;
  };
  Log log;
  Recorded module;
  module.log = &log;
  module.in_training_step = [](const Batch&, StepContext& step) {
    if (step.batch_idx() == 1) throw Odd{7};
  };
  Trainer trainer(quiet({.max_epochs = 2, .callbacks = {Recorder(&log)}}));
  try {
    trainer.fit(module, counting_loader(3));
    FAIL();
  } catch (const Odd& odd) { EXPECT_EQ(odd.number, 7); }
  EXPECT_EQ(std::count(log.begin(), log.end(), "C on_exception"), 1);
  EXPECT_EQ(std::count(log.begin(), log.end(), "C on_train_epoch_end"), 0);
  EXPECT_EQ(std::count(log.begin(), log.end(), "C on_train_end"), 0);
  EXPECT_EQ((Log{log.end() - 3, log.end()}), (Log{"C on_exception", "C teardown", "M teardown"}));
  // The Trainer can be used again, and the module is free.
  module.in_training_step = nullptr;
  EXPECT_EQ(trainer.fit(module, counting_loader(3)).global_step, 6);
  EXPECT_THROW(module.trainer(), Error);
}

TEST(Exceptions, TheFirstIsNotHidden) {
  struct Bad : Callback {
    void on_exception(Trainer&, TrainingModule&, const std::exception_ptr&) override { throw Error("second"); }
    void teardown(Trainer&, TrainingModule&, Stage) override { throw Error("third"); }
  };
  Probe probe;
  probe.in_training_step = [](const Batch&, StepContext&) { throw Error("first"); };
  std::string text;
  TrainerOptions options = quiet({.max_epochs = 1, .callbacks = {Bad()}});
  options.sink = [&](std::string_view line) { text += line; };
  EXPECT_EQ(message_of<Error>([&] { Trainer(options).fit(probe, counting_loader(1)); }), "first");
  EXPECT_NE(text.find("second"), std::string::npos);
  EXPECT_NE(text.find("third"), std::string::npos);
}

TEST(Anomalies, AreFoundIfAskedFor) {
  struct Bad : Probe {
    Tensor training_step(const Batch&, StepContext&) override { return sum(weight / 0.0 * 0.0); }
  } bad;
  EXPECT_THROW(Trainer(quiet({.max_epochs = 1, .detect_anomaly = true})).fit(bad, counting_loader(1)), Error);
  EXPECT_EQ(Trainer(quiet({.max_epochs = 1})).fit(bad, counting_loader(1)).global_step, 1);
}

TEST(Hooks, TheModulesLayersMustBeRegistered) {
  struct Forgotten : Probe {
    nn::Linear lost{2, 2};
  } forgotten;
  EXPECT_THROW(Trainer(quiet({.max_epochs = 1})).fit(forgotten, counting_loader(1)), Error);
}

}  // namespace
}  // namespace anneal_test
