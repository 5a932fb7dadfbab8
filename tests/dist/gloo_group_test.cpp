#include "anneal/dist/gloo_group.h"

#include <csignal>
#include <iostream>
#include <map>
#include <mutex>

#include "anneal/core/sanitizer.h"
#include "anneal/tests/dist/collectives.h"
#include "anneal/tests/dist/spawn_ranks.h"

#if ANNEAL_ASAN
#include <sanitizer/lsan_interface.h>
#endif

namespace anneal::testing {
namespace {

#if ANNEAL_HAS_GLOO

INSTANTIATE_TYPED_TEST_SUITE_P(Gloo, Groups, GlooEngine);

TEST(GlooGroup, GivesTheSameBitsAsThreads) {
  std::mutex mutex;
  std::map<std::string, std::vector<std::string>> results;
  const GroupFunction f = [&](ProcessGroup& group) {
    for (const DType dtype : {DType::f32, DType::f64, DType::f16, DType::bf16})
      for (const std::int64_t n : {1, 1000, 33333}) {
        const Tensor x = rough_numbers(group.rank(), n, dtype);
        group.all_reduce(x);
        const std::lock_guard lock(mutex);
        results[format("{} {}", name_of(dtype), n)].push_back(bits_of(x));
      }
  };
  ThreadEngine::run(3, f);
  GlooEngine::run(3, f);
  for (const auto& [name, bits] : results) {
    EXPECT_EQ(bits.size(), 6u);
    for (const std::string& one : bits) EXPECT_TRUE(one == bits[0]) << name;
  }
}

TEST(GlooGroup, TheVerdictOfTheStoreEndsWhatIsPending) {
  const dist::StoreServer server({.world_size = 2, .token = "test"});
  run_threads(2, [&](int rank) {
    const auto store = std::make_shared<dist::Store>(
        dist::StoreOptions{.port = server.port(), .rank = rank, .world_size = 2, .token = "test"});
    const auto group = dist::gloo_group(store);
    group->barrier();
    if (rank == 1) {
      std::this_thread::sleep_for(std::chrono::milliseconds(200));  // until the other is in the next collective
      store->fail("it had enough");
      return;
    }
    const auto began = std::chrono::steady_clock::now();
    const std::string text = error_of([&] { group->all_reduce(ones({1 << 22})); });
    EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(1));
    expect_contains(text, "all_reduce #2 (4194304 f32): rank 1 (");
    expect_contains(text, "it had enough");
  });
}

TEST(GlooGroup, SeveralGroupsLiveOverOneStore) {
  const dist::StoreServer server({.world_size = 2, .token = "test"});
  run_threads(2, [&](int rank) {
    const auto store = std::make_shared<dist::Store>(
        dist::StoreOptions{.port = server.port(), .rank = rank, .world_size = 2, .token = "test"});
    for (int again = 0; again < 2; ++again) {
      const auto first = dist::gloo_group(store), second = dist::gloo_group(store, {.name = "second"});
      const Tensor x = ones({1000}), y = ones({1000});
      const dist::Work a = first->all_reduce_async(x), b = second->all_reduce_async(y);
      b.wait();
      a.wait();
      EXPECT_EQ(x.data<float>()[0] + y.data<float>()[999], 4);
    }
  });
}

TEST(GlooGroup, ARankThatIsMissingAtTheStartIsAnError) {
  const dist::StoreServer server({.world_size = 2, .token = "test"});
  const auto store = std::make_shared<dist::Store>(
      dist::StoreOptions{.port = server.port(), .rank = 0, .world_size = 2, .token = "test"});
  const std::string text =
      error_of([&] { dist::gloo_group(store, {.rendezvous_timeout = std::chrono::milliseconds(200)}); });
  expect_contains(text, "1");
}

TEST(GlooGroup, AnInterfaceThatIsNotThereIsAnError) {
#if ANNEAL_ASAN
  const __lsan::ScopedDisabler gloo_leaks_on_this_path;
#endif
  ::setenv("ANNEAL_IFACE", "nowhere0", 1);
  const dist::StoreServer server({.world_size = 1, .token = "test"});
  const auto store = std::make_shared<dist::Store>(dist::StoreOptions{.port = server.port(), .token = "test"});
  expect_contains(error_of([&] { dist::gloo_group(store); }), "gloo group world: rank 0 cannot reach the others");
  ::unsetenv("ANNEAL_IFACE");
}

// ---- ranks as processes ----

/// Reduces until an error comes, and returns 0 if it came soon and names rank 1 and the collective.
int reduce_until(const dist::RankEnvironment& env, dist::Store& store, int signal) {
  const auto group = dist::gloo_group({std::shared_ptr<void>(), &store});
  for (int i = 1;; ++i) {
    if (i == 20 && env.rank == 1) std::raise(signal);
    const auto began = std::chrono::steady_clock::now();
    const std::string text = error_of([&] { group->all_reduce(ones({1 << 16})); });
    if (text.empty()) continue;
    const bool soon = std::chrono::steady_clock::now() - began < test_failure_timeout();
    const bool named = text.starts_with("all_reduce #") && text.find(" (65536 f32): rank 1 (") != text.npos;
    if (!soon || !named) std::cerr << text;
    return soon && named ? 0 : 1;
  }
}
const RankFunction killed("gloo: rank 1 is killed", [](const dist::RankEnvironment& env, dist::Store& store) {
  return reduce_until(env, store, SIGKILL);
});
const RankFunction stopped("gloo: rank 1 is stopped", [](const dist::RankEnvironment& env, dist::Store& store) {
  return reduce_until(env, store, SIGSTOP);
});
const RankFunction leaves("gloo: rank 1 leaves", [](const dist::RankEnvironment& env, dist::Store& store) {
  const auto group = dist::gloo_group({std::shared_ptr<void>(), &store});
  group->barrier();
  if (env.rank == 1) throw Error("an exception of its own");
  return error_of([&] { group->all_reduce(ones({10})); }).empty() ? 1 : 0;
});
const RankFunction ends("gloo: all end well", [](const dist::RankEnvironment& env, dist::Store& store) {
  const auto group = dist::gloo_group({std::shared_ptr<void>(), &store});
  const Tensor x = ones({100});
  for (int i = 0; i < 5; ++i) group->all_reduce(x);
  if (env.rank == 1) std::this_thread::sleep_for(std::chrono::milliseconds(300));
  return x.data<float>()[0] == 243 ? 0 : 1;
});

TEST(GlooGroup, AKilledRankIsNamedAtOnce) {
  const RankResults results = spawn_ranks(3, "gloo: rank 1 is killed");
  EXPECT_EQ(results.codes(), (std::vector<int>{0, 128 + SIGKILL, 0})) << results.ranks[0].err << results.ranks[2].err;
}

TEST(GlooGroup, AStoppedRankIsNamedWithinTheFailureTimeout) {
  const RankResults results = spawn_ranks(3, "gloo: rank 1 is stopped");
  EXPECT_EQ(results.ranks[0].exit_code, 0) << results.ranks[0].err;
  EXPECT_EQ(results.ranks[2].exit_code, 0) << results.ranks[2].err;
}

TEST(GlooGroup, AnExceptionOnOneRankEndsTheOthers) {
  const RankResults results = spawn_ranks(3, "gloo: rank 1 leaves");
  EXPECT_EQ(results.codes(), (std::vector<int>{0, 1, 0}));
}

TEST(GlooGroup, RanksThatEndAtDifferentTimesEndWell) {
  const RankResults results = spawn_ranks(3, "gloo: all end well");
  EXPECT_EQ(results.codes(), (std::vector<int>{0, 0, 0})) << results.ranks[0].err << results.ranks[2].err;
}

#else

TEST(GlooGroup, IsAnErrorInALibraryWithoutGloo) {
  EXPECT_FALSE(dist::has_gloo());
  expect_contains(error_of([] { dist::gloo_group(nullptr); }), "built without Gloo");
}

#endif

}  // namespace
}  // namespace anneal::testing
