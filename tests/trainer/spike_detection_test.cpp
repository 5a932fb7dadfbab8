// Losses that jump, and what is done about them: row T-660.
#include "anneal/trainer/spike_detection.h"

#include <gtest/gtest.h>

#include <cmath>

#include "anneal/tests/trainer/support.h"

namespace anneal_test {
namespace {

using Values = std::vector<double>;
using Batches = std::vector<std::int64_t>;

// The loss of each batch of the run; the gradient is 1.
struct Losses : Probe {
  explicit Losses(Values values) : values(std::move(values)) {}
  Values values;
  Tensor training_step(const Batch&, StepContext& step) override {
    const auto batch = static_cast<std::size_t>(step.trainer().total_batch_idx());
    return sum(weight) - weight.item() + values.at(batch);
  }
};

// The batch with the first spike, or -1, and what is in the file.
struct Found {
  std::int64_t batch;
  std::string file;
  bool operator==(const Found&) const = default;
};
std::ostream& operator<<(std::ostream& out, const Found& found) { return out << found.batch << " " << found.file; }

Found spike_in(const Values& losses, SpikeDetectionOptions options = {}) {
  const TempFolder dir;
  Trainer trainer(quiet({.max_epochs = 1, .callbacks = {SpikeDetection(options)}, .default_root_dir = dir.path()}));
  Losses module(losses);
  std::int64_t batch = -1;
  try {
    trainer.fit(module, counting_loader(static_cast<std::int64_t>(losses.size())));
  } catch (const TrainingSpikeError& error) { batch = error.batch_idx(); }
  return {batch, read_text(dir / "skip_batches.json")};
}

TEST(SpikeDetection, Options) {
  const auto error = [](SpikeDetectionOptions options) {
    return message_of<ConfigError>([&] { SpikeDetection callback(options); });
  };
  EXPECT_TRUE(error({.mode = "auto"}).starts_with("mode"));
  EXPECT_TRUE(error({.window = 0}).starts_with("window"));
  EXPECT_TRUE(error({.warmup = -1}).starts_with("warmup"));
  EXPECT_TRUE(error({.zscore = 0}).starts_with("zscore"));
  EXPECT_TRUE(error({.action = "ignore"}).starts_with("action"));
}

// C-173
TEST(SpikeDetection, FindsTheLossThatJumped) {
  const Found none{-1, ""};
  EXPECT_EQ(spike_in({1, 1, 1, 1, 10}), (Found{4, "[3, 4]"}));
  EXPECT_EQ(spike_in({1, 1, 2.9, 2.8, 6}), (Found{4, "[3, 4]"}));
  EXPECT_EQ(spike_in({1, 1, 2.9, 2.8, 5.5}), none);
  EXPECT_EQ(spike_in({1, 1, 2.9, 2.8, 6}, {.atol = 5}), none);
  EXPECT_EQ(spike_in({1, 1, 2.9, 2.8, 6}, {.window = 1}), none) << "3.2 from 2.8 is less than twice that";
  EXPECT_EQ(spike_in({1, 9, 9}, {.warmup = 2}), none);
  EXPECT_EQ(spike_in({4, 1, -5}, {}), none) << "it got better";
  EXPECT_EQ(spike_in({4, 1, -5}, {.mode = "max"}), (Found{2, "[1, 2]"}));
  EXPECT_EQ(spike_in({1, 1, NAN, 1}), (Found{2, "[1, 2]"}));
  EXPECT_EQ(spike_in({NAN, 1}, {.warmup = 0}), (Found{0, "[0]"}));
  EXPECT_EQ(spike_in({1, 1, NAN, 1}, {.finite_only = false}), none);
  EXPECT_EQ(spike_in({1, 1, NAN, 1, INFINITY, 4}, {.finite_only = false}).batch, 5) << "neither is in the mean";
}

TEST(SpikeDetection, MayGoByStandardDeviations) {
  // Of 4, 5, 6, 5 the mean is 5, and the deviation the root of a half.
  const SpikeDetectionOptions options{.window = 4, .zscore = 6};
  EXPECT_EQ(spike_in({4, 5, 6, 5, 9.2}, options).batch, -1);
  EXPECT_EQ(spike_in({4, 5, 6, 5, 9.3}, options).batch, 4);
  EXPECT_EQ(spike_in({4, 5, 60, 5, 60}, options).batch, -1) << "the window was not full";
}

TEST(SpikeDetection, MayEndTrainingQuietly) {
  const TempFolder dir;
  const auto detection = std::make_shared<SpikeDetection>(
      SpikeDetectionOptions{.exclude_batches_path = dir / "bad/spikes.json", .action = "stop"});
  Trainer trainer(quiet({.max_epochs = 2, .callbacks = {detection}}));
  Losses module({1, 1, 9, 1, 1});
  const FitResult result = trainer.fit(module, counting_loader(5));
  EXPECT_EQ(result.reason, StopReason::stopped);
  EXPECT_EQ(result.global_step, 3);
  EXPECT_EQ(detection->spikes(), 1);
  EXPECT_EQ(read_text(dir / "bad/spikes.json"), "[1, 2]");
}

// What a run with the callback trains on; its checkpoints are in the folder.
struct Trained {
  Batches batches;
  std::int64_t steps = 0, spikes = 0;
};
Trained run_in(const TempFolder& dir, const Values& losses, const std::string& action, const std::string& resume = "") {
  Trained run;
  const auto detection = std::make_shared<SpikeDetection>(SpikeDetectionOptions{.action = action});
  TrainerOptions options = quiet({.max_epochs = 2,
                                  .callbacks = {detection, AtBatchEnd([&](Trainer& trainer, std::int64_t) {
                                                  run.batches.push_back(trainer.total_batch_idx());
                                                }),
                                                ModelCheckpoint({.dirpath = dir / (resume.empty() ? "c" : "resumed"),
                                                                 .save_top_k = -1,
                                                                 .every_n_train_steps = 1})},
                                  .default_root_dir = dir.path()});
  options.enable_checkpointing = true;
  Losses module(losses);
  try {
    run.steps = Trainer(options).fit(module, counting_loader(4), {.resume = resume}).global_step;
  } catch (const TrainingSpikeError&) {}
  run.spikes = detection->spikes();
  return run;
}

TEST(SpikeDetection, AResumedRunPassesOverTheListedBatches) {
  const TempFolder dir;
  const Values losses{1, 1, 1, 1, 1, 1, 9, 1};
  EXPECT_EQ(run_in(dir, losses, "raise").batches, (Batches{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(read_text(dir / "skip_batches.json"), "[5, 6]");
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(dir / "c")) files.push_back(entry.path());
  std::ranges::sort(files);
  for (const fs::path& file : files) {
    const Trained resumed = run_in(dir, losses, "raise", file.string());
    EXPECT_EQ(resumed.batches.back(), 7) << file;
    EXPECT_EQ(std::ranges::count(resumed.batches, 6), 0) << file;
  }
  EXPECT_EQ(run_in(dir, losses, "skip").batches, (Batches{0, 1, 2, 3, 4, 5, 6, 7})) << "a new run knows of none";
  anneal::testing::write_file(dir / "skip_batches.json", "{");
  EXPECT_THROW(run_in(dir, losses, "skip", files[0].string()), Error);
}

TEST(SpikeDetection, MayGoOn) {
  const TempFolder dir;
  const Trained run = run_in(dir, {1, 1, 9, 1, 1, 1, 9, 1}, "skip");
  EXPECT_EQ(run.steps, 8);
  EXPECT_EQ(run.spikes, 2);
  EXPECT_EQ(read_text(dir / "skip_batches.json"), "[1, 2, 5, 6]");
}

TEST(SpikeDetection, MayGoBackBeforeBothBatches) {
  const TempFolder dir;
  const Trained run = run_in(dir, {1, 1, 1, 1, 1, 1, 9, 1}, "rollback");
  EXPECT_EQ(run.batches, (Batches{0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(run.steps, 6) << "5 and 6 were undone";
  EXPECT_EQ(run.spikes, 1);
}

}  // namespace
}  // namespace anneal_test
