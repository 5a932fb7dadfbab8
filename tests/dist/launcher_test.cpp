#include "anneal/dist/launcher.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <iostream>
#include <thread>

#include "anneal/core/format.h"
#include "anneal/dist/store_server.h"
#include "anneal/tests/dist/spawn_ranks.h"
#include "anneal/tests/temp_folder.h"

namespace anneal::dist {
namespace {

using namespace std::chrono_literals;
using testing::message_of;
using testing::RankFunction;
using testing::RankResults;
using testing::scaled;
using testing::spawn_ranks;

const auto kTimeout = testing::test_failure_timeout();
const auto kSoon = scaled(5s);

bool is_launched() { return std::getenv("ANNEAL_LAUNCHED") != nullptr; }

/// This process as rank 0 of three that it starts.
struct Three {
  explicit Three(std::chrono::milliseconds grace = 10s) : others(3, server.port(), token, grace) {}

  std::string token = random_token();
  StoreServer server{{.world_size = 3, .token = token, .failure_timeout = kTimeout}};
  LocalRanks others;
  Store store{{.port = server.port(), .world_size = 3, .token = token, .failure_timeout = kTimeout}};
};

bool is_running(const std::string& pid) {
  std::string stat = testing::read_text("/proc/" + pid + "/stat");
  return !stat.empty() && stat.substr(stat.find(')') + 2, 1) != "Z";
}
bool ends(const std::string& pid) {
  for (const auto end = std::chrono::steady_clock::now() + kSoon; std::chrono::steady_clock::now() < end;) {
    if (!is_running(pid)) return true;
    std::this_thread::sleep_for(5ms);
  }
  return false;
}

const RankFunction introduces("introduces itself", [](const RankEnvironment& env, Store& store) {
  if (is_launched()) {
    const bool mute = std::cin.get() == std::char_traits<char>::eof();
    store.exchange("who",
                   format("{}/{} {}/{} {} {} ", env.rank, env.world_size, env.local_rank, env.local_world_size, mute,
                          std::getenv("OMP_NUM_THREADS")),
                   kSoon);
    return message_of<Error>([&] { LocalRanks more(2, 1, ""); }).empty() ? 1 : 0;
  }
  Three three;
  for (const std::string& who : three.store.exchange("who", "", kSoon)) std::cerr << who;
  return three.others.wait();
});

const RankFunction some_fail("some fail", [](const RankEnvironment& env, Store& store) {
  if (is_launched()) {
    store.exchange("all", "", kSoon);
    if (env.rank == 1) return 0;
    const bool kill = std::getenv("ANNEAL_TEST_KILL") != nullptr;
    return kill ? ::raise(SIGKILL) : 7;
  }
  Three three;
  three.store.exchange("all", "", kSoon);
  return three.others.wait();
});

const RankFunction leaves("leaves the others", [](const RankEnvironment& env, Store& store) {
  if (is_launched()) {
    std::signal(SIGTERM, env.rank == 1 ? SIG_IGN : SIG_DFL);
    store.exchange("pids", std::to_string(::getpid()), kSoon);
    if (env.rank == 2) ::raise(SIGSTOP);
    std::this_thread::sleep_for(1h);
    return 0;
  }
  std::vector<std::string> pids;
  {
    Three three(scaled(200ms));
    pids = three.store.exchange("pids", "", kSoon);
  }
  // They have been reaped too.
  return ::access(("/proc/" + pids[1]).c_str(), F_OK) != 0 && ::access(("/proc/" + pids[2]).c_str(), F_OK) != 0 ? 0 : 1;
});

const RankFunction orphans("orphans", [](const RankEnvironment& env, Store& store) {
  if (is_launched()) {
    store.exchange("pids", std::to_string(::getpid()), kSoon);
    std::this_thread::sleep_for(1h);
  }
  if (env.rank == 0) {  // of the test's two: looks on
    const std::string first = store.get("first", kSoon), second = store.get("second", kSoon);
    store.set("seen", "");
    return ends(first) && ends(second) ? 0 : 1;
  }
  Three three;
  const auto pids = three.store.exchange("pids", "", kSoon);
  store.set("first", pids[1]);
  store.set("second", pids[2]);
  store.get("seen", kSoon);
  return ::raise(SIGKILL);
});

TEST(LocalRanks, KnowWhoTheyAre) {
  const RankResults results = spawn_ranks(1, "introduces itself", {{"OMP_NUM_THREADS", "5"}});
  EXPECT_EQ(results.ranks[0].err, "1/3 1/3 true 5 2/3 2/3 true 5 ");
  EXPECT_EQ(results.codes(), std::vector<int>{0});
}

TEST(LocalRanks, TellHowTheFirstFailed) {
  EXPECT_EQ(spawn_ranks(1, "some fail").codes(), std::vector<int>{7});
  EXPECT_EQ(spawn_ranks(1, "some fail", {{"ANNEAL_TEST_KILL", "1"}}).codes(), std::vector<int>{128 + SIGKILL});
}

TEST(LocalRanks, EndWithWhoStartedThem) {
  const RankResults results = spawn_ranks(1, "leaves the others");
  EXPECT_EQ(results.codes(), std::vector<int>{0}) << results.ranks[0].err;
  EXPECT_LT(results.took, kSoon);
}

TEST(LocalRanks, EndWhenWhoStartedThemWasKilled) {
  const RankResults results = spawn_ranks(2, "orphans");
  EXPECT_EQ(results.codes(), (std::vector<int>{0, 128 + SIGKILL})) << results.ranks[0].err;
  // They hang, and their stores end them.
  EXPECT_NE(results.ranks[1].err.find("rank 0 (the store at 127.0.0.1:"), std::string::npos);
}

TEST(RandomToken, IsLongAndNew) {
  const std::string token = random_token();
  EXPECT_EQ(token.size(), 64u);
  EXPECT_EQ(token.find_first_not_of("0123456789abcdef"), std::string::npos);
  EXPECT_NE(token, random_token());
}

}  // namespace
}  // namespace anneal::dist
