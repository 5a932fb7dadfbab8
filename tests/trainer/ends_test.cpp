// How a run ends before its time, and how it goes on: signals, bad numbers, continue_run. Rows C-054, C-059, C-060,
// C-105, C-189.
#include <gtest/gtest.h>

#include <cmath>
#include <csignal>

#include "anneal/tests/trainer/support.h"
#include "anneal/trainer/checkpoint.h"
#include "anneal/trainer/signals.h"

namespace anneal_test {
namespace {

using Names = std::vector<std::string>;

std::vector<double> weights_of(const TrainingModule& module) {
  std::vector<double> all;
  for (const NamedTensor& entry : module.state_dict())
    for (const double x : entry.tensor.to_vector()) all.push_back(x);
  return all;
}

// ---- signals ----

int calls_of_the_other = 0;
void other_handler(int) { ++calls_of_the_other; }

struct sigaction handler_of(int signal) {
  struct sigaction now = {};
  ::sigaction(signal, nullptr, &now);
  return now;
}

// Raises a signal in the training step of one batch.
struct Signalled : Probe {
  Signalled(int signal, std::int64_t at) {
    in_training_step = [signal, at](const Batch&, StepContext& step) {
      if (step.trainer().total_batch_idx() == at) std::raise(signal);
    };
  }
};

LambdaCallback noting(Names& names) {
  return LambdaCallback(
      {.teardown = [&](Trainer&, TrainingModule&, Stage) { names.push_back("teardown"); },
       .on_signal = [&](Trainer&, TrainingModule&,
                        int signal) { names.push_back("on_signal " + std::to_string(signal)); },
       .on_fit_end = [&](Trainer&, TrainingModule&) { names.push_back("on_fit_end"); },
       .on_train_end = [&](Trainer&, TrainingModule&) { names.push_back("on_train_end"); },
       .on_train_epoch_end = [&](Trainer&, TrainingModule&) { names.push_back("on_train_epoch_end"); }});
}

TrainerOptions signalled(const fs::path& folder, TrainerOptions options = {}) {
  options = quiet(options);
  options.handle_signals = true;
  options.enable_checkpointing = true;
  options.callbacks.push_back(ModelCheckpoint({.dirpath = folder, .save_top_k = 0}));
  return options;
}

TEST(Signals, EndTheRunAfterTheBatch) {
  for (const int signal : {SIGTERM, SIGINT}) {
    const TempFolder dir;
    Names names;
    Signalled module(signal, 1);
    Trainer trainer(signalled(dir.path(), {.max_epochs = 1, .callbacks = {noting(names)}}));
    const FitResult result = trainer.fit(module, counting_loader(4));
    EXPECT_EQ(result.reason, StopReason::signal);
    EXPECT_EQ(result.signal, signal);
    EXPECT_EQ(result.global_step, 2);
    EXPECT_EQ(names, (Names{"on_signal " + std::to_string(signal), "teardown"}));
    EXPECT_EQ(load_checkpoint(dir / "last.safetensors").counters.global_step, 2);
  }
}

TEST(Signals, LeaveTheHandlersThatWereThere) {
  struct sigaction other = {};
  other.sa_handler = other_handler;
  struct sigaction before = {};
  ::sigaction(SIGINT, &other, &before);
  calls_of_the_other = 0;
  Signalled module(SIGINT, 0);
  TrainerOptions options = quiet({.max_epochs = 1});
  options.handle_signals = true;
  EXPECT_EQ(Trainer(options).fit(module, counting_loader(2)).global_step, 1);
  EXPECT_EQ(calls_of_the_other, 1) << "it is called as well";
  EXPECT_EQ(handler_of(SIGINT).sa_handler, other_handler);
  EXPECT_EQ(handler_of(SIGTERM).sa_handler, SIG_DFL);
  options.handle_signals = false;
  Signalled again(SIGINT, 0);
  EXPECT_EQ(Trainer(options).fit(again, counting_loader(2)).reason, StopReason::max_epochs);
  EXPECT_EQ(calls_of_the_other, 2);
  ::sigaction(SIGINT, &before, nullptr);
}

TEST(Signals, AnIgnoredOneStaysSo) {
  struct sigaction ignore = {};
  ignore.sa_handler = SIG_IGN;
  struct sigaction before = {};
  ::sigaction(SIGINT, &ignore, &before);
  {
    const SignalScope scope;
    std::raise(SIGINT);
    EXPECT_EQ(scope.received(), 0);
  }
  ::sigaction(SIGINT, &before, nullptr);
}

TEST(Signals, OneScopeAtATime) {
  const SignalScope scope;
  EXPECT_NE(message_of<Error>([] { SignalScope second; }).find("handle_signals"), std::string::npos);
}

TEST(SignalsDeathTest, ASecondOneHasItsUsualEffect) {
  EXPECT_EXIT(
      {
        const SignalScope scope;
        std::raise(SIGINT);
        std::raise(SIGTERM);
        std::exit(0);
      },
      ::testing::KilledBySignal(SIGTERM), "");
}

// Two epochs of five batches, accumulated by three; the signal comes in batch `at` of all.
TEST(Signals, TheRunGoesOnAsIfThereHadBeenNone) {
  const auto options = [](const fs::path& folder) {
    return signalled(folder, {.max_epochs = 2, .accumulate_grad_batches = 3});
  };
  const TempFolder whole;
  Probe undisturbed;
  Trainer(options(whole.path())).fit(undisturbed, counting_loader(5));
  for (std::int64_t at = 0; at < 10; ++at) {
    const TempFolder dir;
    Signalled module(SIGTERM, at);
    Trainer(options(dir.path())).fit(module, counting_loader(5));
    Probe other;
    const FitResult result = Trainer(options(dir.path())).fit(other, counting_loader(5), {.resume = "last"});
    EXPECT_EQ(result.reason, StopReason::max_epochs) << at;
    EXPECT_EQ(result.global_step, 4) << at;
    EXPECT_EQ(weights_of(other), weights_of(undisturbed)) << at;
  }
}

// ---- numbers ----

// The loss of some batches, by their number in the run, is no number; or its gradient.
struct Bad : Probe {
  explicit Bad(std::vector<std::int64_t> bad, bool only_gradient = false)
      : bad(std::move(bad)), only_gradient(only_gradient) {}
  std::vector<std::int64_t> bad;
  bool only_gradient, leaves_out = false;

  Tensor training_step(const Batch& batch, StepContext& step) override {
    const Tensor loss = Probe::training_step(batch, step);
    if (std::ranges::find(bad, step.trainer().total_batch_idx()) == bad.end()) return loss;
    if (leaves_out) return {};
    return only_gradient ? loss + sum(sqrt(weight * 0.0)) : loss * NAN;
  }
};

// What training is without those batches.
std::vector<double> weights_without(std::vector<std::int64_t> batches, TrainerOptions options, std::int64_t n) {
  Bad module(std::move(batches));
  module.leaves_out = true;
  options.on_bad_number = "ignore";
  Trainer(options).fit(module, counting_loader(n));
  return weights_of(module);
}

TEST(BadNumbers, Options) {
  EXPECT_TRUE(message_of<ConfigError>([] { Trainer({.on_bad_number = "x"}); }).starts_with("on_bad_number"));
  struct Manual : Probe {
    bool automatic_optimization() const override { return false; }
  } manual;
  EXPECT_TRUE(message_of<ConfigError>([&] {
                Trainer(quiet({.max_epochs = 1, .on_bad_number = "skip"})).fit(manual, counting_loader(1));
              }).starts_with("on_bad_number"));
}

TEST(BadNumbers, IgnoredOnesSpoilTheWeights) {
  Bad module({2});
  EXPECT_EQ(Trainer(quiet({.max_epochs = 1})).fit(module, counting_loader(5)).global_step, 5);
  EXPECT_TRUE(std::isnan(module.weight.item()));
}

TEST(BadNumbers, Stop) {
  for (const bool only_gradient : {false, true}) {
    Names names;
    Bad module({2}, only_gradient);
    Trainer trainer(quiet({.max_epochs = 3, .min_epochs = 2, .on_bad_number = "stop", .callbacks = {noting(names)}}));
    const FitResult result = trainer.fit(module, counting_loader(5));
    EXPECT_EQ(result.reason, StopReason::bad_number);
    EXPECT_EQ(result.global_step, 2);
    EXPECT_NE(result.message.find("batch 2 of epoch 0"), std::string::npos) << result.message;
    EXPECT_EQ(names, (Names{"on_train_epoch_end", "on_train_end", "on_fit_end", "teardown"}));
    EXPECT_EQ(trainer.bad_windows(), 1);
    Probe two;
    Trainer(quiet({.max_steps = 2})).fit(two, counting_loader(5));
    EXPECT_EQ(weights_of(module), weights_of(two));
  }
}

TEST(BadNumbers, AnErrorNamesTheBatch) {
  for (const bool only_gradient : {false, true}) {
    Bad module({2}, only_gradient);
    const TrainerOptions options = quiet({.max_epochs = 1, .on_bad_number = "error"});
    const std::string text = message_of<Error>([&] { Trainer(options).fit(module, counting_loader(5)); });
    EXPECT_TRUE(
        text.starts_with(only_gradient ? "on_bad_number: gradients are not finite" : "on_bad_number: a loss is"))
        << text;
    EXPECT_NE(text.find("batch 2 of epoch 0"), std::string::npos) << text;
    EXPECT_NEAR(module.weight.item(), -0.1 * (1 + 2), 1e-6) << "as the good ones left it";
  }
}

TEST(BadNumbers, SkippedOnesAreAsIfTheyWereNotThere) {
  for (const bool only_gradient : {false, true}) {
    Bad module({2}, only_gradient);
    const TrainerOptions options = quiet({.max_epochs = 1, .on_bad_number = "skip"});
    EXPECT_EQ(Trainer(options).fit(module, counting_loader(5)).global_step, 4);
    EXPECT_EQ(weights_of(module), weights_without({2}, options, 5));
  }
}

TEST(BadNumbers, AWindowIsSkippedWhole) {
  Bad module({1});
  const TrainerOptions options = quiet({.max_epochs = 1, .accumulate_grad_batches = 2, .on_bad_number = "skip"});
  EXPECT_EQ(Trainer(options).fit(module, counting_loader(5)).global_step, 2);
  EXPECT_EQ(weights_of(module), weights_without({0, 1}, options, 5));
}

TEST(BadNumbers, TenInARowAreTooMany) {
  std::vector<std::int64_t> batches(11);
  for (std::size_t i = 0; i < batches.size(); ++i) batches[i] = static_cast<std::int64_t>(i) + 1;
  Bad all(batches);
  const TrainerOptions options = quiet({.max_epochs = 1, .on_bad_number = "skip"});
  EXPECT_NE(message_of<Error>([&] { Trainer(options).fit(all, counting_loader(20)); }).find("more than 10 windows"),
            std::string::npos);
  batches.pop_back();
  Bad ten(batches);
  EXPECT_EQ(Trainer(options).fit(ten, counting_loader(20)).global_step, 10);
}

TEST(BadNumbers, RollbackGoesToTheNewestCheckpoint) {
  const TempFolder dir, other;
  const auto options = [](const fs::path& folder) {
    TrainerOptions o =
        quiet({.max_epochs = 1, .on_bad_number = "rollback", .callbacks = {EMAWeightAveraging({.decay = 0.5})}});
    o.enable_checkpointing = true;
    o.callbacks.push_back(ModelCheckpoint({.dirpath = folder, .every_n_train_steps = 3}));
    return o;
  };
  std::vector<std::int64_t> run;
  TrainerOptions with_watch = options(dir.path());
  with_watch.callbacks.push_back(
      std::make_shared<AtBatchEnd>([&](Trainer&, std::int64_t batch) { run.push_back(batch); }));
  Bad module({4});
  EXPECT_EQ(Trainer(with_watch).fit(module, counting_loader(6)).global_step, 5);
  EXPECT_EQ(run, (std::vector<std::int64_t>{0, 1, 2, 3, 4, 3, 5}));
  EXPECT_EQ(weights_of(module), weights_without({4}, options(other.path()), 6));
}

TEST(BadNumbers, RollbackNeedsACheckpointAndReturnsToItOnce) {
  Bad early({0});
  TrainerOptions options = quiet({.max_epochs = 1, .on_bad_number = "rollback"});
  EXPECT_NE(message_of<Error>([&] { Trainer(options).fit(early, counting_loader(3)); }).find("no checkpoint"),
            std::string::npos);
  const TempFolder dir;
  options.enable_checkpointing = true;
  options.callbacks = {ModelCheckpoint({.dirpath = dir.path(), .every_n_train_steps = 3})};
  Bad again({4, 5});
  EXPECT_NE(message_of<Error>([&] { Trainer(options).fit(again, counting_loader(6)); }).find("already"),
            std::string::npos);
}

TEST(BadNumbers, TerminateOnNaN) {
  struct Counting : Bad {
    using Bad::Bad;
    std::int64_t backwards = 0;
    void backward(const Tensor& loss) override {
      ++backwards;
      loss.backward();
    }
  } module({1});
  auto guard = std::make_shared<TerminateOnNaN>();
  const FitResult result = Trainer(quiet({.max_epochs = 1, .callbacks = {guard}})).fit(module, counting_loader(4));
  EXPECT_EQ(result.reason, StopReason::bad_number);
  EXPECT_EQ(module.backwards, 1) << "that of batch 0 alone";
  EXPECT_TRUE(guard->triggered());
  Probe good;
  EXPECT_EQ(Trainer(quiet({.max_epochs = 1, .callbacks = {guard}})).fit(good, counting_loader(4)).global_step, 4);
  EXPECT_FALSE(guard->triggered());
  Bad skipped({1});
  Trainer skipping(quiet({.max_epochs = 1, .on_bad_number = "skip", .callbacks = {guard}}));
  EXPECT_EQ(skipping.fit(skipped, counting_loader(4)).reason, StopReason::max_epochs);
  EXPECT_EQ(skipping.bad_windows(), 1);
  EXPECT_FALSE(guard->triggered()) << "the run went on";
}

// ---- going on ----

TEST(ContinueRun, GoesOnWhereTheLastFitEnded) {
  struct Model : Probe {
    OptimizerConfig configure_optimizers() override {
      return {optim::AdamW(parameters(), {.lr = 0.1}), optim::step_lr(1, 0.5)};
    }
  } whole, parts;
  Trainer(quiet({.max_epochs = 3})).fit(whole, counting_loader(2));
  Trainer trainer(quiet({.max_epochs = 1}));
  EXPECT_TRUE(message_of<Error>([&] {
                trainer.fit(parts, counting_loader(2), {.continue_run = true});
              }).starts_with("continue_run"));
  EXPECT_EQ(trainer.fit(parts, counting_loader(2)).global_step, 2);
  trainer.set_max_epochs(3);
  const FitResult result = trainer.fit(parts, counting_loader(2), {.continue_run = true});
  EXPECT_EQ(result.global_step, 6);
  EXPECT_EQ(result.epochs, 3);
  EXPECT_EQ(weights_of(parts), weights_of(whole));
  trainer.set_max_epochs(1);
  EXPECT_TRUE(message_of<ConfigError>([&] {
                trainer.fit(parts, counting_loader(2), {.continue_run = true});
              }).starts_with("max_epochs: expected at least the 3 of the last fit"));
  EXPECT_TRUE(message_of<ConfigError>([&] { trainer.set_max_steps(-2); }).starts_with("max_steps"));
  EXPECT_EQ(trainer.fit(parts, counting_loader(2)).global_step, 2) << "without it a fit begins anew";
  trainer.set_max_epochs(2);
  EXPECT_EQ(trainer.fit(parts, counting_loader(2), {.continue_run = true}).global_step, 4);
}

TEST(ContinueRun, AHookThatThrowsLeavesTheTrainerFree) {
  struct Model : Probe {
    bool fails = false;
    void on_save_checkpoint(Checkpoint&) override { check(!fails, "not now"); }
  } module;
  Trainer trainer(quiet({.max_epochs = 1}));
  trainer.fit(module, counting_loader(2));
  module.fails = true;
  EXPECT_EQ(message_of<Error>([&] { trainer.fit(module, counting_loader(2), {.continue_run = true}); }), "not now");
  EXPECT_EQ(trainer.fit(module, counting_loader(2)).global_step, 2);
}

}  // namespace
}  // namespace anneal_test
