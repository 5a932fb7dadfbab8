// What ranks tell each other: values of metrics, and predictions. Rows C-196 and C-198.
#include <gtest/gtest.h>

#include <cstdio>
#include <string>

#include "anneal/tests/dist/spawn_ranks.h"
#include "anneal/tests/trainer/support.h"

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

TEST(RanksTogether, AKeyThatOneDoesNotLogIsAnErrorOnAll) {
  const RankResults results = spawn_ranks(2, "logs_on_one", {}, std::chrono::seconds(10));
  EXPECT_EQ(results.codes(), std::vector<int>({1, 1}));
  for (const auto& rank : results.ranks)
    EXPECT_NE(rank.err.find("log: lonely was logged with sync_dist, but not on rank 1"), std::string::npos) << rank.err;
}

// One sample: the other rank has no batch, and nothing to log of it.
const RankFunction log_one_sample("logs_one_sample", [] {
  Trainer trainer(quiet({}));
  Probe probe;
  probe.in_test_step = [](const Batch&, StepContext& step) { step.log("v", 3, {.sync_dist = true}); };
  return trainer.test(probe, counting_loader(1))[0]["v"] == 3 ? 0 : 1;
});

TEST(RanksTogether, OneWithoutABatchNeedNotLog) {
  const RankResults results = spawn_ranks(2, "logs_one_sample", {}, std::chrono::seconds(30));
  EXPECT_EQ(results.codes(), std::vector<int>({0, 0})) << results.ranks[0].err << results.ranks[1].err;
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

}  // namespace
}  // namespace anneal_test

#else

TEST(RanksTogether, TellEachOther) { GTEST_SKIP() << "NOT TESTED: this build has no Gloo"; }

#endif
