// A process's place among the ranks.
#include "anneal/dist/world.h"

#include <gtest/gtest.h>

#include "anneal/core/ops.h"
#include "anneal/tests/dist/spawn_ranks.h"

namespace anneal {
namespace {

using anneal::testing::RankFunction;
using anneal::testing::RankResults;
using anneal::testing::spawn_ranks;
using dist::World;
using dist::WorldOptions;

WorldOptions options_for(int ranks) {
  return {.local_ranks = ranks, .failure_timeout = anneal::testing::scaled(std::chrono::seconds(10))};
}

#if ANNEAL_HAS_GLOO
const RankFunction join("world.join", [] {
  const std::shared_ptr<World> world = World::join(options_for(0));
  const Tensor ranks = scalar(world->rank() + 1);
  world->group().all_reduce(ranks);
  const bool same = World::join(options_for(0)) == world && World::join(options_for(2)) == world;
  return world->size() == 2 && ranks.item() == 3 && same ? 0 : 1;
});

TEST(World, IsMadeOnceFromALaunchersVariables) {
  const RankResults results = spawn_ranks(2, "world.join");
  EXPECT_EQ(results.codes(), std::vector<int>({0, 0})) << results.ranks[0].err;
}

const RankFunction join_others("world.others", [] {
  World::join(options_for(2));
  World::join(options_for(3));
  return 0;
});

TEST(World, DoesNotBecomeAnother) {
  const RankResults results = spawn_ranks(2, "world.others");
  EXPECT_EQ(results.codes(), std::vector<int>({1, 1}));
  EXPECT_NE(results.ranks[0].err.find("devices: this process is one of 2 ranks on CPUs already; got 3 on CPUs"),
            std::string::npos)
      << results.ranks[0].err;
}
#endif

const RankFunction join_three("world.three", [] {
  World::join(options_for(3));
  return 0;
});

TEST(World, WantsAsManyRanksAsTheLauncherStarted) {
  const RankResults results = spawn_ranks(2, "world.three");
  EXPECT_EQ(results.codes(), std::vector<int>({1, 1}));
  EXPECT_NE(results.ranks[0].err.find("devices: the launcher started 2 ranks on this machine, got 3"),
            std::string::npos)
      << results.ranks[0].err;
}

TEST(World, IsNoneForAProcessAlone) {
  EXPECT_EQ(World::join(options_for(0)), nullptr);
  EXPECT_EQ(World::join(options_for(1)), nullptr);
}

}  // namespace
}  // namespace anneal
