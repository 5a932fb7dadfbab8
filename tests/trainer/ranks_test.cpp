// Training on several ranks, each a process, against training on one.
#include <gtest/gtest.h>

#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <sstream>
#include <string>

#include "anneal/anneal.h"
#include "anneal/tests/dist/spawn_ranks.h"
#include "anneal/tests/temp_folder.h"

#if ANNEAL_HAS_GLOO

namespace anneal {
namespace {

using anneal::testing::RankFunction;
using anneal::testing::RankResults;
using anneal::testing::spawn_ranks;
using anneal::testing::time_scale;
using Variables = std::map<std::string, std::string>;

// 97 samples, of which 12 make a batch of all ranks: the ninth batch of an epoch has one, and most ranks none of it.
constexpr std::int64_t samples = 97, global_batch = 12;

struct Net : TrainingModule {
  explicit Net(std::int64_t hidden = 7, double dropout = 0) : drop{{this, "drop"}, dropout}, hidden(hidden) {}

  nn::Dropout drop;
  std::int64_t hidden;
  nn::Sequential net{{this, "net"}, nn::Linear(5, hidden), nn::Tanh(), nn::Linear(hidden, 1)};

  Tensor loss_of(const Batch& batch) { return mse_loss(net(drop(batch["x"])).squeeze(1), batch["y"]); }
  Tensor training_step(const Batch& batch, StepContext& step) override {
    const Tensor loss = loss_of(batch);
    step.log("loss", loss, {.on_step = false, .on_epoch = true, .sync_dist = true});
    return loss;
  }
  void validation_step(const Batch& batch, StepContext& step) override {
    step.log("val_loss", loss_of(batch), {.sync_dist = true});
    step.log("largest", amax(batch["y"]), {.reduce = "max", .sync_dist = true});
  }
  OptimizerConfig configure_optimizers() override {
    return {{.optimizer = optim::AdamW(parameters(), {.lr = 0.01}),
             .schedule = optim::warmup_cosine(5, 60),
             .interval = Interval::step}};
  }
};

DataLoader loader(int ranks, bool shuffle) {
  Generator generator(5);
  const GeneratorScope scope(generator);
  const Tensor x = randn({samples, 5}, {.dtype = DType::f64});
  const Tensor y = sin(sum(x, {1})) + 0.1 * randn({samples}, {.dtype = DType::f64});
  return DataLoader(TensorDataset{{"x", x}, {"y", y}},
                    {.batch_size = global_batch / ranks, .shuffle = shuffle, .seed = 3});
}

TrainerOptions options_of(int accumulate) {
  return {.precision = "64-true",
          .failure_timeout = 10 * time_scale(),
          .max_steps = 50,
          .accumulate_grad_batches = accumulate,
          .gradient_clip_val = 0.3,
          .logger = false,
          .enable_checkpointing = false,
          .enable_progress_bar = false,
          .seed = 11,
          .sink = [](std::string_view) {}};
}

int from_environment(const char* name, int otherwise) {
  const char* const text = std::getenv(name);
  return text ? std::atoi(text) : otherwise;
}

// Every number of the trained module and of the metrics, exactly.
std::string describe(const Net& net, const Trainer& trainer) {
  std::ostringstream out;
  for (const NamedTensor& entry : net.state_dict())
    for (const double value : entry.tensor.to_vector()) {
      char text[40];
      std::snprintf(text, sizeof text, "%a ", value);
      out << text;
    }
  for (const char* name : {"loss", "val_loss", "largest"}) out << format("{} ", trainer.callback_metrics()[name]);
  return out.str();
}

std::string train(int accumulate) {
  TrainerOptions options = options_of(accumulate);
  if (const int bytes = from_environment("TEST_BUCKET_BYTES", 0))
    options.strategy = DDPStrategy({.bucket_bytes = bytes, .first_bucket_bytes = bytes});
  Trainer trainer(options);
  // Weights differ between ranks until rank 0's are given to all.
  manual_seed(static_cast<std::uint64_t>(40 + trainer.global_rank()));
  Net net;
  const int ranks = trainer.world_size();
  trainer.fit(net, loader(ranks, true), loader(ranks, false));
  EXPECT_EQ(trainer.global_step(), 50);
  return describe(net, trainer);
}

const RankFunction train_ranks("train", [] {
  std::fputs(train(from_environment("TEST_ACCUMULATE", 1)).c_str(), stderr);
  return 0;
});

std::vector<double> numbers(const std::string& text) {
  std::istringstream words(text);
  std::vector<double> values;
  for (std::string word; words >> word;) values.push_back(std::strtod(word.c_str(), nullptr));
  return values;
}

class Ranks : public ::testing::TestWithParam<int> {};

TEST_P(Ranks, GiveTheWeightsOfOneProcess) {
  const Variables variables{{"TEST_ACCUMULATE", std::to_string(GetParam())}};
  const std::vector<double> alone = numbers(train(GetParam()));
  ASSERT_GT(alone.size(), 50u);
  for (const int ranks : {2, 3}) {
    const RankResults results = spawn_ranks(ranks, "train", variables, std::chrono::seconds(60));
    ASSERT_EQ(results.codes(), std::vector<int>(static_cast<std::size_t>(ranks), 0)) << results.ranks[0].err;
    for (const auto& rank : results.ranks) EXPECT_EQ(rank.err, results.ranks[0].err) << "ranks differ";
    const std::vector<double> together = numbers(results.ranks[0].err);
    ASSERT_EQ(together.size(), alone.size()) << results.ranks[0].err;
    double worst = 0;
    for (std::size_t i = 0; i < alone.size(); ++i) worst = std::max(worst, std::abs(together[i] - alone[i]));
    EXPECT_LE(worst, 1e-6) << ranks << " ranks";
    if (ranks == 2) {
      const RankResults again = spawn_ranks(ranks, "train", variables, std::chrono::seconds(60));
      EXPECT_EQ(again.ranks[0].err, results.ranks[0].err) << "two runs differ";
      Variables small = variables;
      small["TEST_BUCKET_BYTES"] = "32";
      const RankResults cut = spawn_ranks(ranks, "train", small, std::chrono::seconds(60));
      EXPECT_EQ(cut.ranks[0].err, results.ranks[0].err) << "with small buckets";
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Accumulation, Ranks, ::testing::Values(1, 2, 3));

const RankFunction train_misfits("misfits", [] {
  Trainer trainer(options_of(1));
  Net net(7 + trainer.global_rank());
  trainer.fit(net, loader(2, true));
  return 0;
});

TEST(RanksOf, DifferentModelsAreAnErrorOnAll) {
  const RankResults results = spawn_ranks(2, "misfits", {}, std::chrono::seconds(30));
  EXPECT_EQ(results.codes(), std::vector<int>({1, 1}));
  for (const auto& rank : results.ranks) {
    EXPECT_NE(rank.err.find("rank 1 differs"), std::string::npos) << rank.err;
    EXPECT_NE(rank.err.find("net.2.weight"), std::string::npos) << rank.err;
  }
}

// What one rank throws ends the job on all, by its name and its words.
const RankFunction train_and_throw("throws", [] {
  struct Thrower : Net {
    Tensor training_step(const Batch& batch, StepContext& step) override {
      if (step.global_step() == 7 && trainer().global_rank() == 1) throw Error("this batch is rotten");
      return Net::training_step(batch, step);
    }
  };
  Trainer trainer(options_of(1));
  Thrower net;
  trainer.fit(net, loader(2, true));
  return 0;
});

TEST(RanksOf, OneThatThrowsEndsAll) {
  const RankResults results = spawn_ranks(2, "throws", {}, std::chrono::seconds(30));
  EXPECT_EQ(results.codes(), std::vector<int>({1, 1}));
  EXPECT_NE(results.ranks[0].err.find("rank 1"), std::string::npos) << results.ranks[0].err;
  EXPECT_NE(results.ranks[0].err.find("this batch is rotten"), std::string::npos) << results.ranks[0].err;
  EXPECT_EQ(results.ranks[1].err, "this batch is rotten\n");
}

// Only one rank asks for the end; it comes on all after the same step.
const RankFunction train_and_stop("stops", [] {
  struct Stopper : Net {
    Tensor training_step(const Batch& batch, StepContext& step) override {
      if (step.global_step() == 12 && trainer().global_rank() == 1) trainer().stop();
      return Net::training_step(batch, step);
    }
  };
  Trainer trainer(options_of(1));
  Stopper net;
  const FitResult result = trainer.fit(net, loader(2, true));
  return result.reason == StopReason::stopped && result.global_step == 13 && trainer.should_stop() ? 0 : 1;
});

TEST(RanksOf, StopTogether) {
  EXPECT_EQ(spawn_ranks(2, "stops", {}, std::chrono::seconds(30)).codes(), std::vector<int>({0, 0}));
}

// Of a search for a learning rate nothing stays but rank 0's suggestion.
const RankFunction train_and_search("searches", [] {
  const auto result_with = [](std::vector<Shared<Callback>> callbacks) {
    TrainerOptions options = options_of(1);
    options.callbacks = std::move(callbacks);
    Trainer trainer(std::move(options));
    manual_seed(40);
    Net net;
    trainer.fit(net, loader(2, true), loader(2, false));
    return describe(net, trainer);
  };
  const auto finder = std::make_shared<LearningRateFinder>(
      LearningRateFinderOptions{.min_lr = 1e-4, .num_training = 30, .update_attr = false});
  if (result_with({finder}) != result_with({}) || finder->curve().lr.size() < 20) return 1;
  double rate = 0;
  const std::string result = result_with({LearningRateFinder({.min_lr = 1e-4, .num_training = 30, .attr = &rate})});
  std::fputs(format("{} {}", rate, result).c_str(), stderr);
  return rate > 0 ? 0 : 1;
});

TEST(RanksOf, SearchTogether) {
  const RankResults results = spawn_ranks(2, "searches", {}, std::chrono::seconds(60));
  ASSERT_EQ(results.codes(), std::vector<int>({0, 0})) << results.ranks[0].err;
  EXPECT_EQ(results.ranks[0].err, results.ranks[1].err);
}

const RankFunction train_and_scale("scales", [] {
  Trainer trainer(options_of(1));
  Net net;
  DataLoader train = loader(2, true);
  Tuner(trainer).scale_batch_size(net, train);
  return 0;
});

TEST(RanksOf, SearchForNoBatchSize) {
  const RankResults results = spawn_ranks(2, "scales", {}, std::chrono::seconds(30));
  EXPECT_EQ(results.codes(), std::vector<int>({1, 1}));
  EXPECT_NE(results.ranks[0].err.find("scale_batch_size: expected one rank, got 2"), std::string::npos)
      << results.ranks[0].err;
}

// Layers that are unfrozen on the way are summed over the ranks from then on.
const RankFunction train_and_unfreeze("unfreezes", [] {
  struct Unfreezer : Net {
    Unfreezer() { net[0].set_requires_grad(false); }
    void on_train_epoch_start() override {
      if (trainer().current_epoch() != 2) return;
      net[0].set_requires_grad(true);
      trainer().optimizer()->rebuild();
    }
  };
  Trainer trainer(options_of(1));
  Unfreezer net;
  trainer.fit(net, loader(2, true), loader(2, false));
  std::fputs(describe(net, trainer).c_str(), stderr);
  return 0;
});

TEST(RanksOf, UnfreezeTogether) {
  const RankResults results = spawn_ranks(2, "unfreezes", {}, std::chrono::seconds(30));
  ASSERT_EQ(results.codes(), std::vector<int>({0, 0})) << results.ranks[0].err;
  EXPECT_EQ(results.ranks[0].err, results.ranks[1].err);
}

// With dropout, whose masks are each rank's own. The files are rank 0's; the other learns which is the best. It may
// get a signal in one batch of the run.
const RankFunction train_in_parts("resumes", [] {
  const std::filesystem::path folder = std::getenv("TEST_FOLDER");
  const auto best = std::make_shared<ModelCheckpoint>(
      ModelCheckpointOptions{.dirpath = folder, .monitor = "val_loss", .save_last = true});
  TrainerOptions options = options_of(from_environment("TEST_ACCUMULATE", 1));
  options.max_steps = -1;
  options.max_epochs = from_environment("TEST_EPOCHS", 4);
  options.handle_signals = true;
  options.callbacks = {best};
  options.enable_checkpointing = true;
  struct Signalled : Net {
    using Net::Net;
    Tensor training_step(const Batch& batch, StepContext& step) override {
      const bool now = trainer().total_batch_idx() == from_environment("TEST_SIGNAL_AT", -1);
      if (now && trainer().global_rank() == 1) std::raise(SIGTERM);
      return Net::training_step(batch, step);
    }
  };
  Trainer trainer(options);
  manual_seed(7);
  Signalled net(7, 0.4);
  const char* const resume = std::getenv("TEST_RESUME");
  const FitResult result = trainer.fit(net, loader(2, true), loader(2, false), {.resume = resume ? resume : ""});
  if (!std::filesystem::exists(best->best_model_path())) return 2;
  if (result.signal != (std::getenv("TEST_SIGNAL_AT") ? SIGTERM : 0)) return 3;
  std::fputs(describe(net, trainer).c_str(), stderr);
  return 0;
});

class RanksThatResume : public ::testing::Test {
 protected:
  // What both ranks have in the end.
  std::string run(const char* name, Variables variables) const {
    variables["TEST_FOLDER"] = (folder / name).string();
    const RankResults results = spawn_ranks(2, "resumes", variables, std::chrono::seconds(60));
    EXPECT_EQ(results.codes(), std::vector<int>({0, 0})) << results.ranks[0].err << results.ranks[1].err;
    EXPECT_EQ(results.ranks[0].err, results.ranks[1].err);
    return results.ranks[0].err;
  }
  void TearDown() override { std::filesystem::remove_all(folder); }

  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / format("anneal_ranks_{}", std::random_device()());
};

TEST_F(RanksThatResume, GoOnToTheBit) {
  const std::string whole = run("whole", {});
  const std::string half = run("parts", {{"TEST_EPOCHS", "2"}});
  EXPECT_NE(half, whole);
  EXPECT_EQ(run("parts", {{"TEST_RESUME", "last"}}), whole);
}

// In the second epoch's second batch, of nine in windows of three.
TEST_F(RanksThatResume, GoOnFromASignalToOneOfThem) {
  const std::string whole = run("whole", {{"TEST_ACCUMULATE", "3"}});
  const std::string part = run("parts", {{"TEST_ACCUMULATE", "3"}, {"TEST_SIGNAL_AT", "10"}});
  EXPECT_NE(part, whole);
  EXPECT_EQ(run("parts", {{"TEST_ACCUMULATE", "3"}, {"TEST_RESUME", "last"}}), whole);
}

// Two steps of three batches, with a checkpoint in TEST_FOLDER after one of the batches, or from it.
const RankFunction train_windows("windows", [] {
  const std::filesystem::path file = std::filesystem::path(std::getenv("TEST_FOLDER")) / "file";
  TrainerOptions options = options_of(3);
  options.max_steps = 2;
  const int save_at = from_environment("TEST_SAVE_AT", -1);
  options.callbacks = {LambdaCallback(
      {.on_train_batch_end = [&](Trainer& trainer, TrainingModule&, const Tensor&, const Batch&, StepContext&) {
        if (trainer.total_batch_idx() == save_at) trainer.save_checkpoint(file);
      }})};
  Trainer trainer(options);
  Net net;
  try {
    trainer.fit(net, loader(2, true), loader(2, false), {.resume = save_at < 0 ? file.string() : ""});
  } catch (const Error& error) { std::fputs(error.what(), stderr); }
  return 0;
});

class RankFiles : public ::testing::Test {
 protected:
  RankResults run(const Variables& more) const {
    Variables variables{{"TEST_FOLDER", folder_.path().string()}};
    variables.insert(more.begin(), more.end());
    const RankResults results = spawn_ranks(2, "windows", variables, std::chrono::seconds(60));
    EXPECT_EQ(results.codes(), std::vector<int>({0, 0})) << results.ranks[0].err << results.ranks[1].err;
    return results;
  }
  std::string file() const { return (folder_ / "file").string(); }

 private:
  testing::TempFolder folder_;
};

// T-541
TEST_F(RankFiles, FromWithinAWindowAreRefused) {
  run({{"TEST_SAVE_AT", "1"}});
  for (const auto& rank : run({}).ranks)
    EXPECT_NE(rank.err.find("within an accumulation window; that goes on only from one rank on one, got 2 on 2"),
              std::string::npos)
        << rank.err;
}

// T-548: of two ranks with 6 samples each, on one.
TEST_F(RankFiles, OfAnotherGlobalBatchGiveAWarning) {
  run({{"TEST_SAVE_AT", "2"}});
  for (const int ranks : {1, 2}) {
    std::string text;
    TrainerOptions options = options_of(3);
    options.max_steps = 2;
    options.sink = [&](std::string_view line) { text += line; };
    Trainer trainer(options);
    Net net;
    trainer.fit(net, loader(ranks, true), loader(ranks, false), {.resume = file()});
    EXPECT_EQ(trainer.global_step(), 2);
    EXPECT_EQ(text.find("the batches will differ") != std::string::npos, ranks == 2) << text;
  }
}

}  // namespace
}  // namespace anneal

#else

TEST(Ranks, TrainLikeOneProcess) { GTEST_SKIP() << "NOT TESTED: this build has no Gloo"; }

#endif
