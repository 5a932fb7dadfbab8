// Training and evaluating on streams, whose length nobody knows beforehand; checks by time: rows C-069, C-070, C-092.
#include <gtest/gtest.h>

#include <cmath>
#include <csignal>

#include "anneal/tests/dist/spawn_ranks.h"
#include "anneal/tests/trainer/support.h"
#include "anneal/trainer/tuner.h"

namespace anneal_test {
namespace {

using namespace std::chrono_literals;

// Batches 0, 1, ... n - 1. `read`, if given, counts them.
DataLoader counting_stream(std::int64_t n, std::int64_t* read = nullptr) {
  return DataLoader([=](std::int64_t) {
    return [=, i = std::int64_t{0}]() mutable -> std::optional<Batch> {
      if (i == n) return std::nullopt;
      if (read) ++*read;
      return Batch{{"x", full({1, 1}, static_cast<double>(i++))}};
    };
  });
}

std::vector<std::int64_t> checks_of(TrainerOptions options, const DataLoader& train) {
  const auto watch = std::make_shared<Watch>();
  options.callbacks = {watch};
  if (!options.max_epochs) options.max_epochs = 1;
  Probe module;
  Trainer(quiet(options)).fit(module, train, counting_loader(1));
  return watch->checks;
}

using Checks = std::vector<std::int64_t>;

TEST(Stream, ChecksAreDueAtItsEndAndAfterCounts) {
  EXPECT_EQ(checks_of({}, counting_stream(5)), Checks({5}));
  EXPECT_EQ(checks_of({.limit_train_batches = 3}, counting_stream(5)), Checks({3}));
  EXPECT_EQ(checks_of({.val_check_interval = 2}, counting_stream(5)), Checks({2, 4}));
  EXPECT_EQ(checks_of({.max_epochs = 2}, counting_stream(3)), Checks({3, 6}));
  EXPECT_EQ(checks_of({.max_epochs = 2, .val_check_interval = 2, .check_val_every_n_epoch = std::nullopt},
                      counting_stream(3)),
            Checks({2, 4, 6}));
}

TEST(Stream, SharesOfItAreRefused) {
  EXPECT_NE(message_of<ConfigError>([] {
              checks_of({.limit_train_batches = 0.5}, counting_stream(5));
            }).find("limit_train_batches"),
            std::string::npos);
  EXPECT_NE(message_of<ConfigError>([] {
              checks_of({.val_check_interval = 0.5}, counting_stream(5));
            }).find("val_check_interval"),
            std::string::npos);
  Probe module;
  EXPECT_THROW(Trainer(quiet({.limit_val_batches = 0.5})).validate(module, counting_stream(5)), ConfigError);
}

TEST(Stream, TheLastWindowIsSteppedWithItsLastBatch) {
  std::vector<std::int64_t> steps;
  std::vector<bool> last;
  Probe module;
  Trainer trainer(
      quiet({.max_epochs = 1, .accumulate_grad_batches = 2, .callbacks = {AtBatchEnd([&](Trainer& t, std::int64_t) {
                                                              steps.push_back(t.global_step());
                                                              last.push_back(t.is_last_batch());
                                                            })}}));
  const FitResult result = trainer.fit(module, counting_stream(5));
  EXPECT_EQ(result.global_step, 3);
  EXPECT_EQ(steps, std::vector<std::int64_t>({0, 1, 1, 2, 3}));
  EXPECT_EQ(last, std::vector<bool>({false, false, false, false, true}));
  // Gradients of batches i are i + 1; the last window has one batch.
  EXPECT_NEAR(module.weight.item(), -0.1 * (1.5 + 3.5 + 5.0), 1e-6);
}

TEST(Stream, ALimitIsNotReadPast) {
  std::int64_t read = 0;
  Probe module;
  Trainer trainer(quiet({.max_epochs = 1, .limit_train_batches = 3, .limit_val_batches = 2}));
  trainer.fit(module, counting_stream(5, &read));
  EXPECT_EQ(read, 3);
  read = 0;
  trainer.validate(module, counting_stream(5, &read));
  EXPECT_EQ(read, 2);
}

TEST(Stream, NumbersOfBatches) {
  std::vector<std::int64_t> numbers;
  const auto note = [&](Trainer& trainer, std::int64_t) {
    numbers = {trainer.num_training_batches(), trainer.num_val_batches(), trainer.num_sanity_val_batches(),
               trainer.estimated_stepping_batches()};
  };
  const std::vector<DataLoader> val = {counting_stream(3), counting_loader(4)};
  const auto numbers_with = [&](TrainerOptions options, const DataLoader& train) {
    options.callbacks = {AtBatchEnd(note)};
    Probe module;
    Trainer(quiet(options)).fit(module, train, val);
    return numbers;
  };
  using Numbers = std::vector<std::int64_t>;
  EXPECT_EQ(numbers_with({.max_epochs = 2}, counting_stream(5)), Numbers({unknown_size, unknown_size, 4, -1}));
  EXPECT_EQ(numbers_with({.max_steps = 7, .limit_train_batches = 3, .limit_val_batches = 2}, counting_stream(5)),
            Numbers({3, 4, 4, 7}));
  // More than there are: what the limit says, until the stream ends.
  EXPECT_EQ(numbers_with({.max_epochs = 2, .limit_train_batches = 9}, counting_stream(5))[0], 9);
}

TEST(Stream, OneThatEndsBeforeTheLimitEndsTheEpoch) {
  const auto watch = std::make_shared<Watch>();
  Probe module;
  const FitResult result = Trainer(quiet({.max_epochs = 2, .limit_train_batches = 9, .callbacks = {watch}}))
                               .fit(module, counting_stream(5), counting_loader(1));
  EXPECT_EQ(result.epochs, 2);
  EXPECT_EQ(watch->batches, 10);
  EXPECT_EQ(watch->checks, Checks({5, 10}));
}

TEST(Stream, AnEmptyOneEndsTraining) {
  Probe module;
  Trainer trainer(quiet({.max_epochs = -1}));
  const FitResult none = trainer.fit(module, counting_stream(0));
  EXPECT_EQ(none.reason, StopReason::no_data);
  EXPECT_EQ(none.global_step, 0);
  // A stream that is used up by its first pass.
  const auto given = std::make_shared<int>(0);
  const FitResult once = trainer.fit(
      module, DataLoader([given](std::int64_t) {
        return [given]() { return ++*given <= 3 ? std::optional(Batch{{"x", ones({1, 1})}}) : std::nullopt; };
      }));
  EXPECT_EQ(once.reason, StopReason::no_data);
  EXPECT_EQ(once.global_step, 3);
  EXPECT_EQ(Trainer(quiet({.limit_train_batches = 0.0})).fit(module, counting_stream(5)).reason, StopReason::no_data);
}

TEST(Stream, EvaluationsGoToItsEnd) {
  Probe module;
  std::vector<double> seen;
  module.in_test_step = [&](const Batch& batch, StepContext& step) {
    seen.push_back(batch["x"].item() + 10.0 * static_cast<double>(step.dataloader_idx()));
    step.log("v", batch["x"]);
  };
  Trainer trainer(quiet());
  const auto metrics = trainer.test(module, {counting_stream(3), counting_stream(2)}, {.verbose = false});
  EXPECT_EQ(seen, std::vector<double>({0, 1, 2, 10, 11}));
  EXPECT_DOUBLE_EQ(metrics[0]["v/dataloader_idx_0"], 1);
  EXPECT_DOUBLE_EQ(metrics[1]["v/dataloader_idx_1"], 0.5);
}

// Batches of random numbers; `stateful`: it can go on in the middle.
struct Noise : BatchStream {
  Noise(bool stateful, std::int64_t* read) : stateful(stateful), read(read) {}
  bool stateful;
  std::int64_t* read;
  std::int64_t i = 0;

  std::optional<Batch> next() override {
    if (i == 5) return std::nullopt;
    ++i;
    ++*read;
    return Batch{{"x", randn({2, 1}) + static_cast<double>(i)}};
  }
  StateMap state() const override { return stateful ? StateMap{{"i", i}} : StateMap{}; }
  void load_state(const StateMap& state) override { i = std::get<std::int64_t>(state.at("i")); }
};

// Draws random numbers in training, too.
struct Noisy : Probe {
  Tensor training_step(const Batch& batch, StepContext&) override { return sum(weight * rand({1})) * mean(batch["x"]); }
};

struct SaveAndDie : Callback {
  std::int64_t at = 0;
  bool at_start = false;
  fs::path path = {};
  void save(Trainer& trainer) const {
    if (trainer.total_batch_idx() == at) trainer.save_checkpoint(path);
    if (trainer.total_batch_idx() == at + 1) throw std::runtime_error("killed");
  }
  void on_train_batch_start(Trainer& trainer, TrainingModule&, const Batch&, StepContext&) override {
    if (at_start) save(trainer);
  }
  void on_train_batch_end(Trainer& trainer, TrainingModule&, const Tensor&, const Batch&, StepContext&) override {
    if (!at_start) save(trainer);
  }
  void on_train_end(Trainer&, TrainingModule&) override { throw std::runtime_error("killed"); }
};

TEST(Stream, AResumedRunIsTheSameToTheBit) {
  for (const bool stateful : {false, true}) {
    std::int64_t read = 0;
    const DataLoader noise([&](std::int64_t) { return std::make_unique<Noise>(stateful, &read); });
    const auto fit = [&](std::shared_ptr<Callback> callback, const std::string& resume) {
      TrainerOptions options = quiet({.max_epochs = 2, .accumulate_grad_batches = 2});
      if (callback) options.callbacks = {callback};
      Noisy module;
      Trainer trainer(options);
      try {
        EXPECT_EQ(trainer.fit(module, noise, {.resume = resume}).global_step, 6);
      } catch (const std::runtime_error&) { EXPECT_TRUE(callback); }
      return module.weight.item();
    };
    const double whole = fit(nullptr, "");
    for (std::int64_t at = 0; at < 10; ++at)
      for (const bool at_start : {false, true}) {
        const TempFolder dir;
        const auto killer = std::make_shared<SaveAndDie>();
        killer->at = at;
        killer->at_start = at_start;
        killer->path = dir / "stop";
        fit(killer, "");
        read = 0;
        EXPECT_EQ(fit(nullptr, killer->path.string()), whole) << at << at_start << stateful;
        const std::int64_t left = 10 - at - (at_start ? 0 : 1);
        if (stateful) EXPECT_EQ(read, left) << at << at_start;
        else EXPECT_GE(read, left);
      }
  }
}

// The signal comes in batch `at` of ten; the epoch goes on from a file, or in the same Trainer.
TEST(Stream, ARunThatASignalEndedGoesOnToTheBit) {
  for (const bool stateful : {false, true}) {
    std::int64_t read = 0;
    const DataLoader noise([&](std::int64_t) { return std::make_unique<Noise>(stateful, &read); });
    Noisy undisturbed;
    Trainer(quiet({.max_epochs = 2, .accumulate_grad_batches = 2})).fit(undisturbed, noise);
    for (std::int64_t at = 0; at < 10; ++at)
      for (const bool same_trainer : {false, true}) {
        const TempFolder dir;
        const auto options = [&](bool signalled) {
          TrainerOptions o = quiet({.max_epochs = 2, .accumulate_grad_batches = 2});
          o.handle_signals = true;
          o.enable_checkpointing = true;
          o.callbacks = {ModelCheckpoint({.dirpath = dir.path(), .save_top_k = 0})};
          if (signalled)
            o.callbacks.push_back(AtBatchEnd([at](Trainer& trainer, std::int64_t) {
              if (trainer.total_batch_idx() == at) std::raise(SIGTERM);
            }));
          return o;
        };
        Noisy module, other;
        Trainer trainer(options(true));
        EXPECT_EQ(trainer.fit(module, noise).reason, StopReason::signal);
        read = 0;
        const FitResult result = same_trainer ? trainer.fit(module, noise, {.continue_run = true})
                                              : Trainer(options(false)).fit(other, noise, {.resume = "last"});
        EXPECT_EQ(result.reason, StopReason::max_epochs) << at << same_trainer;
        EXPECT_EQ((same_trainer ? module : other).weight.item(), undisturbed.weight.item()) << at << same_trainer;
        if (stateful) { EXPECT_EQ(read, 9 - at) << at << same_trainer; }
      }
  }
}

// In the first pass over batch 7 the loss is no number.
struct Spoiled : Noisy {
  bool leaves_out = false;
  Tensor training_step(const Batch& batch, StepContext& step) override {
    if (step.trainer().total_batch_idx() != 7) return Noisy::training_step(batch, step);
    return leaves_out ? Tensor() : sum(weight) * NAN;
  }
};

TEST(Stream, ARollbackReadsAgainFromTheCheckpointOn) {
  for (const bool stateful : {false, true}) {
    const TempFolder dir;
    std::int64_t read = 0;
    const DataLoader noise([&](std::int64_t) { return std::make_unique<Noise>(stateful, &read); });
    Spoiled without, module;
    without.leaves_out = true;
    Trainer(quiet({.max_epochs = 2})).fit(without, noise);
    read = 0;
    TrainerOptions options = quiet({.max_epochs = 2,
                                    .on_bad_number = "rollback",
                                    .callbacks = {ModelCheckpoint({.dirpath = dir.path(), .every_n_train_steps = 2})}});
    options.enable_checkpointing = true;
    EXPECT_EQ(Trainer(options).fit(module, noise).global_step, 9);
    EXPECT_EQ(module.weight.item(), without.weight.item());
    // Nine, with the look ahead from batch 7; then those behind the checkpoint, which is that of batch 5.
    EXPECT_EQ(read, stateful ? 9 + 4 : 9 + 5);
  }
}

TEST(Stream, ASearchHasPassesOfItsOwn) {
  std::int64_t read = 0;
  const DataLoader noise([&](std::int64_t) { return std::make_unique<Noise>(true, &read); });
  Noisy undisturbed, module;
  Trainer(quiet({.max_epochs = 2})).fit(undisturbed, noise);
  const LearningRateFinder finder({.num_training = 7, .early_stop_threshold = std::nullopt, .update_attr = false});
  Trainer(quiet({.max_epochs = 2, .callbacks = {finder}})).fit(module, noise);
  EXPECT_EQ(module.weight.item(), undisturbed.weight.item());
  DataLoader stream = counting_stream(3);
  Trainer trainer(quiet());
  EXPECT_NE(message_of<ConfigError>([&] { Tuner(trainer).scale_batch_size(module, stream); }).find("stream"),
            std::string::npos);
}

TEST(CheckInterval, ByTime) {
  double now = 100;
  Checks announced;
  const auto watch = std::make_shared<Watch>();
  const AtBatchEnd note([&](Trainer& trainer, std::int64_t) {
    if (trainer.check_follows()) announced.push_back(trainer.total_batch_idx() + 1);
  });
  TrainerOptions options =
      quiet({.max_epochs = 1, .val_check_interval = 1s, .callbacks = {note, watch}, .clock = [&] { return now; }});
  Probe module;
  module.in_training_step = [&](const Batch&, StepContext&) { now += 0.6; };
  module.in_validation_step = [&](const Batch&, StepContext&) { now += 5; };  // what a check takes does not count
  Trainer(options).fit(module, counting_loader(5), counting_loader(1));
  EXPECT_EQ(watch->checks, Checks({2, 4}));
  EXPECT_EQ(announced, watch->checks);

  watch->checks.clear();
  announced.clear();
  watch->batches = 0;
  options.val_check_interval = "00:00:00:01";
  options.check_val_every_n_epoch = 2;
  options.max_epochs = 2;
  Trainer(options).fit(module, counting_stream(5), counting_loader(1));
  EXPECT_EQ(watch->checks, Checks({6, 8, 10}));  // the first epoch's time counts, its end is not due
  EXPECT_EQ(announced, watch->checks);
}

TEST(CheckInterval, WrongTimesAreRefused) {
  EXPECT_THROW(Trainer(quiet({.val_check_interval = 0s})), ConfigError);
  EXPECT_THROW(Trainer(quiet({.val_check_interval = "10 s"})), ConfigError);
}

#if ANNEAL_HAS_GLOO

using anneal::testing::RankFunction;
using anneal::testing::spawn_ranks;

// Rank 0 has 5 batches in an epoch, rank 1 has 4.
const RankFunction train_on_streams("streams", [] {
  TrainerOptions options = quiet({.max_epochs = 2, .accumulate_grad_batches = 3});
  Trainer trainer(options);
  Probe module;
  const FitResult result = trainer.fit(module, counting_stream(5 - trainer.global_rank()));
  std::fputs(format("{} steps, {} batches", result.global_step, trainer.total_batch_idx() + 1).c_str(), stderr);
  return 0;
});

TEST(Stream, TheShortestOfTheRanksEndsTheEpoch) {
  const auto results = spawn_ranks(2, "streams", {}, std::chrono::seconds(60));
  for (const auto& rank : results.ranks) EXPECT_EQ(rank.err, "4 steps, 8 batches");
}

#endif

}  // namespace
}  // namespace anneal_test
