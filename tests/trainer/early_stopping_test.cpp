// When EarlyStopping ends training, and why.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>

#include "anneal/tests/dist/spawn_ranks.h"
#include "anneal/tests/trainer/support.h"

namespace anneal_test {
namespace {

using enum StoppingReason;
constexpr double nan = NAN, infinity = INFINITY;

struct Outcome {
  std::shared_ptr<EarlyStopping> stopper;
  FitResult result;
  std::int64_t epochs() const { return result.epochs; }
  StoppingReason reason() const { return stopper->stopping_reason(); }
};

// Epochs of four batches, by default as many as there are values; check i logs v = values[i], the last one for ever.
Outcome fit(EarlyStoppingOptions options, const std::vector<double>& values, TrainerOptions trainer_options = {},
            const FitOptions& fit_options = {}) {
  if (options.monitor.empty()) options.monitor = "v";
  const auto stopper = std::make_shared<EarlyStopping>(options);
  trainer_options.callbacks.push_back(stopper);
  if (!trainer_options.max_epochs) trainer_options.max_epochs = static_cast<std::int64_t>(values.size());
  Probe probe;
  probe.in_validation_step = [&](const Batch&, StepContext& step) {
    const auto check = static_cast<std::size_t>(step.trainer().num_checks());
    step.log("v", values[std::min(check, values.size() - 1)]);
  };
  Trainer trainer(quiet(trainer_options));
  const FitResult result = trainer.fit(probe, counting_loader(4), counting_loader(1), fit_options);
  return {stopper, result};
}
const std::vector<double> constant(10, 1.0), rising{1, 2, 3, 4, 5, 6};

TEST(EarlyStopping, Options) {
  const auto error = [](EarlyStoppingOptions options) {
    return message_of<ConfigError>([&] { EarlyStopping stopper(options); });
  };
  EXPECT_TRUE(error({}).starts_with("monitor"));
  EXPECT_TRUE(error({.monitor = "v", .patience = -1}).starts_with("patience"));
  EXPECT_TRUE(error({.monitor = "v", .mode = "auto"}).starts_with("mode"));
}

TEST(EarlyStopping, AConstantMetricExhaustsThePatience) {
  const Outcome run = fit({}, constant);
  EXPECT_EQ(run.epochs(), 4);
  EXPECT_EQ(run.result.reason, StopReason::stopped);
  EXPECT_EQ(run.reason(), patience_exhausted);
  EXPECT_EQ(run.stopper->stopped_epoch(), 3);
  EXPECT_EQ(run.stopper->wait_count(), 3);
  EXPECT_EQ(run.stopper->best_score(), 1);
  EXPECT_EQ(run.stopper->stopping_message(), "v did not improve in 3 looks; its best value is 1");
}

TEST(EarlyStopping, PatienceCountsChecks) {
  EXPECT_EQ(fit({}, constant, {.check_val_every_n_epoch = 2}).epochs(), 8);
  EXPECT_EQ(fit({}, constant, {.val_check_interval = 0.5}).result.global_step, 8);
  EXPECT_EQ(fit({.patience = 2}, constant, {.val_check_interval = 0.5}).result.global_step, 6);
  EXPECT_EQ(fit({.check_on_train_epoch_end = true}, constant, {.val_check_interval = 0.5}).epochs(), 4);
  EXPECT_EQ(fit({.check_on_train_epoch_end = false}, constant).epochs(), 4);
  EXPECT_EQ(fit({.patience = 0}, constant).epochs(), 2);
  EXPECT_EQ(fit({.patience = 1}, constant).epochs(), 2);
  EXPECT_EQ(fit({.patience = 1}, {3, 2, 2, 2}).epochs(), 3);
  EXPECT_EQ(fit({.patience = 0}, {3, 2, 2, 2}).epochs(), 3);
}

TEST(EarlyStopping, AnImprovementIsMoreThanMinDelta) {
  EXPECT_EQ(fit({.min_delta = 0.5, .patience = 1}, {1, 0.5, 0}).epochs(), 2);
  EXPECT_EQ(fit({.min_delta = -0.5, .patience = 1}, {1, 0.5, 0}).epochs(), 2);
  EXPECT_EQ(fit({.min_delta = 0.5, .patience = 1}, {1, 0.25, -0.5}).reason(), not_stopped);
  EXPECT_EQ(fit({.min_delta = 0.5, .patience = 1, .mode = "max"}, {1, 1.5, 3}).epochs(), 2);
  EXPECT_EQ(fit({.patience = 2}, {3, 4, 2, 3, 1, 2, 2}).epochs(), 7);
  EXPECT_EQ(fit({.patience = 1, .mode = "max"}, rising).reason(), not_stopped);
  EXPECT_EQ(fit({.patience = 1}, rising).epochs(), 2);
  const Outcome slow = fit({.min_delta = 0.1, .patience = 2}, {1, 0.95, 0.91, 0.5});
  EXPECT_EQ(slow.epochs(), 3);
  EXPECT_EQ(slow.stopper->best_score(), 1);
}

TEST(EarlyStopping, Thresholds) {
  const Outcome good = fit({.stopping_threshold = 0.4}, {1, 0.4, 0.3, 0.2});
  EXPECT_EQ(good.epochs(), 3);
  EXPECT_EQ(good.reason(), stopping_threshold);
  EXPECT_EQ(good.stopper->stopping_message(), "v is 0.3, better than the stopping_threshold 0.4");
  EXPECT_EQ(fit({.stopping_threshold = 0.4}, {1, 0.4, 0.39, 0.2}).epochs(), 3);
  EXPECT_EQ(fit({.divergence_threshold = 4}, {1, 5, 1, 1}).epochs(), 2);
  const Outcome bad = fit({.divergence_threshold = 2}, {1, 2, 3, 4});
  EXPECT_EQ(bad.epochs(), 3);
  EXPECT_EQ(bad.reason(), divergence_threshold);
  EXPECT_EQ(bad.stopper->stopping_message(), "v is 3, worse than the divergence_threshold 2");
  EXPECT_EQ(fit({.mode = "max", .stopping_threshold = 2}, rising).epochs(), 3);
  EXPECT_EQ(fit({.mode = "max", .divergence_threshold = 0.4}, {1, 0.4, 0.3, 0.2}).epochs(), 3);
}

TEST(EarlyStopping, WhatIsNotFinite) {
  for (const double bad : {nan, infinity, -infinity}) {
    const Outcome run = fit({}, {1, bad, 0.5});
    EXPECT_EQ(run.epochs(), 2) << bad;
    EXPECT_EQ(run.reason(), non_finite_metric);
    EXPECT_EQ(run.stopper->stopped_epoch(), 1);
  }
  EXPECT_EQ(fit({.patience = 2, .check_finite = false}, {nan, nan, nan}).epochs(), 2);
  EXPECT_EQ(fit({.patience = 2, .check_finite = false}, {1, nan, 0.5, nan, 0.4}).reason(), not_stopped);
}

TEST(EarlyStopping, AMissingMetric) {
  const std::string text = message_of<ConfigError>([] { fit({.monitor = "zzz"}, constant); });
  EXPECT_NE(text.find("zzz"), std::string::npos);
  EXPECT_NE(text.find("there are: v"), std::string::npos);
  EXPECT_EQ(fit({.monitor = "zzz", .strict = false}, constant).epochs(), 10);
  EXPECT_EQ(fit({.monitor = "zzz"}, constant, {.fast_dev_run = 1}).epochs(), 1);
}

TEST(EarlyStopping, WaitsForTheMinimum) {
  EXPECT_EQ(fit({.patience = 1}, rising, {.min_epochs = 5}).epochs(), 5);
  EXPECT_EQ(fit({}, constant, {.min_epochs = 6}).epochs(), 6);
  // Checks after 2 and 4 batches of an epoch: the second one asks.
  EXPECT_EQ(fit({.patience = 1}, constant, {.min_steps = 11, .val_check_interval = 0.5}).result.global_step, 11);
}

TEST(EarlyStopping, WithdrawsARequestWhenTheMetricImproves) {
  const Outcome run = fit({.patience = 2}, {1, 2, 3, 0.5, 0.6}, {.min_epochs = 4});
  EXPECT_EQ(run.epochs(), 5);
  EXPECT_EQ(run.reason(), not_stopped);
  EXPECT_EQ(run.stopper->stopped_epoch(), 0);
  EXPECT_EQ(run.stopper->stopping_message(), "");
  EXPECT_EQ(run.result.reason, StopReason::max_epochs);
  EXPECT_EQ(fit({.patience = 1}, {1, 1, 0.5, 0.4, 0.3}, {.min_epochs = 4}).epochs(), 5);
}

TEST(EarlyStopping, SeesWhatOthersLogAtTheEpochsEnd) {
  const auto stopper = std::make_shared<EarlyStopping>(EarlyStoppingOptions{.monitor = "late"});
  const LambdaCallback log({.on_train_epoch_end = [](Trainer& trainer, TrainingModule&) { trainer.log("late", 1); }});
  Probe probe;
  for (const bool first : {true, false}) {
    TrainerOptions options = quiet({.max_epochs = 9, .callbacks = {stopper, log}});
    if (!first) std::swap(options.callbacks[0], options.callbacks[1]);
    EXPECT_EQ(Trainer(options).fit(probe, counting_loader(1)).epochs, 4) << first;
  }
}

TEST(EarlyStopping, TwoHaveTwoMetrics) {
  const EarlyStopping a({.monitor = "a"}), other_a({.monitor = "a"}), b({.monitor = "b"});
  EXPECT_TRUE(message_of<ConfigError>([&] { Trainer(quiet({.callbacks = {a, other_a}})); }).starts_with("callbacks"));
  Trainer trainer(quiet({.callbacks = {a, b}}));
  EXPECT_EQ(trainer.callbacks().size(), 2u);
}

TEST(EarlyStopping, SaysWhy) {
  std::string text;
  TrainerOptions options = quiet({.max_epochs = 4});
  const EarlyStopping stopper({.monitor = "v", .patience = 1, .verbose = true});
  options.sink = [&](std::string_view line) { text += line; };
  options.callbacks = {stopper};
  Probe probe;
  probe.in_validation_step = [](const Batch&, StepContext& step) {
    step.log("v", std::max<double>(1.0 - static_cast<double>(step.trainer().num_checks()), 0.0));
  };
  Trainer trainer(options);
  trainer.fit(probe, counting_loader(1), counting_loader(1));
  EXPECT_NE(text.find("v is 1 at first\nv improved from 1 to 0\ntraining ends: v did not improve in 1 looks"),
            std::string::npos)
      << text;
}

TEST(EarlyStopping, GoesOnFromACheckpoint) {
  const TempFolder dir;
  const auto file = (dir / "state.safetensors").string();
  const auto save_in = [&](std::int64_t epoch) {
    TrainerOptions options;
    options.callbacks = {LambdaCallback({.on_train_epoch_start = [=](Trainer& trainer, TrainingModule&) {
      if (trainer.current_epoch() == epoch) trainer.save_checkpoint(file);
    }})};
    return options;
  };
  fit({}, constant, save_in(2));
  const Outcome resumed = fit({}, constant, {}, {.resume = file});
  EXPECT_EQ(resumed.epochs(), 4);
  EXPECT_EQ(resumed.stopper->wait_count(), 3);
  std::string text;
  TrainerOptions without = quiet({.max_epochs = 3});
  without.sink = [&](std::string_view line) { text += line; };
  Probe probe;
  Trainer(without).fit(probe, counting_loader(4), {.resume = file});
  EXPECT_NE(text.find("EarlyStopping monitor=v"), std::string::npos) << text;

  // The whole run's last state: nothing is left to do, but with more patience.
  TrainerOptions options;
  const auto save = [&](Trainer& trainer, TrainingModule&) { trainer.save_checkpoint(file); };
  options.callbacks = {LambdaCallback({.on_train_end = save})};
  fit({}, constant, options);
  const Outcome ended = fit({}, constant, {}, {.resume = file});
  EXPECT_EQ(ended.epochs(), 4);
  EXPECT_EQ(ended.reason(), patience_exhausted);
  EXPECT_EQ(ended.stopper->stopped_epoch(), 3);
  EXPECT_EQ(std::get<std::int64_t>(ended.stopper->state().at("patience")), 3);
  EXPECT_EQ(fit({.patience = 5}, constant, {}, {.resume = file}).epochs(), 6);
}

TEST(EarlyStopping, BeginsAnewInEachFit) {
  const auto stopper = std::make_shared<EarlyStopping>(EarlyStoppingOptions{.monitor = "late"});
  const LambdaCallback log({.on_train_epoch_end = [](Trainer& trainer, TrainingModule&) { trainer.log("late", 1); }});
  Trainer trainer(quiet({.max_epochs = 9, .callbacks = {stopper, log}}));
  Probe probe;
  for (int i = 0; i < 2; ++i) EXPECT_EQ(trainer.fit(probe, counting_loader(1)).epochs, 4);
}

TEST(EarlyStopping, RefusesAMetricThatOnlyTheFirstRankKeeps) {
  Probe probe;
  probe.in_validation_step = [](const Batch&, StepContext& step) { step.log("v", 1, {.rank_zero_only = true}); };
  Trainer trainer(quiet({.max_epochs = 1, .callbacks = {EarlyStopping({.monitor = "v"})}}));
  const std::string text = message_of<ConfigError>([&] { trainer.fit(probe, counting_loader(1), counting_loader(1)); });
  EXPECT_TRUE(text.starts_with("monitor: v is logged with rank_zero_only")) << text;
}

#if ANNEAL_HAS_GLOO

// Each rank logs a value of its own; of one validation sample only the first has any.
std::string fit_on_rank(const std::vector<double>& first, const std::vector<double>& others, std::int64_t samples) {
  const auto stopper = std::make_shared<EarlyStopping>(EarlyStoppingOptions{.monitor = "v"});
  TrainerOptions options = quiet({.failure_timeout = 10 * anneal::testing::time_scale(),
                                  .max_epochs = 5,
                                  .num_sanity_val_steps = 0,
                                  .callbacks = {stopper}});
  std::string text;
  options.sink = [&](std::string_view line) { text += line; };
  Trainer trainer(options);
  Probe probe;
  probe.in_validation_step = [&](const Batch&, StepContext& step) {
    const auto epoch = static_cast<std::size_t>(step.current_epoch());
    step.log("v", (trainer.is_global_zero() ? first : others).at(epoch));
  };
  const FitResult result = trainer.fit(probe, counting_loader(4), counting_loader(samples));
  const std::size_t warning = text.find("v is logged without sync_dist");
  EXPECT_EQ(warning != std::string::npos, trainer.is_global_zero());
  if (trainer.is_global_zero()) { EXPECT_EQ(text.find("v is logged without sync_dist", warning + 1), text.npos); }
  return format("{} {} {}, ", result.epochs, result.reason, stopper->wait_count());
}

const anneal::testing::RankFunction stop_ranks("early_stopping", [] {
  const std::string text = fit_on_rank({1, 1, 1, 1}, {5, 4, 3, 2}, 2) +          //
                           fit_on_rank({5, 4, 3, 2, 1}, {1, nan, 1, 1, 1}, 2) +  //
                           fit_on_rank({1, 1, 1, 1}, {}, 1);
  std::fputs(text.c_str(), stderr);
  return ::testing::Test::HasFailure() ? 1 : 0;
});

TEST(EarlyStopping, TheFirstRanksMetricDecides) {
  const auto results = anneal::testing::spawn_ranks(2, "early_stopping", {}, std::chrono::seconds(60));
  for (const auto& rank : results.ranks) EXPECT_EQ(rank.err, "4 stopped 3, 5 max_epochs 0, 4 stopped 3, ");
  EXPECT_EQ(results.codes(), std::vector<int>({0, 0}));
}

#endif

}  // namespace
}  // namespace anneal_test
