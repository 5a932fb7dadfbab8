// A loader's shards, which ranks that train together read: in all they give what one loader gives.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <set>
#include <vector>

#include "anneal/core/ops.h"
#include "anneal/data/data_loader.h"
#include "anneal/tests/expect.h"

namespace anneal::testing {
namespace {

using Values = std::vector<double>;

TensorDataset numbers(std::int64_t n) { return TensorDataset{{"x", arange(n, {.dtype = DType::f32})}}; }

// A rank whose share of a batch is empty gets one without tensors.
Values values_of(const Batch& batch) { return batch.empty() ? Values() : batch["x"].to_vector(); }

std::vector<Values> rest_of(BatchIterator it) {
  std::vector<Values> out;
  for (; it != std::default_sentinel; ++it) out.push_back(values_of(*it));
  return out;
}

std::vector<DataLoader> shards_of(const DataLoader& loader, int ranks) {
  std::vector<DataLoader> shards;
  for (int rank = 0; rank < ranks; ++rank) shards.push_back(loader.shard(rank, ranks));
  return shards;
}

// Batch i of all shards together: sample k is the next one of shard k % ranks.
std::vector<Values> merged(const std::vector<DataLoader>& shards, std::int64_t epoch, std::int64_t first = 0) {
  std::vector<std::vector<Values>> parts;
  for (const DataLoader& shard : shards) parts.push_back(rest_of(shard.begin(epoch, first)));
  std::vector<Values> out(parts[0].size());
  for (const auto& part : parts) EXPECT_EQ(part.size(), out.size()) << "ranks with more batches would wait for others";
  for (std::size_t i = 0; i < out.size(); ++i)
    for (std::size_t k = 0; k / parts.size() < parts[0][i].size(); ++k)
      if (const Values& part = parts[k % parts.size()].at(i); k / parts.size() < part.size())
        out[i].push_back(part[k / parts.size()]);
  return out;
}

struct Case {
  std::int64_t samples, batch_size;
  int ranks;
  bool shuffle, drop_last;

  friend std::ostream& operator<<(std::ostream& out, const Case& c) {
    return out << c.samples << " samples in batches of " << c.batch_size << " on " << c.ranks << " ranks"
               << (c.shuffle ? ", shuffled" : "") << (c.drop_last ? ", without the last" : "");
  }
};

template <class F>
void for_each_case(F f) {
  for (std::int64_t samples = 0; samples <= 13; ++samples)
    for (const std::int64_t batch_size : {1, 2, 3})
      for (const int ranks : {1, 2, 3, 4})
        for (const bool shuffle : {false, true})
          for (const bool drop_last : {false, true}) {
            const Case c{samples, batch_size, ranks, shuffle, drop_last};
            SCOPED_TRACE(::testing::PrintToString(c));
            f(c);
          }
}

DataLoader loader_of(const Case& c, std::int64_t batch_size, int workers = 0) {
  return DataLoader(
      numbers(c.samples),
      {.batch_size = batch_size, .shuffle = c.shuffle, .drop_last = c.drop_last, .num_workers = workers, .seed = 6});
}

TEST(Shard, AllTogetherGiveOneLoadersBatches) {
  for_each_case([](const Case& c) {
    const DataLoader whole = loader_of(c, c.batch_size * c.ranks);
    const std::vector<DataLoader> shards = shards_of(loader_of(c, c.batch_size), c.ranks);
    for (const std::int64_t epoch : {0, 1, 5}) EXPECT_EQ(merged(shards, epoch), rest_of(whole.begin(epoch, 0)));
  });
}

TEST(Shard, EachBatchIsSharedOutEvenly) {
  for_each_case([](const Case& c) {
    const std::vector<DataLoader> shards = shards_of(loader_of(c, c.batch_size), c.ranks);
    const std::int64_t full = c.batch_size * c.ranks;
    const std::int64_t batches = c.drop_last ? c.samples / full : (c.samples + full - 1) / full;
    for (int rank = 0; rank < c.ranks; ++rank) {
      const DataLoader& shard = shards[static_cast<std::size_t>(rank)];
      const std::vector<Values> parts = rest_of(shard.begin(0, 0));
      ASSERT_EQ(shard.size(), batches);
      ASSERT_EQ(static_cast<std::int64_t>(parts.size()), batches);
      for (std::int64_t i = 0; i < batches; ++i) {
        const std::int64_t all = std::min(full, c.samples - i * full);
        EXPECT_EQ(shard.global_batch_size(i), all);
        // Of `all` samples dealt out in turn, this rank gets those at rank, rank + ranks, ...
        const std::int64_t own = (all - rank + c.ranks - 1) / c.ranks;
        EXPECT_EQ(static_cast<std::int64_t>(parts[static_cast<std::size_t>(i)].size()), own);
      }
    }
  });
}

TEST(Shard, TheGlobalBatchSizesSumToTheSamples) {
  for (const int ranks : {1, 2, 3, 4}) {
    const DataLoader shard = DataLoader(numbers(13), {.batch_size = 2}).shard(0, ranks);
    std::int64_t samples = 0;
    for (std::int64_t i = 0; i < shard.size(); ++i) samples += shard.global_batch_size(i);
    EXPECT_EQ(samples, 13);
    EXPECT_EQ(shard.global_batch_size(shard.size()), 0) << "past the end";
  }
}

TEST(Shard, ShowsAnUnevenEnd) {
  const std::vector<DataLoader> shards = shards_of(DataLoader(numbers(7), {.batch_size = 2}), 3);
  EXPECT_EQ(rest_of(shards[0].begin(0, 0)), (std::vector<Values>{{0, 3}, {6}}));
  EXPECT_EQ(rest_of(shards[1].begin(0, 0)), (std::vector<Values>{{1, 4}, {}}));
  EXPECT_EQ(rest_of(shards[2].begin(0, 0)), (std::vector<Values>{{2, 5}, {}}));
}

TEST(Shard, BeginsInTheMiddleOfAnEpoch) {
  const Case c{.samples = 13, .batch_size = 2, .ranks = 3, .shuffle = true, .drop_last = false};
  for (const int workers : {0, 2}) {
    const std::vector<DataLoader> shards = shards_of(loader_of(c, c.batch_size, workers), c.ranks);
    const std::vector<Values> whole = rest_of(loader_of(c, c.batch_size * c.ranks).begin(4, 0));
    ASSERT_EQ(whole.size(), 3u);
    for (std::int64_t first = 0; first <= 3; ++first)
      EXPECT_EQ(merged(shards, 4, first), std::vector(whole.begin() + first, whole.end()));
    EXPECT_THROW(shards[0].begin(4, 4), Error);
  }
}

TEST(Shard, TheNumberOfWorkersChangesNothing) {
  const auto noisy = [](int workers, int rank) {
    const auto add_noise = [](Batch& batch, Generator& generator) {
      batch.set("x", batch["x"] + rand(batch["x"].shape(), {}, generator));
    };
    const DataLoader loader(numbers(13),
                            {.batch_size = 2, .shuffle = true, .num_workers = workers, .transform = add_noise});
    return rest_of(loader.shard(rank, 4).begin(1, 0));
  };
  for (int rank = 0; rank < 4; ++rank)
    for (const int workers : {1, 3}) EXPECT_EQ(noisy(workers, rank), noisy(0, rank));
}

TEST(Shard, EachRankTransformsWithItsOwnRandomNumbers) {
  const auto replace = [](Batch& batch, Generator& generator) { batch.set("x", rand({2}, {}, generator)); };
  const DataLoader loader(numbers(16), {.batch_size = 2, .transform = replace});
  std::set<double> seen;
  for (const DataLoader& shard : shards_of(loader, 4))
    for (const Values& batch : rest_of(shard.begin(0, 0))) seen.insert(batch.begin(), batch.end());
  EXPECT_EQ(seen.size(), 16u);
}

TEST(Shard, FollowsASamplerOfTheUsersOwn) {
  struct Backwards final : Sampler {
    std::int64_t size() const override { return 5; }
    std::vector<std::int64_t> order(std::int64_t epoch) const override { return {4, 3, 2, 1, epoch}; }
  };
  const DataLoader loader(numbers(9), {.batch_size = 2, .sampler = std::make_shared<Backwards>()});
  EXPECT_EQ(rest_of(loader.shard(0, 2).begin(8, 0)), (std::vector<Values>{{4, 2}, {8}}));
  EXPECT_EQ(rest_of(loader.shard(1, 2).begin(8, 0)), (std::vector<Values>{{3, 1}, {}}));
}

TEST(Shard, RefusesRanksThatAreNotThere) {
  const DataLoader loader(numbers(4));
  const auto error = [&](int rank, int ranks) { return error_of([&] { loader.shard(rank, ranks); }); };
  EXPECT_EQ(error(2, 2), "shard: no rank 2 of 2");
  EXPECT_EQ(error(-1, 2), "shard: no rank -1 of 2");
  EXPECT_EQ(error(0, 0), "shard: no rank 0 of 0");
  EXPECT_EQ(error(0, -3), "shard: no rank 0 of -3");
}

TEST(Shard, HasNoShards) {
  const DataLoader shard = DataLoader(numbers(4)).shard(1, 2);
  EXPECT_EQ(error_of([&] { shard.shard(0, 2); }), "shard: the loader is rank 1's of 2 already");
}

}  // namespace
}  // namespace anneal::testing
