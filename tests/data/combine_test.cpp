// Loaders side by side.
#include "anneal/data/combine.h"

#include <gtest/gtest.h>

#include <set>

#include "anneal/core/ops.h"

namespace anneal {
namespace {

DataLoader numbers(std::int64_t n, DataLoaderOptions options = {}) {
  return DataLoader(TensorDataset{{"x", arange(n).to(DType::f32)}}, std::move(options));
}

std::vector<std::vector<double>> batches_of(BatchIterator it, const char* name) {
  std::vector<std::vector<double>> seen;
  for (; it != std::default_sentinel; ++it)
    seen.push_back(it->part(name).empty() ? std::vector<double>() : it->part(name)["x"].to_vector());
  return seen;
}

TEST(Combine, PartsHaveNames) {
  DataLoader both = combine({{"old", numbers(4, {.batch_size = 2})}, {"new", numbers(2)}});
  EXPECT_EQ(both.size(), 2);
  const Batch batch = *both.begin();
  EXPECT_EQ(batch.names(), std::vector<std::string>({"old.x", "new.x"}));
  EXPECT_EQ(batch.part("old")["x"].to_vector(), std::vector<double>({0, 1}));
  EXPECT_TRUE(batch.part("ol").empty());
}

TEST(Combine, APassMayBeginAnywhere) {
  const DataLoaderOptions shuffled{.shuffle = true, .num_workers = 1};
  for (const CombineMode mode : {CombineMode::max_size_cycle, CombineMode::min_size, CombineMode::max_size}) {
    const DataLoader both = combine({numbers(3, shuffled), numbers(7, shuffled)}, mode);
    for (const char* name : {"0", "1"}) {
      const auto whole = batches_of(both.begin(2, 0), name);
      ASSERT_EQ(static_cast<std::int64_t>(whole.size()), both.size());
      for (std::int64_t first = 0; first <= both.size(); ++first)
        EXPECT_EQ(batches_of(both.begin(2, first), name),
                  std::vector(whole.begin() + static_cast<std::ptrdiff_t>(first), whole.end()));
    }
  }
}

TEST(Combine, ACycleIsTheNextEpochOfTheShorterOne) {
  const DataLoader shorter = numbers(3, {.shuffle = true});
  const DataLoader both = combine({shorter, numbers(7)});
  std::vector<std::vector<double>> expected;
  for (const std::int64_t epoch : {3, 4, 5})  // three cycles an epoch
    for (BatchIterator it = shorter.begin(epoch, 0); it != std::default_sentinel && expected.size() < 7; ++it)
      expected.push_back((*it)["x"].to_vector());
  EXPECT_EQ(batches_of(both.begin(1, 0), "0"), expected);
}

TEST(Combine, RanksShareEachLoader) {
  const DataLoader both = combine({numbers(5, {.batch_size = 2}), numbers(8, {.batch_size = 2})});
  EXPECT_EQ(both.global_batch_size(1), 2);
  std::multiset<double> seen;
  std::int64_t batches = 0;
  for (const int rank : {0, 1}) {
    const DataLoader share = both.shard(rank, 2);
    EXPECT_EQ(share.size(), 2);
    EXPECT_EQ(share.global_batch_size(1), 1);
    // Of the first loader's second batch rank 1 has no sample: then it has no batch.
    for (BatchIterator it = share.begin(0, 0); it != std::default_sentinel; ++it) {
      ++batches;
      for (const double x : it->empty() ? std::vector<double>() : it->part("0")["x"].to_vector()) seen.insert(x);
    }
  }
  EXPECT_EQ(batches, 4);
  EXPECT_EQ(seen, std::multiset<double>({0, 1, 2, 3, 4}));
}

TEST(Combine, WhatItCannotTake) {
  EXPECT_THROW(combine(std::vector<DataLoader>()), ConfigError);
  EXPECT_THROW(combine({{"a", numbers(1)}, {"a", numbers(2)}}), ConfigError);
  const DataLoader stream([](std::int64_t) { return []() -> std::optional<Batch> { return std::nullopt; }; });
  EXPECT_THROW(combine({stream, numbers(1)}), ConfigError);
}

}  // namespace
}  // namespace anneal
