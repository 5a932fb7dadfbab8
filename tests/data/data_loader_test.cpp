#include "anneal/data/data_loader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <numeric>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

#include "anneal/core/autograd.h"
#include "anneal/core/ops.h"
#include "anneal/kernels/parallel.h"
#include "anneal/tests/temp_folder.h"

using namespace anneal;
using anneal::testing::message_of;
using namespace std::chrono_literals;

namespace {

using Values = std::vector<double>;

TensorDataset numbers(std::int64_t n) { return TensorDataset{{"x", arange(n, {.dtype = DType::f32})}}; }

std::vector<Values> rest_of(BatchIterator it) {
  std::vector<Values> out;
  for (; it != std::default_sentinel; ++it) out.push_back((*it)["x"].to_vector());
  return out;
}
Values joined(const std::vector<Values>& batches) {
  Values out;
  for (const Values& batch : batches) out.insert(out.end(), batch.begin(), batch.end());
  return out;
}
Values first_numbers(std::int64_t n) {
  Values out(static_cast<std::size_t>(n));
  std::iota(out.begin(), out.end(), 0.0);
  return out;
}

// Adds noise, once from the generator that is given and once from the one that ops draw from.
void augment(Batch& batch, Generator& generator) {
  const Tensor x = batch["x"];
  batch.set("x", x + rand(x.shape(), {}, generator) + rand(x.shape()));
}

}  // namespace

TEST(DataLoader, GivesTheSamplesInOrder) {
  DataLoader loader(numbers(7), {.batch_size = 3});
  EXPECT_EQ(loader.size(), 3);
  std::vector<Values> batches;
  for (Batch& batch : loader) batches.push_back(batch["x"].to_vector());
  EXPECT_EQ(batches, (std::vector<Values>{{0, 1, 2}, {3, 4, 5}, {6}}));
}

TEST(DataLoader, DropsAPartialBatch) {
  DataLoader loader(numbers(7), {.batch_size = 3, .drop_last = true});
  EXPECT_EQ(loader.size(), 2);
  EXPECT_EQ(joined(rest_of(loader.begin())), first_numbers(6));
  EXPECT_EQ(DataLoader(numbers(6), {.batch_size = 3, .drop_last = true}).size(), 2);
  DataLoader none(numbers(2), {.batch_size = 3, .drop_last = true, .num_workers = 2});
  EXPECT_EQ(none.size(), 0);
  EXPECT_TRUE(none.begin() == none.end());
}

TEST(DataLoader, AnEmptyDatasetHasNoBatches) {
  for (const int workers : {0, 2}) {
    DataLoader loader(numbers(0), {.shuffle = true, .num_workers = workers});
    EXPECT_EQ(loader.size(), 0);
    for (Batch& batch : loader) ADD_FAILURE() << batch.size();
  }
}

TEST(DataLoader, TheNumberOfWorkersChangesNothing) {
  for (const bool drop_last : {false, true}) {
    DataLoaderOptions options{
        .batch_size = 4, .shuffle = true, .drop_last = drop_last, .seed = 5, .transform = augment};
    const auto expected = rest_of(DataLoader(numbers(50), options).begin(2, 0));
    EXPECT_EQ(expected.size(), drop_last ? 12u : 13u);
    for (const int workers : {1, 3, 20}) {
      for (const int prefetch : {1, 4}) {
        options.num_workers = workers;
        options.prefetch = prefetch;
        EXPECT_EQ(rest_of(DataLoader(numbers(50), options).begin(2, 0)), expected) << workers << ' ' << prefetch;
      }
    }
  }
}

TEST(DataLoader, ContinuesAnywhereInAnEpoch) {
  for (const int workers : {0, 2}) {
    const DataLoader loader(numbers(23),
                            {.batch_size = 4, .shuffle = true, .num_workers = workers, .transform = augment});
    const auto whole = rest_of(loader.begin(1, 0));
    for (std::int64_t first = 0; first <= loader.size(); ++first) {
      const BatchIterator it = loader.begin(1, first);
      EXPECT_EQ(it.index(), first);
      EXPECT_EQ(rest_of(loader.begin(1, first)), std::vector(whole.begin() + first, whole.end()));
    }
    EXPECT_THROW(loader.begin(1, -1), Error);
    EXPECT_THROW(loader.begin(1, loader.size() + 1), Error);
  }
}

TEST(DataLoader, EveryEpochHasItsOwnOrder) {
  DataLoader loader(numbers(64), {.batch_size = 8, .shuffle = true, .seed = 3});
  const auto first = joined(rest_of(loader.begin()));
  EXPECT_EQ(loader.epoch(), 1);
  const auto second = joined(rest_of(loader.begin()));
  EXPECT_NE(first, second);
  for (auto epoch : {first, second}) {
    std::ranges::sort(epoch);
    EXPECT_EQ(epoch, first_numbers(64));
  }
  loader.set_epoch(0);
  EXPECT_EQ(joined(rest_of(loader.begin())), first);
  EXPECT_EQ(joined(rest_of(loader.begin(1, 0))), second);
  EXPECT_EQ(loader.epoch(), 1);
  EXPECT_NE(joined(rest_of(DataLoader(numbers(64), {.shuffle = true, .seed = 4}).begin())), first);
}

TEST(DataLoader, TheTransformDiffersBetweenBatchesEpochsAndSeeds) {
  const auto noise = [](std::uint64_t seed, std::int64_t epoch) {
    const TensorDataset zero{{"x", zeros({2})}};
    return joined(rest_of(DataLoader(zero, {.seed = seed, .transform = augment}).begin(epoch, 0)));
  };
  const Values a = noise(1, 0);
  EXPECT_NE(a[0], a[1]);
  EXPECT_EQ(noise(1, 0), a);
  EXPECT_NE(noise(1, 1), a);
  EXPECT_NE(noise(2, 0), a);
}

TEST(DataLoader, LeavesTheCallersModesAlone) {
  manual_seed(9);
  const Generator before = current_generator();
  DataLoader loader(numbers(4), {.transform = augment});
  rest_of(loader.begin());
  EXPECT_EQ(current_generator().seed(), before.seed());
  EXPECT_EQ(current_generator().offset(), before.offset());
  EXPECT_TRUE(grad_enabled());
}

TEST(DataLoader, WorkersComputeAloneAndWithoutGradients) {
  for (const int workers : {0, 2}) {
    const auto caller = std::this_thread::get_id();
    std::atomic<int> seen{0};
    DataLoader loader(numbers(8), {.num_workers = workers, .transform = [&](Batch&, Generator&) {
                                     EXPECT_FALSE(grad_enabled());
                                     EXPECT_EQ(std::this_thread::get_id() == caller, workers == 0);
                                     if (workers > 0) { EXPECT_EQ(num_threads(), 1); }
                                     ++seen;
                                   }});
    rest_of(loader.begin());
    EXPECT_EQ(seen, 8);
  }
}

TEST(DataLoader, WorkersStayAtMostTheirPrefetchAhead) {
  std::atomic<std::int64_t> made{0};
  DataLoader loader(numbers(40), {.num_workers = 2, .prefetch = 3, .transform = [&](Batch&, Generator&) { ++made; }});
  auto it = loader.begin();
  for (const auto give_up = std::chrono::steady_clock::now() + 10s;
       made < 7 && std::chrono::steady_clock::now() < give_up;)
    std::this_thread::sleep_for(1ms);
  EXPECT_EQ(made, 7);  // batch 0, which was taken, and six ahead
  for (; it != loader.end(); ++it) EXPECT_LE(made, it.index() + 1 + 6);
  EXPECT_EQ(made, 40);
}

TEST(DataLoader, AnErrorComesInItsTurn) {
  for (const int workers : {0, 1, 3}) {
    struct Odd {
      int value;
    };
    DataLoader loader(numbers(10), {.num_workers = workers, .transform = [](Batch& batch, Generator&) {
                                      if (batch["x"].item() == 4) throw Odd{17};
                                      if (batch["x"].item() > 4) throw Error("later");
                                    }});
    auto it = loader.begin();
    for (int i = 0; i < 3; ++i, ++it) EXPECT_EQ((*it)["x"].item(), i);
    EXPECT_EQ((*it)["x"].item(), 3);
    try {
      ++it;
      ADD_FAILURE() << "nothing was thrown";
    } catch (const Odd& odd) { EXPECT_EQ(odd.value, 17); }
    EXPECT_TRUE(it == loader.end());
    ++it;
    EXPECT_TRUE(it == loader.end());
  }
}

TEST(DataLoader, AnErrorOfTheDatasetKeepsItsText) {
  const auto broken = make_dataset(3, [](std::int64_t i) -> Batch { throw Error(format("sample {} is broken", i)); });
  for (const int workers : {0, 2}) {
    DataLoader loader(broken, {.num_workers = workers});
    EXPECT_EQ(message_of<Error>([&] { loader.begin(); }), "sample 0 is broken");
  }
}

TEST(DataLoader, StopsInMidEpoch) {
  std::atomic<int> running{0};
  DataLoader loader(numbers(1000), {.num_workers = 3, .transform = [&](Batch&, Generator&) {
                                      ++running;
                                      std::this_thread::sleep_for(2ms);
                                      --running;
                                    }});
  for (int stop_after = 0; stop_after < 5; ++stop_after) {
    int n = 0;
    for (Batch& batch : loader) {
      EXPECT_EQ(batch["x"].item(), n);
      if (n++ == stop_after) break;
    }
    EXPECT_EQ(running, 0);
  }
}

TEST(DataLoader, PassesAreIndependentAndOutliveTheLoader) {
  auto loader = std::make_unique<DataLoader>(numbers(6), DataLoaderOptions{.batch_size = 2, .num_workers = 2});
  auto a = loader->begin();
  auto b = loader->begin(0, 1);
  loader.reset();
  ++a;
  EXPECT_EQ((*a)["x"].to_vector(), (*b)["x"].to_vector());
  auto moved = std::move(a);
  EXPECT_EQ(moved->size(), 2);
  EXPECT_EQ(joined(rest_of(std::move(moved))), (Values{2, 3, 4, 5}));
  b = DataLoader(numbers(1)).begin();
  EXPECT_EQ((*b)["x"].item(), 0);
}

TEST(DataLoader, FollowsASamplerOfTheUsersOwn) {
  struct Twice final : Sampler {
    std::int64_t size() const override { return 4; }
    std::vector<std::int64_t> order(std::int64_t epoch) const override { return {epoch, epoch, 0, 2}; }
  };
  const DataLoader loader(numbers(3), {.batch_size = 4, .sampler = std::make_shared<Twice>()});
  EXPECT_EQ(rest_of(loader.begin(1, 0)), (std::vector<Values>{{1, 1, 0, 2}}));
  EXPECT_THROW(loader.begin(3, 0), Error);
}

TEST(DataLoader, RefusesOptionsThatMakeNoSense) {
  const auto error = [](DataLoaderOptions options) {
    return message_of<ConfigError>([&] { DataLoader(numbers(3), options); });
  };
  EXPECT_EQ(error({.batch_size = 0}), "batch_size: expected at least 1, got 0");
  EXPECT_EQ(error({.num_workers = -1}), "num_workers: expected at least 0, got -1");
  EXPECT_EQ(error({.prefetch = 0}), "prefetch: expected at least 1, got 0");
  EXPECT_NE(error({.shuffle = true, .sampler = std::make_shared<SequentialSampler>(3)}), "");
  EXPECT_THROW(DataLoader(std::shared_ptr<const Dataset>()), ConfigError);
}

TEST(DataLoader, OptionsMakeTheSameLoaderAgain) {
  const DataLoader loader(numbers(20), {.batch_size = 3, .shuffle = true, .seed = 2});
  EXPECT_EQ(rest_of(DataLoader(loader.dataset(), loader.options()).begin(4, 0)), rest_of(loader.begin(4, 0)));
  auto options = loader.options();
  options.shuffle = false;
  EXPECT_EQ(joined(rest_of(DataLoader(loader.dataset(), options).begin())), first_numbers(20));
}

#if defined(__linux__)
TEST(DataLoader, WorkersLeaveTheCpuThatTheCallerIsBoundTo) {
  cpu_set_t all, one;
  ASSERT_EQ(::sched_getaffinity(0, sizeof(all), &all), 0);
  if (CPU_COUNT(&all) < 2) GTEST_SKIP() << "only one CPU to run on: nothing to leave";
  CPU_ZERO(&one);
  for (std::size_t cpu = 0; CPU_COUNT(&one) == 0; ++cpu)
    if (CPU_ISSET(cpu, &all)) CPU_SET(cpu, &one);
  ASSERT_EQ(::sched_setaffinity(0, sizeof(one), &one), 0);
  std::atomic<int> cpus{0};
  DataLoader loader(numbers(1), {.num_workers = 1, .transform = [&](Batch&, Generator&) {
                                   cpu_set_t mine;
                                   if (::sched_getaffinity(0, sizeof(mine), &mine) == 0) cpus = CPU_COUNT(&mine);
                                 }});
  rest_of(loader.begin());
  ASSERT_EQ(::sched_setaffinity(0, sizeof(all), &all), 0);
  EXPECT_EQ(cpus, CPU_COUNT(&all));
}
#endif
