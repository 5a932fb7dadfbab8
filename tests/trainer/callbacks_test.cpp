// The small callbacks: learning rates, summary, functions, time and failures.
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>

#include "anneal/tests/trainer/support.h"
#include "anneal/trainer/checkpoint.h"

namespace anneal_test {
namespace {

using Texts = std::vector<std::string>;

// ---- LearningRateMonitor ----

struct Rows : Logger {
  Texts rows;
  void log_metrics(const MetricMap& metrics, std::int64_t step) override {
    std::string row = std::to_string(step) + ":";
    for (const auto& [name, value] : metrics) row += format(" {}={}", name, value);
    rows.push_back(row);
  }
  fs::path log_dir() const override { return "."; }
};

struct Configured : Probe {
  std::function<OptimizerConfig(Configured&)> configure;
  nn::Parameter second{{this, "second"}, zeros({1})};
  OptimizerConfig configure_optimizers() override { return configure(*this); }
};

// What two epochs of three batches write, with a row of step metrics every two.
Texts rows_of(LearningRateMonitorOptions options, std::function<OptimizerConfig(Configured&)> configure,
              std::int64_t accumulate = 1) {
  const auto rows = std::make_shared<Rows>();
  Configured module;
  module.configure = std::move(configure);
  Trainer trainer(quiet({.max_epochs = 2,
                         .log_every_n_steps = accumulate == 1 ? 2 : 1,
                         .accumulate_grad_batches = accumulate,
                         .logger = rows,
                         .callbacks = {LearningRateMonitor(options)}}));
  trainer.fit(module, counting_loader(3));
  return rows->rows;
}
OptimizerConfig halving(Configured& module, Interval interval) {
  return {optim::SGD(module.parameters(), {.lr = 1}), optim::step_lr(1, 0.5), interval};
}
OptimizerConfig halving_each_step(Configured& module) { return halving(module, Interval::step); }
OptimizerConfig halving_each_epoch(Configured& module) { return halving(module, Interval::epoch); }
OptimizerConfig unscheduled(Configured& module) { return {optim::SGD(module.parameters(), {.lr = 1})}; }

TEST(LearningRateMonitor, ShowsTheRateThatAStepWasMadeWith) {
  const Texts steps{"2: lr-SGD=0.5 epoch=0", "4: lr-SGD=0.125 epoch=1", "6: lr-SGD=0.03125 epoch=1"};
  EXPECT_EQ(rows_of({}, halving_each_step), steps);
  EXPECT_EQ(rows_of({.logging_interval = Interval::step}, halving_each_step), steps);
}

TEST(LearningRateMonitor, ShowsTheRateThatAnEpochBeganWith) {
  const Texts epochs{"3: lr-SGD=1 epoch=0", "6: lr-SGD=0.5 epoch=1"};
  EXPECT_EQ(rows_of({}, halving_each_epoch), epochs);
  EXPECT_EQ(rows_of({.logging_interval = Interval::epoch}, halving_each_epoch), epochs);
  EXPECT_EQ(rows_of({.logging_interval = Interval::epoch}, halving_each_step),
            (Texts{"3: lr-SGD=1 epoch=0", "6: lr-SGD=0.125 epoch=1"}));
}

TEST(LearningRateMonitor, ShowsBothWithoutASchedule) {
  EXPECT_EQ(rows_of({}, unscheduled), (Texts{"2: lr-SGD=1 epoch=0", "3: lr-SGD=1 epoch=0", "4: lr-SGD=1 epoch=1",
                                             "6: lr-SGD=1 epoch=1", "6: lr-SGD=1 epoch=1"}));
}

TEST(LearningRateMonitor, AWindowHasOneRate) {
  EXPECT_EQ(rows_of({}, halving_each_step, 2), (Texts{"1: lr-SGD=1 epoch=0", "2: lr-SGD=0.5 epoch=0",
                                                      "3: lr-SGD=0.25 epoch=1", "4: lr-SGD=0.125 epoch=1"}));
}

TEST(LearningRateMonitor, NamesGroupsAndTheirOtherNumbers) {
  const auto adam = [](Configured& module) -> OptimizerConfig {
    const std::vector<optim::ParamGroup<optim::AdamOptions>> groups{
        {{{"weight", module.weight}}, {.lr = 0.5, .weight_decay = 0.25}},
        {{{"second", module.second}}, {.lr = 0.125, .beta1 = 0.75}}};
    return {optim::Adam(groups)};
  };
  EXPECT_EQ(rows_of({.logging_interval = Interval::epoch, .log_momentum = true, .log_weight_decay = true}, adam)[0],
            "3: lr-Adam/pg1=0.5 lr-Adam/pg1-momentum=0.9 lr-Adam/pg1-weight_decay=0.25 lr-Adam/pg2=0.125 "
            "lr-Adam/pg2-momentum=0.75 lr-Adam/pg2-weight_decay=0 epoch=0");
  const auto sgd = [](Configured& module) -> OptimizerConfig {
    return {optim::SGD(module.parameters(), {.lr = 1, .momentum = 0.5})};
  };
  EXPECT_EQ(rows_of({.logging_interval = Interval::epoch, .log_momentum = true}, sgd)[0],
            "3: lr-SGD=1 lr-SGD-momentum=0.5 epoch=0");
}

// C-169
TEST(LearningRateMonitor, NamesGroupsByTheirNames) {
  const auto adam = [](bool both) {
    return [both](Configured& module) -> OptimizerConfig {
      std::vector<optim::ParamGroup<optim::AdamOptions>> groups{{{{"weight", module.weight}}, {}, "bb"}};
      if (both) groups.insert(groups.begin(), {{{"second", module.second}}});
      return {optim::Adam(groups)};
    };
  };
  const LearningRateMonitorOptions options{.logging_interval = Interval::epoch, .log_momentum = true};
  EXPECT_EQ(rows_of(options, adam(true))[0],
            "3: lr-Adam/pg1=0.001 lr-Adam/pg1-momentum=0.9 lr-Adam/bb=0.001 lr-Adam/bb-momentum=0.9 epoch=0");
  EXPECT_EQ(rows_of(options, adam(false))[0], "3: lr-Adam/bb=0.001 lr-Adam/bb-momentum=0.9 epoch=0");
  const auto named = [](Configured& module) -> OptimizerConfig {
    return {{.optimizer = optim::SGD(module.parameters(), {.lr = 1}), .name = "myname"}};
  };
  EXPECT_EQ(rows_of({.logging_interval = Interval::epoch}, named)[0], "3: myname=1 epoch=0");
  const auto twice = [](Configured& module) -> OptimizerConfig {
    const std::vector<optim::ParamGroup<optim::SGDOptions>> groups{{{{"weight", module.weight}}, {}, "bb"},
                                                                   {{{"second", module.second}}, {}, "bb"}};
    return {optim::SGD(groups)};
  };
  EXPECT_NE(message_of<ConfigError>([&] { rows_of({}, twice); }).find("bb"), std::string::npos);
}

TEST(LearningRateMonitor, GoesByTheIntervalOfAPlateau) {
  const auto plateau = [](Configured& module) -> OptimizerConfig {
    return {{.optimizer = optim::SGD(module.parameters(), {.lr = 1}),
             .plateau = optim::PlateauOptions{},
             .monitor = "absent",
             .strict = false}};
  };
  EXPECT_EQ(rows_of({}, plateau), (Texts{"3: lr-SGD=1 epoch=0", "6: lr-SGD=1 epoch=1"}));
}

TEST(LearningRateMonitor, WarnsOfAMomentumThatIsNotThere) {
  const auto text_with = [](double momentum) {
    std::string text;
    Configured module;
    module.configure = [&](Configured& m) -> OptimizerConfig {
      return {optim::SGD(m.parameters(), {.momentum = momentum})};
    };
    TrainerOptions options = quiet({.max_epochs = 1,
                                    .log_every_n_steps = 1,
                                    .logger = Rows(),
                                    .callbacks = {LearningRateMonitor({.log_momentum = true})}});
    options.sink = [&](std::string_view line) { text += line; };
    Trainer(options).fit(module, counting_loader(2));
    return text;
  };
  EXPECT_NE(text_with(0).find("log_momentum: lr-SGD"), std::string::npos);
  EXPECT_EQ(text_with(0.5).find("log_momentum"), std::string::npos);
}

TEST(LearningRateMonitor, RatesAreMetrics) {
  std::vector<double> seen;
  Trainer trainer(quiet({.max_epochs = 1,
                         .logger = Rows(),
                         .callbacks = {LearningRateMonitor({.logging_interval = Interval::step}),
                                       AtBatchEnd([&](Trainer& t, std::int64_t batch) {
                                         if (batch > 0) seen.push_back(t.callback_metrics()["lr-SGD"]);
                                       })}}));
  Probe probe;
  trainer.fit(probe, counting_loader(3));
  EXPECT_EQ(seen, (std::vector<double>{0.1, 0.1}));
}

TEST(LearningRateMonitor, NeedsALogger) {
  Probe probe;
  Trainer without(quiet({.max_epochs = 1, .callbacks = {LearningRateMonitor()}}));
  EXPECT_TRUE(message_of<ConfigError>([&] { without.fit(probe, counting_loader(1)); }).starts_with("logger"));
  Trainer trial(quiet({.fast_dev_run = 1, .callbacks = {LearningRateMonitor()}}));
  EXPECT_EQ(trial.fit(probe, counting_loader(1)).global_step, 1);
}

// ---- ModelSummary ----

struct Mixed : Probe {
  Mixed() { frozen.set_requires_grad(false); }
  nn::Linear frozen{{this, "frozen"}, 2, 1};
  nn::Sequential net{{this, "net"}, nn::Linear(2, 300), nn::ReLU(), nn::Linear(300, 1)};
  nn::Buffer running{{this, "running"}, zeros({5}, {.dtype = DType::f64})};
};

TEST(ModelSummary, Counts) {
  Mixed model;
  model.weight = zeros({3});
  model.net.eval();
  const Summary summary = summarize(model);
  EXPECT_EQ(summary.trainable, 1204);
  EXPECT_EQ(summary.non_trainable, 3);
  EXPECT_EQ(summary.parameters(), 1207);
  EXPECT_EQ(summary.other_parameters, 3);
  EXPECT_DOUBLE_EQ(summary.megabytes, (1207 * 4 + 5 * 8) * 1e-6);
  EXPECT_EQ(summary.layers_in_train_mode, 1);
  EXPECT_EQ(summary.layers_in_eval_mode, 4);
  ASSERT_EQ(summary.layers.size(), 2u);
  EXPECT_EQ(summary.text(),
            "  | Name         | Type       | Params | Mode\n"
            "----------------------------------------------\n"
            "0 | frozen       | Linear     | 3      | train\n"
            "1 | net          | Sequential | 1.2 K  | eval\n"
            "  | other params |            | 3      |\n"
            "----------------------------------------------\n"
            "1.2 K     trainable params\n"
            "3         non-trainable params\n"
            "1.2 K     params\n"
            "0.005     MB of params and buffers\n"
            "1         layers in train mode\n"
            "4         layers in eval mode");
}

TEST(ModelSummary, Depth) {
  const Mixed model;
  const auto names = [&](int max_depth) {
    Texts list;
    for (const auto& layer : summarize(model, max_depth).layers) list.push_back(layer.name);
    return list;
  };
  EXPECT_EQ(names(0), Texts());
  EXPECT_EQ(names(1), (Texts{"frozen", "net"}));
  EXPECT_EQ(names(2), (Texts{"frozen", "net", "net.0", "net.1", "net.2"}));
  EXPECT_EQ(names(-1), names(2));
  EXPECT_EQ(summarize(model, 0).parameters(), summarize(model).parameters());
  EXPECT_TRUE(message_of<ConfigError>([&] { summarize(model, -2); }).starts_with("max_depth"));
  EXPECT_TRUE(message_of<ConfigError>([] { ModelSummary({.max_depth = -2}); }).starts_with("max_depth"));
}

TEST(ModelSummary, SharedParametersCountOnce) {
  struct Tied : Probe {
    nn::Linear a{{this, "a"}, 4, 4}, b{{this, "b"}, 4, 4};
  } model;
  model.weight = model.a.weight;
  model.b.weight = model.a.weight;
  const Summary summary = summarize(model);
  EXPECT_EQ(summary.parameters(), 16 + 4 + 4);
  EXPECT_EQ(summary.layers[0].parameters, 20);
  EXPECT_EQ(summary.layers[1].parameters, 20);
  EXPECT_EQ(summary.other_parameters, 0);
}

TEST(ModelSummary, ShortCounts) {
  const std::pair<std::int64_t, const char*> counts[] = {{0, "0"},
                                                         {3, "3"},
                                                         {999, "999"},
                                                         {1234, "1.2 K"},
                                                         {123456, "123 K"},
                                                         {2000000, "2.0 M"},
                                                         {3000000000, "3.0 B"},
                                                         {400000000000000, "400 T"},
                                                         {99000, "99.0 K"},
                                                         {100000, "100 K"},
                                                         {5000000000000000, "5000 T"}};
  for (const auto& [count, text] : counts) EXPECT_EQ(short_count(count), text);
}

TEST(ModelSummary, IsPrintedWhenAFitBegins) {
  const auto printed = [](int max_depth) {
    std::string text;
    TrainerOptions options =
        quiet({.max_epochs = 1, .limit_val_batches = 0, .callbacks = {ModelSummary({.max_depth = max_depth})}});
    options.sink = [&](std::string_view line) { text += line; };
    Mixed model;
    Trainer trainer(options);
    trainer.fit(model, counting_loader(1));
    return text;
  };
  EXPECT_EQ(printed(1), summarize(Mixed()).text() + "\n");
  EXPECT_EQ(printed(0), "");
}

// ---- LambdaCallback ----

TEST(LambdaCallback, CallsEachHookByItsName) {
  std::string calls;
  const auto note = [&](const char* name) { return [&calls, name](auto&&...) { calls += std::string(name) + " "; }; };
  LambdaHooks hooks;
  hooks.setup = note("setup");
  hooks.teardown = note("teardown");
  hooks.on_exception = note("exception");
  hooks.on_fit_start = note("fit_start");
  hooks.on_fit_end = note("fit_end");
  hooks.on_sanity_check_start = note("sanity_start");
  hooks.on_sanity_check_end = note("sanity_end");
  hooks.on_train_start = note("train_start");
  hooks.on_train_end = note("train_end");
  hooks.on_train_epoch_start = note("epoch_start");
  hooks.on_train_epoch_end = note("epoch_end");
  hooks.on_train_batch_start = note("batch_start");
  hooks.on_train_batch_end = note("batch_end");
  hooks.on_before_zero_grad = note("zero_grad");
  hooks.on_before_backward = note("before_backward");
  hooks.on_after_backward = note("after_backward");
  hooks.on_before_optimizer_step = note("step");
  hooks.on_validation_start = note("v_start");
  hooks.on_validation_end = note("v_end");
  hooks.on_validation_epoch_start = note("v_epoch_start");
  hooks.on_validation_epoch_end = note("v_epoch_end");
  hooks.on_validation_batch_start = note("v_batch_start");
  hooks.on_validation_batch_end = note("v_batch_end");
  hooks.on_test_start = note("t_start");
  hooks.on_test_end = note("t_end");
  hooks.on_test_epoch_start = note("t_epoch_start");
  hooks.on_test_epoch_end = note("t_epoch_end");
  hooks.on_test_batch_start = note("t_batch_start");
  hooks.on_test_batch_end = note("t_batch_end");
  Trainer trainer(quiet({.max_epochs = 1, .callbacks = {LambdaCallback(hooks), LambdaCallback({})}}));
  Probe probe;
  const std::string check = "v_start v_epoch_start v_batch_start v_batch_end v_epoch_end v_end ";
  trainer.fit(probe, counting_loader(1), counting_loader(1));
  EXPECT_EQ(calls, "setup fit_start sanity_start " + check +
                       "sanity_end train_start epoch_start batch_start zero_grad before_backward after_backward step "
                       "batch_end " +
                       check + "epoch_end train_end fit_end teardown ");
  calls.clear();
  trainer.test(probe, counting_loader(1), {.verbose = false});
  EXPECT_EQ(calls, "setup t_start t_epoch_start t_batch_start t_batch_end t_epoch_end t_end teardown ");
  calls.clear();
  probe.in_test_step = [](const Batch&, StepContext&) { throw Error("no"); };
  EXPECT_THROW(trainer.test(probe, counting_loader(1)), Error);
  EXPECT_EQ(calls, "setup t_start t_epoch_start t_batch_start exception teardown ");
}

// ---- Timer ----

using namespace std::chrono_literals;

TEST(Duration, IsReadFromText) {
  EXPECT_EQ(Duration("00:00:00:00").seconds(), 0);
  EXPECT_EQ(Duration("1:02:03:04").seconds(), 86400 + 2 * 3600 + 3 * 60 + 4);
  EXPECT_EQ(Duration(std::string("100:00:90:99")).seconds(), 100 * 86400 + 90 * 60 + 99);
  EXPECT_EQ(Duration(90min).seconds(), 5400);
  EXPECT_EQ(Duration(250ms).seconds(), 0.25);
  for (const char* bad :
       {"", "12", "00:12:00", "1:00:00", "00:00:00:0", "00:00:00:000", "00:00:00:100", ":00:00:00", "0:0:00:00",
        "a:00:00:00", "00:00:00:00:00", "00:00:00:00 ", "-1:00:00:00", "99999999999999999999:00:00:00"})
    EXPECT_TRUE(message_of<ConfigError>([&] { const Duration d(bad); }).starts_with("duration")) << bad;
}

struct Timed {
  std::shared_ptr<Timer> timer;
  FitResult result;
  std::string text;
};
// Up to three epochs of four batches, each of which takes 10 ms of its clock, and a check of one.
Timed fit_timed(TimerOptions timer_options, const FitOptions& fit_options = {},
                std::vector<Shared<Callback>> more = {}) {
  Timed timed{std::make_shared<Timer>(timer_options), {}, {}};
  TrainerOptions options = quiet({.max_epochs = 3, .callbacks = std::move(more)});
  options.callbacks.push_back(timed.timer);
  options.sink = [&](std::string_view line) { timed.text += line; };
  const auto now = std::make_shared<double>(0);
  options.clock = [=] { return *now; };
  Probe probe;
  probe.in_training_step = probe.in_validation_step = [=](const Batch&, StepContext&) { *now += 0.01; };
  Trainer trainer(options);
  timed.result = trainer.fit(probe, counting_loader(4), counting_loader(1), fit_options);
  return timed;
}

TEST(Timer, EndsTrainingAfterTheBatchThatPassesItsTime) {
  const Timed none = fit_timed({.duration = "00:00:00:00"});
  EXPECT_EQ(none.result.global_step, 0);
  EXPECT_EQ(none.result.reason, StopReason::stopped);
  EXPECT_EQ(none.text, "training ends: its 0 seconds are over\n");
  EXPECT_EQ(fit_timed({.duration = 5ms, .verbose = false}).text, "");
  EXPECT_EQ(fit_timed({.duration = 5ms}).result.global_step, 1);
  EXPECT_EQ(fit_timed({.duration = 5ms, .interval = Interval::epoch}).result.global_step, 4);
  EXPECT_EQ(fit_timed({.duration = 1h}).result.reason, StopReason::max_epochs);
}

TEST(Timer, MaxTimeIsOneMore) {
  std::string text;
  double now = 0;
  TrainerOptions options = quiet({.max_time = 120ms, .clock = [&] { return now; }});
  options.sink = [&](std::string_view line) { text += line; };
  Probe probe;
  probe.in_training_step = [&](const Batch&, StepContext&) { now += 0.05; };
  Trainer trainer(options);
  EXPECT_EQ(*trainer.options().max_epochs, -1) << "time is the limit then";
  const FitResult result = trainer.fit(probe, counting_loader(1000));
  EXPECT_EQ(result.reason, StopReason::stopped);
  EXPECT_EQ(result.global_step, 3);
  EXPECT_EQ(text.find("max_epochs"), std::string::npos);

  options.callbacks = {Timer({.duration = "01:00:00:00"})};
  options.max_epochs = 1;
  EXPECT_EQ(Trainer(options).fit(probe, counting_loader(3)).global_step, 3);
  EXPECT_NE(text.find("max_time is ignored"), std::string::npos);
}

TEST(Timer, BreaksOffACheck) {
  Probe probe;
  int checked = 0;
  probe.in_validation_step = [&](const Batch&, StepContext& step) {
    step.log("v", 1);
    ++checked;
  };
  Trainer trainer(quiet({.max_time = 20s, .num_sanity_val_steps = 0, .clock = [&] { return checked; }}));
  EXPECT_EQ(trainer.fit(probe, counting_loader(1), counting_loader(1000)).reason, StopReason::stopped);
  EXPECT_EQ(checked, 20);
  EXPECT_FALSE(trainer.callback_metrics().contains("v"));

  // Epochs that there must be have whole checks.
  checked = 0;
  Trainer patient(quiet({.min_epochs = 1, .max_time = 0ms, .num_sanity_val_steps = 0}));
  EXPECT_EQ(patient.fit(probe, counting_loader(2), counting_loader(3)).global_step, 2);
  EXPECT_EQ(checked, 3);
}

TEST(Timer, Measures) {
  const Timed timed = fit_timed({});
  EXPECT_EQ(timed.result.global_step, 12);
  const Timer& timer = *timed.timer;
  EXPECT_NEAR(timer.time_elapsed(), 0.15, 1e-9) << "12 batches and 3 checks";
  EXPECT_NEAR(timer.time_elapsed(Stage::validate), 0.01, 1e-9);
  EXPECT_EQ(timer.time_elapsed(Stage::sanity_check), 0.01);
  EXPECT_EQ(timer.start_time(Stage::sanity_check), 0);
  EXPECT_EQ(timer.start_time(), 0.01);
  EXPECT_NEAR(timer.end_time().value(), 0.16, 1e-9);
  EXPECT_EQ(timer.time_elapsed(Stage::test), 0);
  EXPECT_EQ(timer.start_time(Stage::test), std::nullopt);
  EXPECT_EQ(timed.timer->time_remaining(), INFINITY);
  const Timed limited = fit_timed({.duration = 1h});
  EXPECT_EQ(limited.timer->time_remaining(), 3600 - limited.timer->time_elapsed());

  struct Predicting : Probe {
    double now = 5;
    Batch predict_step(const Batch& batch, StepContext&) override { return ++now, batch; }
  } module;
  const auto own = std::make_shared<Timer>();
  Trainer(quiet({.callbacks = {own}, .clock = [&] { return module.now; }})).predict(module, counting_loader(3));
  EXPECT_EQ(own->time_elapsed(Stage::predict), 3);
  EXPECT_EQ(own->end_time(Stage::predict), 8);
  EXPECT_EQ(own->time_elapsed(Stage::validate), 0);
}

TEST(Timer, CountsTheTimeBeforeAResume) {
  const TempFolder dir;
  const auto file = (dir / "state.safetensors").string();
  const LambdaCallback save({.on_train_epoch_start = [&](Trainer& trainer, TrainingModule&) {
    if (trainer.current_epoch() == 1) trainer.save_checkpoint(file);
  }});
  fit_timed({}, {}, {save});
  const Timed over = fit_timed({.duration = 40ms}, {.resume = file});
  EXPECT_EQ(over.result.global_step, 4);
  EXPECT_NEAR(over.timer->time_elapsed(), 0.05, 1e-9);
  const Timed resumed = fit_timed({}, {.resume = file});
  EXPECT_EQ(resumed.result.global_step, 12);
  EXPECT_NEAR(resumed.timer->time_elapsed(), 0.15, 1e-9);
}

// ---- OnExceptionCheckpoint ----

TEST(OnExceptionCheckpoint, Options) {
  EXPECT_TRUE(message_of<ConfigError>([] { OnExceptionCheckpoint({.filename = ""}); }).starts_with("filename"));
}

TEST(OnExceptionCheckpoint, KeepsTheStateOfARunThatFails) {
  const TempFolder dir;
  const auto keeper = std::make_shared<OnExceptionCheckpoint>(OnExceptionCheckpointOptions{.dirpath = dir / "kept"});
  const auto fit = [&](Probe& probe, const FitOptions& options = {}) {
    Trainer trainer(quiet({.max_epochs = 2, .callbacks = {keeper}}));
    return trainer.fit(probe, counting_loader(4), options);
  };
  Probe undisturbed;
  fit(undisturbed);
  EXPECT_EQ(stems(dir / "kept"), Texts());

  Probe probe;
  probe.in_training_step = [](const Batch&, StepContext& step) { check(step.global_step() < 6, "no"); };
  EXPECT_THROW(fit(probe), Error);
  EXPECT_EQ(keeper->path(), dir / "kept" / "on_exception.safetensors");
  ASSERT_EQ(stems(dir / "kept"), Texts{"on_exception"});
  EXPECT_EQ(load_checkpoint(keeper->path()).counters.global_step, 6);

  // A run that fails before it trains leaves the file as it is.
  struct Misfit : Probe {
    nn::Parameter second{{this, "second"}, zeros({1})};
  } misfit;
  Trainer other(quiet({.max_epochs = 2, .callbacks = {keeper}}));
  EXPECT_THROW(other.fit(misfit, counting_loader(4), {.resume = keeper->path().string()}), Error);
  EXPECT_EQ(load_checkpoint(keeper->path()).counters.global_step, 6);

  Probe resumed;
  EXPECT_EQ(fit(resumed, {.resume = keeper->path().string()}).global_step, 8);
  EXPECT_EQ(resumed.weight.item(), undisturbed.weight.item());
  EXPECT_EQ(stems(dir / "kept"), Texts());
}

TEST(OnExceptionCheckpoint, AFastDevRunWritesNothing) {
  const TempFolder dir;
  Trainer trainer(quiet({.fast_dev_run = 2, .callbacks = {OnExceptionCheckpoint({.dirpath = dir.path()})}}));
  Probe probe;
  probe.in_training_step = [](const Batch&, StepContext& step) { check(step.batch_idx() < 1, "no"); };
  EXPECT_THROW(trainer.fit(probe, counting_loader(4)), Error);
  EXPECT_EQ(stems(dir.path()), Texts());
}

}  // namespace
}  // namespace anneal_test
