// What ranks tell each other: values of metrics, predictions, and what happened to one of them. Rows C-196 and C-198.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

#include "anneal/tests/dist/spawn_ranks.h"
#include "anneal/tests/trainer/support.h"
#include "anneal/trainer/checkpoint.h"

#if ANNEAL_HAS_GLOO

namespace anneal_test {
namespace {

using anneal::testing::RankFunction;
using anneal::testing::RankResults;
using anneal::testing::spawn_ranks;

struct Rows : Logger {
  explicit Rows(std::vector<std::string>* rows) : rows(rows) {}
  std::vector<std::string>* rows;
  void log_metrics(const MetricMap& row, std::int64_t x) override {
    for (const auto& [name, value] : row)
      if (name != "epoch") rows->push_back(format("{}: {} = {}", x, name, value));
  }
  fs::path log_dir() const override { return "."; }
};

// Rank r logs values of its own: 10 r + the step's number.
const RankFunction log_steps("logs_steps", [] {
  std::vector<std::string> rows;
  Trainer trainer(quiet({.max_epochs = 1, .log_every_n_steps = 2, .logger = Rows(&rows)}));
  Probe probe;
  probe.in_training_step = [](const Batch&, StepContext& step) {
    const double value = 10 * step.trainer().global_rank() + static_cast<double>(step.batch_idx());
    step.log("mean", value, {.sync_dist = true});
    step.log("sum", value, {.reduce = "sum", .sync_dist = true});
    step.log("own", value);
  };
  trainer.fit(probe, counting_loader(4));
  for (const std::string& row : rows) std::fprintf(stderr, "%s\n", row.c_str());
  return 0;
});

TEST(RanksTogether, RowsOfStepsHaveTheValuesOfAll) {
  const RankResults results = spawn_ranks(2, "logs_steps", {}, std::chrono::seconds(30));
  ASSERT_EQ(results.codes(), std::vector<int>({0, 0})) << results.ranks[0].err;
  EXPECT_EQ(results.ranks[0].err, "2: mean = 6\n2: sum = 12\n2: own = 1\n");
  EXPECT_EQ(results.ranks[1].err, "");
}

const RankFunction log_on_one("logs_on_one", [] {
  Trainer trainer(quiet({.max_epochs = 1}));
  Probe probe;
  probe.in_validation_step = [](const Batch&, StepContext& step) {
    if (step.trainer().global_rank() == 0) step.log("lonely", 1, {.sync_dist = true});
  };
  trainer.fit(probe, counting_loader(4), counting_loader(4));
  return 0;
});

const RankFunction log_step_on_one("logs_step_on_one", [] {
  Trainer trainer(quiet({.max_epochs = 1, .log_every_n_steps = 2}));
  Probe probe;
  probe.in_training_step = [](const Batch&, StepContext& step) {
    if (step.trainer().global_rank() == 0) step.log("lonely", 1, {.sync_dist = true});
  };
  trainer.fit(probe, counting_loader(4));
  return 0;
});

TEST(RanksTogether, AKeyThatOneDoesNotLogIsAnErrorOnAll) {
  for (const char* function : {"logs_on_one", "logs_step_on_one"}) {
    const RankResults results = spawn_ranks(2, function, {}, std::chrono::seconds(10));
    EXPECT_EQ(results.codes(), std::vector<int>({1, 1})) << function;
    for (const auto& rank : results.ranks)
      EXPECT_NE(rank.err.find("log: lonely was logged with sync_dist, but not on rank 1"), std::string::npos)
          << rank.err;
  }
}

// One sample: the other rank has no batch, and nothing to log of it. So it is with the third of training.
const RankFunction log_one_sample("logs_one_sample", [] {
  Trainer trainer(quiet({.max_epochs = 1, .log_every_n_steps = 1}));
  Probe probe;
  probe.in_training_step = [](const Batch&, StepContext& step) { step.log("loss", 1, {.sync_dist = true}); };
  probe.in_test_step = [](const Batch&, StepContext& step) { step.log("v", 3, {.sync_dist = true}); };
  if (trainer.fit(probe, counting_loader(3)).global_step != 2) return 2;
  return trainer.test(probe, counting_loader(1))[0]["v"] == 3 ? 0 : 1;
});

TEST(RanksTogether, OneWithoutABatchNeedNotLog) {
  const RankResults results = spawn_ranks(2, "logs_one_sample", {}, std::chrono::seconds(30));
  EXPECT_EQ(results.codes(), std::vector<int>({0, 0})) << results.ranks[0].err << results.ranks[1].err;
}

const RankFunction log_own("logs_own", [] {
  Trainer trainer(quiet({.max_epochs = 1}));
  Probe probe;
  probe.in_training_step = [](const Batch&, StepContext& step) {
    if (step.batch_idx() == 1 && step.trainer().callback_metrics().contains("step")) std::fputs("has step, ", stderr);
    step.log("step", 1, {.rank_zero_only = true});
  };
  probe.in_validation_step = [](const Batch&, StepContext& step) {
    const double rank = step.trainer().global_rank();
    step.log("first", rank, {.rank_zero_only = true});
    step.log("own", rank);
    step.log("mean", rank, {.sync_dist = true});
  };
  trainer.fit(probe, counting_loader(4), counting_loader(2));
  for (const auto& [name, value] : trainer.callback_metrics()) std::fprintf(stderr, "%s = %g, ", name.c_str(), value);
  return 0;
});

TEST(RanksTogether, SeeTheFirstOnesMetricsButThoseItKeeps) {
  const RankResults results = spawn_ranks(2, "logs_own", {}, std::chrono::seconds(30));
  ASSERT_EQ(results.codes(), std::vector<int>({0, 0})) << results.ranks[0].err;
  EXPECT_EQ(results.ranks[0].err, "has step, step = 1, first = 0, own = 0, mean = 0.5, ");
  EXPECT_EQ(results.ranks[1].err, "own = 0, mean = 0.5, ");
}

// The first one's metric does not get better, the other's does.
const RankFunction look_at_own("looks_at_own", [] {
  struct Module : Probe {
    Interval interval = Interval::epoch;
    OptimizerConfig configure_optimizers() override {
      return {{.optimizer = optim::SGD(parameters(), {.lr = 1}),
               .interval = interval,
               .plateau = optim::PlateauOptions{.factor = 0.5, .patience = 0},
               .monitor = "v"}};
    }
  } module;
  for (const Interval interval : {Interval::epoch, Interval::step}) {
    Trainer trainer(quiet({.max_epochs = 3}));
    module.interval = interval;
    module.in_training_step = [](const Batch&, StepContext& step) {
      step.log("v", step.trainer().is_global_zero() ? 1.0 : -static_cast<double>(step.global_step()));
    };
    trainer.fit(module, counting_loader(4));
    std::fprintf(stderr, "%g ", trainer.optimizer()->lr());
  }
  return 0;
});

TEST(RanksTogether, APlateauIsTheFirstOnes) {
  const RankResults results = spawn_ranks(2, "looks_at_own", {}, std::chrono::seconds(30));
  ASSERT_EQ(results.codes(), std::vector<int>({0, 0})) << results.ranks[0].err;
  for (const auto& rank : results.ranks) EXPECT_EQ(rank.err, "0.25 0.03125 ");
}

// What befalls the second of two ranks in batch 1 of 4. Of batch i the ranks' gradients are 2 i + 1 and 2 i + 2.
struct Befallen : Probe {
  explicit Befallen(std::string what) : what(std::move(what)) {}
  std::string what;
  double loss = 0, scale = 0;

  Tensor training_step(const Batch& batch, StepContext& step) override {
    const int rank = trainer().global_rank();
    const Tensor own = sum(weight) * mean(batch["x"] + 1.0);
    loss = own.item();
    if (what == "weights") step.set_weight(rank == 0 ? 1 : 3);
    if (step.batch_idx() != 1) return own;
    if (what == "no loss on both") return {};
    if (rank == 0) return own;
    if (what == "a weight") step.set_weight(1);
    if (what == "no loss") return {};
    if (what == "a bad loss") return own * NAN;
    if (what == "a bad gradient") return own + sum(sqrt(weight * 0.0));
    if (what == "an overflow") return own * 1e38;
    return own;
  }
  void on_before_backward(const Tensor& scaled) override { scale = scaled.item() / loss; }
};

void meet(const std::string& what, TrainerOptions options = {}) {
  options.max_epochs = 1;
  options = quiet(options);
  options.enable_checkpointing = !options.callbacks.empty();
  Trainer trainer(options);
  Befallen module(what);
  const FitResult result = trainer.fit(module, counting_loader(8));
  std::string line = format("{}: {} steps, {}, {}", what, result.global_step,
                            std::round(module.weight.item() * -1e4) / 1e3, result.reason);
  if (trainer.bad_windows() > 0) line += format(", {} bad", trainer.bad_windows());
  if (trainer.skipped_steps() > 0) line += format(", {} skipped, scale {}", trainer.skipped_steps(), module.scale);
  std::fprintf(stderr, "%s\n", line.c_str());
}

const RankFunction meet_things("meets_things", [] {
  meet("nothing");
  meet("no loss");
  meet("no loss", {.accumulate_grad_batches = 2});
  meet("no loss on both");
  for (const char* what : {"a bad loss", "a bad gradient"}) {
    meet(what, {.on_bad_number = "skip"});
    meet(what, {.on_bad_number = "stop"});
    const fs::path folder = fs::path(std::getenv("CHECKPOINTS")) / what;
    meet(what,
         {.on_bad_number = "rollback", .callbacks = {ModelCheckpoint({.dirpath = folder, .every_n_train_steps = 1})}});
  }
  meet("an overflow", {.precision = "16-mixed"});
  meet("weights");
  meet("a weight");
  return 0;
});

// Gradients are means of both ranks': 1.5, 3.5, 5.5 and 7.5; in one window of two batches they are 2.5 and 6.5.
TEST(RanksTogether, WhatBefallsOneIsWeighedForAll) {
  const TempFolder dir;
  const RankResults results =
      spawn_ranks(2, "meets_things", {{"CHECKPOINTS", dir.path().string()}}, std::chrono::seconds(60));
  EXPECT_EQ(results.codes(), std::vector<int>({1, 1})) << "the last one";
  const std::string expected =
      "nothing: 4 steps, 18, max_epochs\n"
      "no loss: 4 steps, 17.5, max_epochs\n"  // 3 in place of 3.5
      "no loss: 2 steps, 8.5, max_epochs\n"   // (1 + 2 + 3) / 3 and 6.5
      "no loss on both: 3 steps, 14.5, max_epochs\n"
      "a bad loss: 3 steps, 14.5, max_epochs, 1 bad\n"
      "a bad loss: 1 steps, 1.5, bad_number, 1 bad\n"
      "a bad loss: 3 steps, 14.5, max_epochs, 1 bad\n"  // after the checkpoint of batch 0
      "a bad gradient: 3 steps, 14.5, max_epochs, 1 bad\n"
      "a bad gradient: 1 steps, 1.5, bad_number, 1 bad\n"
      "a bad gradient: 3 steps, 14.5, max_epochs, 1 bad\n"
      "an overflow: 3 steps, 14.5, max_epochs, 1 skipped, scale 16384\n"  // half of it: a rank's share of the loss
      "weights: 4 steps, 9, max_epochs\n";                                // sums, by 1 + 3
  for (const auto& rank : results.ranks) {
    EXPECT_EQ(rank.err.substr(0, expected.size()), expected);
    EXPECT_NE(rank.err.find("set_weight: expected on all ranks or on none"), std::string::npos) << rank.err;
  }
}

// A check goes on where the other rank has no batch any more; where both have, one can break it off for both.
const RankFunction check_unevenly("checks_unevenly", [] {
  std::int64_t checked = 0;
  Trainer trainer(quiet({.use_distributed_sampler = false, .max_epochs = 2, .num_sanity_val_steps = 0}));
  const int rank = trainer.global_rank();
  Probe probe;
  probe.in_validation_step = [&](const Batch&, StepContext& step) {
    ++checked;
    if (step.current_epoch() == 1 && rank == 0 && step.batch_idx() == 1) step.skip_epoch();
  };
  trainer.fit(probe, counting_loader(2), counting_loader(rank == 0 ? 5 : 3));
  return checked == (rank == 0 ? 5 + 2 : 3 + 2) ? 0 : 1;
});

TEST(RanksTogether, BreakOffWhatBothCheck) {
  EXPECT_EQ(spawn_ranks(2, "checks_unevenly", {}, std::chrono::seconds(30)).codes(), std::vector<int>({0, 0}));
}

struct Doubling : Probe {
  Batch predict_step(const Batch& batch, StepContext& step) override {
    const Tensor rank = zeros({batch.size()}, {.dtype = DType::i64}) + step.trainer().global_rank();
    return {{"twice", batch["x"] * 2.0}, {"rank", rank}};
  }
};

// Five samples, two a batch, then one: the last one leaves the other rank without a prediction.
const RankFunction predict_together("predicts", [] {
  Doubling module;
  Trainer trainer(quiet({}));
  const Tensor x = arange(5).to(DType::f32).reshape({5, 1});
  for (const std::int64_t samples : {5, 1}) {
    const DataLoader loader(TensorDataset{{"x", x.slice(0, 0, samples)}}, {.batch_size = 1, .shuffle = true});
    const std::vector<Batch> all = trainer.predict(module, loader, {.gather = true});
    if (all.size() != 1) return 2;
    for (const double value : all[0]["twice"].to_vector()) std::fprintf(stderr, "%g ", value);
    if (all[0]["twice"].shape() != Shape({samples, 1}) || all[0]["rank"].dtype() != DType::i64) return 3;
    if (samples == 5 && amax(all[0]["rank"].to(DType::f32)).item() != 1) return 4;
  }
  const auto own = trainer.predict(module, counting_loader(5));
  return own.size() <= 3 ? 0 : 5;
});

TEST(RanksTogether, PredictionsAreGatheredInTheSamplesOrder) {
  const RankResults results = spawn_ranks(2, "predicts", {}, std::chrono::seconds(30));
  ASSERT_EQ(results.codes(), std::vector<int>({0, 0})) << results.ranks[0].err << results.ranks[1].err;
  for (const auto& rank : results.ranks) EXPECT_EQ(rank.err, "0 2 4 6 8 0 ");
}

const RankFunction predict_sums("predicts_sums", [] {
  struct Sums : Probe {
    Batch predict_step(const Batch& batch, StepContext&) override { return {{"sum", sum(batch["x"])}}; }
  } module;
  Trainer(quiet({})).predict(module, counting_loader(4, 2), {.gather = true});
  return 0;
});

TEST(RanksTogether, WhatIsGatheredHasARowForEachSample) {
  const RankResults results = spawn_ranks(2, "predicts_sums", {}, std::chrono::seconds(30));
  EXPECT_EQ(results.codes(), std::vector<int>({1, 1}));
  EXPECT_NE(results.ranks[0].err.find("sum"), std::string::npos) << results.ranks[0].err;
}

const RankFunction sync_batchnorm("sync_batchnorm", [] {
  Trainer trainer(quiet({.sync_batchnorm = true}));
  return 0;
});

TEST(RanksTogether, StatisticsOfAllBatchesAreRefused) {
  const RankResults results = spawn_ranks(2, "sync_batchnorm", {}, std::chrono::seconds(30));
  EXPECT_EQ(results.codes(), std::vector<int>({1, 1}));
  EXPECT_NE(results.ranks[0].err.find("sync_batchnorm"), std::string::npos) << results.ranks[0].err;
  EXPECT_NO_THROW(Trainer(quiet({.sync_batchnorm = true}))) << "one rank's are all there are";
}

// Rank 1 has no sample of its own.
struct Alone : Probe {
  bool allowed = true;
  bool allow_zero_length() const override { return allowed; }
  OptimizerConfig configure_optimizers() override { return {optim::SGD(parameters(), {.lr = 0.5})}; }
};
int fit_with_samples_on_one(bool allowed) {
  Trainer trainer(quiet({.use_distributed_sampler = false, .max_epochs = 2, .accumulate_grad_batches = 2}));
  Alone probe;
  probe.allowed = allowed;
  probe.in_validation_step = [](const Batch&, StepContext& step) { step.log("v", 4, {.sync_dist = true}); };
  const std::int64_t n = trainer.global_rank() == 0 ? 3 : 0;
  const FitResult result = trainer.fit(probe, counting_loader(n), counting_loader(n));
  std::fprintf(stderr, "%d %g %g", static_cast<int>(result.global_step), probe.weight.item(),
               trainer.callback_metrics()["v"]);
  return 0;
}
const RankFunction samples_on_one("samples_on_one", [] { return fit_with_samples_on_one(true); });
const RankFunction samples_on_one_refused("samples_on_one_refused", [] { return fit_with_samples_on_one(false); });

TEST(RanksTogether, OneMayHaveNoSampleIfTheModuleSaysSo) {
  Alone probe;
  Trainer(quiet({.max_epochs = 2, .accumulate_grad_batches = 2})).fit(probe, counting_loader(3));
  const RankResults results = spawn_ranks(2, "samples_on_one", {}, std::chrono::seconds(30));
  ASSERT_EQ(results.codes(), std::vector<int>({0, 0})) << results.ranks[0].err << results.ranks[1].err;
  for (const auto& rank : results.ranks) EXPECT_EQ(rank.err, format("4 {} 4", probe.weight.item()));
  const RankResults refused = spawn_ranks(2, "samples_on_one_refused", {}, std::chrono::seconds(30));
  ASSERT_EQ(refused.codes(), std::vector<int>({1, 1}));
  EXPECT_NE(refused.ranks[1].err.find("allow_zero_length"), std::string::npos) << refused.ranks[1].err;
}

// The weights as they are after a fit on two machines of one rank each, whose disks are not shared.
const RankFunction saves_on_each("saves_on_each", [] {
  Trainer trainer(quiet({.num_nodes = 2, .max_epochs = 1}));
  Probe probe;
  trainer.fit(probe, counting_loader(4));
  const fs::path folder = fs::path(std::getenv("FOLDER")) / std::to_string(trainer.node_rank());
  trainer.save_checkpoint(folder / "one");
  trainer.save_checkpoint(folder / "each", {.save_per_node = true});
  std::fprintf(stderr, "%g", probe.weight.item());
  return 0;
});

TEST(RanksTogether, AFileMayBeWrittenOnEachMachine) {
  const TempFolder dir;
  fs::create_directories(dir / "0");
  fs::create_directories(dir / "1");
  const RankResults results = spawn_ranks(
      2, "saves_on_each", {{"LOCAL_WORLD_SIZE", "1"}, {"FOLDER", (dir / "").string()}}, std::chrono::seconds(30));
  ASSERT_EQ(results.codes(), std::vector<int>({0, 0})) << results.ranks[0].err << results.ranks[1].err;
  EXPECT_TRUE(fs::exists(dir / "0/one"));
  EXPECT_FALSE(fs::exists(dir / "1/one"));
  for (const char* file : {"0/each", "1/each"})
    EXPECT_EQ(format("{}", load_checkpoint(dir / file).model.at(0).tensor.item()), results.ranks[0].err) << file;
}

// T-744
const RankFunction shares_data("shares_data", [] {
  Trainer trainer(quiet({.max_epochs = 1}));
  const TensorDataset none = trainer.shared_dataset([] { return StateDict{{"x", zeros({0, 3})}}; });
  if (none.size() != 0) return 2;
  bool made = false;
  const TensorDataset data = trainer.shared_dataset([&] {
    made = true;
    const Tensor x = arange(1000, {.dtype = DType::f32}).view({500, 2});
    return StateDict{{"x", x.transpose(0, 1).contiguous().transpose(0, 1)}, {"a name", arange(500)}};
  });
  const std::vector<std::int64_t> last = {499};
  const Batch batch = data.get(last);
  std::ifstream maps("/proc/self/maps");
  const std::string mapped(std::istreambuf_iterator<char>(maps), {});
  std::fprintf(stderr, "%d %g %g %d", made, batch["x"].to_vector()[1], batch["a name"].item(),
               mapped.find("memfd:anneal") != std::string::npos);
  return 0;
});

TEST(RanksTogether, DataIsMadeOnceForAMachine) {
  const RankResults results = spawn_ranks(2, "shares_data", {}, std::chrono::seconds(30));
  ASSERT_EQ(results.codes(), std::vector<int>({0, 0})) << results.ranks[0].err << results.ranks[1].err;
  EXPECT_EQ(results.ranks[0].err, "1 999 499 1");
  EXPECT_EQ(results.ranks[1].err, "0 999 499 1");

  Trainer alone(quiet({.max_epochs = 1}));
  EXPECT_EQ(alone.shared_dataset([] { return StateDict{{"x", ones({3})}}; }).size(), 3);
}

}  // namespace
}  // namespace anneal_test

#else

TEST(RanksTogether, TellEachOther) { GTEST_SKIP() << "NOT TESTED: this build has no Gloo"; }

#endif
