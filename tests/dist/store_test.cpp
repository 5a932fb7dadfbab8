#include "anneal/dist/store.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <fstream>
#include <future>
#include <iterator>
#include <thread>

#include "anneal/core/format.h"
#include "anneal/dist/frame.h"
#include "anneal/dist/socket.h"
#include "anneal/dist/store_server.h"
#include "anneal/dist/store_state.h"
#include "anneal/tests/dist/spawn_ranks.h"
#include "anneal/tests/temp_folder.h"

namespace anneal::dist {
namespace {

using namespace std::chrono_literals;
using ::testing::AssertionResult;
using testing::message_of;
using testing::RankFunction;
using testing::RankResults;
using testing::scaled;
using testing::spawn_ranks;

const auto kTimeout = testing::test_failure_timeout();
const auto kSoon = scaled(5s);

AssertionResult contains(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "'" << text << "' lacks '" << part << "'";
}

StoreOptions options(const StoreServer& server, int rank, int world_size) {
  return {.host = "127.0.0.1",
          .port = server.port(),
          .rank = rank,
          .world_size = world_size,
          .token = "secret",
          .failure_timeout = kTimeout,
          .rendezvous_timeout = scaled(2s)};
}

/// A server and some of its ranks in this process.
struct Ranks {
  explicit Ranks(int world_size, int here)
      : server({.world_size = world_size, .token = "secret", .failure_timeout = kTimeout}) {
    for (int rank = 0; rank < here; ++rank)
      stores.push_back(std::make_unique<Store>(options(server, rank, world_size)));
  }
  explicit Ranks(int world_size) : Ranks(world_size, world_size) {}

  Store& operator[](int rank) { return *stores[static_cast<std::size_t>(rank)]; }

  StoreServer server;
  std::vector<std::unique_ptr<Store>> stores;
};

std::string wait_for_failure(const Store& store) {
  for (const auto end = std::chrono::steady_clock::now() + kSoon; std::chrono::steady_clock::now() < end;) {
    if (const auto verdict = store.failure()) return *verdict;
    std::this_thread::sleep_for(1ms);
  }
  return "no verdict";
}

/// What the server sends on a connection of its own until it closes it; "open" if it does not.
std::string answer_to(const StoreServer& server, std::string_view bytes) {
  Stream stream(connect_to("127.0.0.1", server.port(), kSoon));
  stream.send(bytes);
  std::string all;
  for (const auto end = std::chrono::steady_clock::now() + 2s; std::chrono::steady_clock::now() < end;) {
    const bool sent = stream.flush();
    pollfd ready{stream.get(), POLLIN, 0};
    ::poll(&ready, 1, 10);
    const auto came = stream.read();
    if (!sent || !came) return all;
    all += *came;
  }
  return "open";
}

TEST(Store, KeepsValuesForAllRanks) {
  Ranks ranks(2);
  const std::string bytes("\0\xff and more", 11);
  ranks[0].set("a", bytes);
  EXPECT_EQ(ranks[1].get("a", 0ms), bytes);
  ranks[1].set("a", "");
  EXPECT_EQ(ranks[0].get("a", 0ms), "");
  ranks[1].set("large", std::string(Store::kMaxValue, 'x'));
  EXPECT_EQ(ranks[0].get("large", 0ms), std::string(Store::kMaxValue, 'x'));
}

TEST(Store, GetWaitsForTheValue) {
  Ranks ranks(2);
  auto value = std::async(std::launch::async, [&] { return ranks[0].get("late", kSoon); });
  EXPECT_EQ(value.wait_for(20ms), std::future_status::timeout);
  ranks[1].set("late", "here");
  EXPECT_EQ(value.get(), "here");
}

TEST(Store, AddsFromSeveralThreads) {
  Ranks ranks(2);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&, i] {
      for (int k = 0; k < 25; ++k) ranks[i % 2].add("sum", i - 1);
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(ranks[0].add("sum", 0), 25 * (-1 + 0 + 1 + 2));
  EXPECT_EQ(ranks[1].get("sum", 0ms), "50");
  ranks[0].set("text", "12x");
  EXPECT_TRUE(contains(message_of<Error>([&] { ranks[1].add("text", 1); }), "'text' holds no number"));
  ranks[0].set("most", "9223372036854775807");
  EXPECT_TRUE(contains(message_of<Error>([&] { ranks[1].add("most", 1); }), "'most' overflows"));
}

TEST(Store, ExchangesInRankOrderAgainAndAgain) {
  constexpr int kRanks = 4, kRounds = 20;
  Ranks ranks(kRanks);
  std::vector<std::future<bool>> good;
  for (int rank = 0; rank < kRanks; ++rank)
    good.push_back(std::async(std::launch::async, [&, rank] {
      bool same = true;
      for (int round = 0; round < kRounds; ++round) {
        const auto all = ranks[rank].exchange("round", format("{}:{}", round, rank), kSoon);
        for (int other = 0; other < kRanks; ++other)
          same = same && all[static_cast<std::size_t>(other)] == format("{}:{}", round, other);
        same = same && all.size() == kRanks;
      }
      return same;
    }));
  for (auto& each : good) EXPECT_TRUE(each.get());
}

TEST(Store, NamesWhatIsMissing) {
  Ranks ranks(4, 2);
  EXPECT_EQ(message_of<Error>([&] { ranks[0].get("no such", 50ms); }),
            "store: nobody set 'no such' within 0.1 s; ranks 2, 3 have not connected");
  EXPECT_EQ(message_of<Error>([&] { ranks[1].exchange("all", "1", 50ms); }),
            "store: exchange 'all': ranks 0, 2, 3 did not come within 0.1 s; ranks 2, 3 have not connected");
  EXPECT_FALSE(ranks[0].failure());
}

TEST(Store, AnExchangeDoesNotWaitForWhoHasLeft) {
  Ranks ranks(3);
  auto waiting =
      std::async(std::launch::async, [&] { return message_of<Error>([&] { ranks[0].exchange("end", "", kSoon); }); });
  std::this_thread::sleep_for(20ms);
  ranks.stores.pop_back();
  EXPECT_EQ(waiting.get(), "store: exchange 'end': rank 2 left without it");
  EXPECT_EQ(message_of<Error>([&] { ranks[1].exchange("more", "", kSoon); }),
            "store: exchange 'more': rank 2 left without it");
}

TEST(Store, RefusesWhatIsTooLarge) {
  Ranks ranks(2);
  const std::string long_key(Store::kMaxKey + 1, 'k');
  EXPECT_TRUE(contains(message_of<Error>([&] { ranks[0].set(long_key, ""); }), "a key of 1025 bytes"));
  EXPECT_TRUE(contains(message_of<Error>([&] { ranks[0].set("v", std::string(Store::kMaxValue + 1, 'x')); }),
                       "a value of 1044481 bytes for 'v'"));
  const std::string half(Store::kMaxValue / 2 + 8192, 'x');
  auto other =
      std::async(std::launch::async, [&] { return message_of<Error>([&] { ranks[1].exchange("big", half, kSoon); }); });
  EXPECT_TRUE(contains(message_of<Error>([&] { ranks[0].exchange("big", half, kSoon); }), "'big' is of"));
  EXPECT_TRUE(contains(other.get(), "'big' is of"));
  EXPECT_FALSE(ranks[0].failure());
}

TEST(Store, TooManyBytesInAllAreAFailure) {
  Ranks ranks(2);
  const std::string large(Store::kMaxValue, 'x');
  EXPECT_TRUE(contains(message_of<RankFailure>([&] {
                         for (int i = 0; i < 100; ++i) ranks[1].set(format("key {}", i), large);
                       }),
                       "failed: the store got values of more than 67108864 bytes in all"));
  EXPECT_TRUE(contains(wait_for_failure(ranks[0]), "rank 1 ("));
}

TEST(Store, RefusesStrangersAndContradictions) {
  Ranks ranks(3, 2);
  const auto refused = [&](auto change) {
    StoreOptions changed = options(ranks.server, 2, 3);
    change(changed);
    return message_of<Error>([&] { Store store(changed); });
  };
  const std::string place = format("the store at 127.0.0.1:{} refuses rank ", ranks.server.port());
  EXPECT_EQ(refused([](auto& o) { o.token = "secrets"; }), place + "2: the token is another one");
  EXPECT_EQ(refused([](auto& o) { o.token = "secreT"; }), place + "2: the token is another one");
  EXPECT_EQ(refused([](auto& o) { o.token = ""; }), place + "2: the token is another one");
  EXPECT_EQ(refused([](auto& o) { o.world_size = 4; }), place + "2: a world size of 4; the store's is 3");
  EXPECT_EQ(refused([](auto& o) { o.rank = 3; }), place + "3: rank 3 of 3");
  EXPECT_EQ(refused([](auto& o) { o.rank = -1; }), place + "-1: rank -1 of 3");
  EXPECT_TRUE(contains(refused([](auto& o) { o.failure_timeout = 77s; }), "a failure time-out of 77.0 s"));
  EXPECT_TRUE(contains(refused([](auto& o) { o.rank = 1; }), format("pid {}) is here already", ::getpid())));
  EXPECT_FALSE(ranks[0].failure());
  Store last(options(ranks.server, 2, 3));
}

TEST(Store, SaysThatAnotherProgramHasThePort) {
  const FileDescriptor listener = listen_at("127.0.0.1", 0, 1);
  std::thread other([&] {
    pollfd ready{listener.get(), POLLIN, 0};
    ::poll(&ready, 1, 5000);
    auto socket = accept_from(listener);
    if (!socket) return;
    Stream stream(std::move(*socket));
    stream.send("SSH-2.0-OpenSSH_9.2p1\r\n");
    stream.flush();
    std::this_thread::sleep_for(100ms);
  });
  const std::uint16_t port = port_of(listener.get());
  EXPECT_EQ(message_of<Error>([&] { Store store({.port = port, .rendezvous_timeout = kSoon}); }),
            format("port {} on 127.0.0.1 is taken by another program", port));
  other.join();
}

TEST(Store, SaysWhereNobodyAnswers) {
  std::uint16_t port = 0;
  {
    const FileDescriptor listener = listen_at("127.0.0.1", 0, 1);
    port = port_of(listener.get());
  }
  EXPECT_EQ(message_of<Error>([&] { Store store({.port = port, .rendezvous_timeout = 200ms}); }),
            format("rank 0 found no store at 127.0.0.1:{} within 0.2 s: Connection refused", port));
  const FileDescriptor busy = listen_at("127.0.0.1", 0, 1);
  EXPECT_EQ(message_of<Error>([&] { StoreServer server({.port = port_of(busy.get())}); }),
            format("store: cannot listen at 127.0.0.1:{}: Address already in use", port_of(busy.get())));
}

TEST(Store, WaitsForTheServerToAppear) {
  auto first = std::make_unique<StoreServer>(StoreServerOptions{.token = "secret", .failure_timeout = kTimeout});
  const StoreOptions where = options(*first, 0, 1);
  first.reset();
  auto store = std::async(std::launch::async, [&] { return std::make_unique<Store>(where); });
  EXPECT_EQ(store.wait_for(100ms), std::future_status::timeout);
  const StoreServer second({.port = where.port, .token = "secret", .failure_timeout = kTimeout});
  EXPECT_EQ(store.get()->add("n", 1), 1);
}

TEST(Store, WorksOverIpv6) {
  std::ifstream addresses("/proc/net/if_inet6");
  const std::string all(std::istreambuf_iterator<char>(addresses), {});
  if (all.find("00000000000000000000000000000001") == all.npos)
    GTEST_SKIP() << "NOT TESTED: this machine has no address ::1";
  const StoreServer server({.address = "::1", .failure_timeout = kTimeout});
  Store store({.host = "::1", .port = server.port(), .failure_timeout = kTimeout});
  EXPECT_EQ(store.local_address(), "::1");
  EXPECT_EQ(store.add("n", 3), 3);
}

TEST(Store, KnowsItsOwnAddress) {
  Ranks ranks(1);
  EXPECT_EQ(ranks[0].local_address(), "127.0.0.1");
}

TEST(StoreServer, ClosesOnGarbageAndGoesOn) {
  Ranks ranks(2);
  const std::string hello =
      encode({Op::hello, 0, pack("anneal store", 1, "secret", 1, 2, kTimeout.count(), "host", 7)});
  const std::string long_text(5000, 'x');
  EXPECT_EQ(answer_to(ranks.server, "GET / HTTP/1.0\r\n\r\n"), "");
  EXPECT_EQ(answer_to(ranks.server, std::string(13, '\0')), "");
  EXPECT_EQ(answer_to(ranks.server, encode({Op::set, 1, pack("key", "value")})), "");
  EXPECT_EQ(answer_to(ranks.server, encode({Op::hello, 0, pack("another store", 1)})), "");
  EXPECT_EQ(answer_to(ranks.server, encode({Op::hello, 0, pack("anneal store", 1)})), "");
  EXPECT_EQ(answer_to(ranks.server, encode({Op::hello, 0, pack("anneal store", 1, long_text)})), "");
  EXPECT_TRUE(contains(answer_to(ranks.server, hello), "rank 1 ("));
  EXPECT_FALSE(ranks[0].failure());
  EXPECT_EQ(ranks[1].add("n", 1), 1);
}

TEST(StoreServer, TooLongAFrameOfARankIsItsFailure) {
  Ranks ranks(2, 1);
  std::string bytes = encode({Op::hello, 0, pack("anneal store", 1, "secret", 1, 2, kTimeout.count(), "host", 7)});
  bytes += std::string("\x01\0\x10\0", 4);
  EXPECT_TRUE(contains(answer_to(ranks.server, bytes), "anneal store"));
  EXPECT_EQ(wait_for_failure(ranks[0]),
            "rank 1 (host, pid 7) failed: the store got a frame of 1048577 bytes: expected 9 to 1048576");
}

TEST(StoreServer, LimitsConnections) {
  Ranks ranks(1);
  std::vector<FileDescriptor> idle;
  for (int i = 0; i < 10; ++i) idle.push_back(connect_to("127.0.0.1", ranks.server.port(), kSoon));
  EXPECT_EQ(answer_to(ranks.server, ""), "");
  EXPECT_EQ(ranks[0].add("n", 1), 1);
}

TEST(StoreServer, WaitsFiveSecondsForAHello) {
  std::vector<int> closed;
  StoreState state({.world_size = 1,
                    .token = "",
                    .failure_timeout = 10s,
                    .send = [](int, const Frame&) {},
                    .close = [&](int connection) { closed.push_back(connection); }});
  const AwakeClock::Time start{};
  state.opened(7, start);
  state.tick(start + 4900ms);
  EXPECT_TRUE(closed.empty());
  state.tick(start + 5s);
  EXPECT_EQ(closed, std::vector<int>{7});
}

/// A world of two, of which rank 1 was last heard at time 0.
struct SilentRank {
  explicit SilentRank(std::chrono::milliseconds failure_timeout)
      : state({.world_size = 2,
               .token = "",
               .failure_timeout = failure_timeout,
               .send = [](int, const Frame&) {},
               .close = [](int) {}}) {
    state.opened(1, {});
    const std::int64_t timeout = failure_timeout.count();
    state.received(1, encode({Op::hello, 0, pack("anneal store", 1, "", 1, 2, timeout, "node3", 712)}), {});
  }
  std::string verdict_after(std::chrono::milliseconds time) {
    state.tick(AwakeClock::Time{} + time);
    return state.verdict();
  }
  StoreState state;
};

TEST(StoreServer, SilenceIsAFailureAfterSixTenthsOfTheTimeOut) {
  SilentRank rank(10s);
  EXPECT_EQ(rank.verdict_after(5900ms), "");
  EXPECT_EQ(rank.verdict_after(6000ms), "rank 1 (node3, pid 712) stopped responding for 6.0 s");
}

TEST(StoreServer, SilenceIsNoneWithoutATimeOut) { EXPECT_EQ(SilentRank(0s).verdict_after(24h * 365), ""); }

TEST(AwakeClockTest, APauseCountsAsAShortOne) {
  AwakeClock clock(10ms);
  const auto start = clock.now();
  std::this_thread::sleep_for(100ms);
  EXPECT_EQ(clock.now() - start, 10ms);
}

TEST(Verdict, OfARankThatGivesUpReachesAll) {
  Ranks ranks(3);
  std::atomic<int> calls = 0;
  std::promise<std::string> heard;
  const auto subscription = ranks[0].on_failure([&](const std::string& verdict) {
    if (calls++ == 0) heard.set_value(verdict);
  });
  auto waiting =
      std::async(std::launch::async, [&] { return message_of<RankFailure>([&] { ranks[2].get("never", 60s); }); });
  std::this_thread::sleep_for(20ms);
  ranks[1].fail("loss is not finite");
  const std::string verdict = *ranks[1].failure();
  EXPECT_TRUE(contains(verdict, "rank 1 ("));
  EXPECT_TRUE(contains(verdict, format("pid {}) failed: loss is not finite", ::getpid())));
  EXPECT_EQ(heard.get_future().get(), verdict);
  EXPECT_EQ(waiting.get(), verdict);
  ranks[2].fail("so does rank 2");  // follows from the first, and changes nothing
  EXPECT_EQ(wait_for_failure(ranks[0]), verdict);
  EXPECT_EQ(ranks[2].failure(), verdict);
  EXPECT_EQ(message_of<RankFailure>([&] { ranks[0].set("a", "b"); }), verdict);
  EXPECT_EQ(message_of<RankFailure>([&] { ranks[0].exchange("a", "b", 1s); }), verdict);
  bool at_once = false;
  EXPECT_EQ(ranks[0].on_failure([&](const std::string& late) { at_once = late == verdict; }), nullptr);
  EXPECT_TRUE(at_once);
  EXPECT_EQ(calls, 1);
}

TEST(Verdict, IsNotToldToWhoNoLongerListens) {
  Ranks ranks(2);
  bool called = false;
  auto subscription = ranks[0].on_failure([&](const std::string&) { called = true; });
  subscription.reset();
  ranks[1].fail("why");
  wait_for_failure(ranks[0]);
  ranks.stores.clear();
  EXPECT_FALSE(called);
}

// Else a rank that gives up could begin a collective that the others, who are still to hear why, find out of order.
TEST(Verdict, IsHeardByListenersBeforeFailReturns) {
  Ranks ranks(2);
  std::array<std::atomic<bool>, 2> heard{};
  const auto slow = [&](std::size_t rank) {
    return ranks[rank].on_failure([&, rank](const std::string&) {
      std::this_thread::sleep_for(50ms);
      ranks[rank].fail("a listener says so too");
      heard[rank] = true;
    });
  };
  const auto first = slow(0), second = slow(1);
  ranks[1].fail("why");
  EXPECT_TRUE(heard[1]);
  wait_for_failure(ranks[0]);
  ranks[0].fail("so does rank 0");
  EXPECT_TRUE(heard[0]);
}

TEST(Verdict, KeepsWhoComesLaterOut) {
  Ranks ranks(3, 2);
  ranks[1].fail("why");
  EXPECT_EQ(message_of<RankFailure>([&] { Store store(options(ranks.server, 2, 3)); }), *ranks[1].failure());
}

TEST(Verdict, IsNoneForACleanLeave) {
  Ranks ranks(3);
  ranks.stores.pop_back();
  std::this_thread::sleep_for(kTimeout);
  EXPECT_FALSE(ranks[0].failure());
  EXPECT_EQ(ranks[1].add("n", 1), 1);
  Store again(options(ranks.server, 2, 3));
  EXPECT_EQ(again.add("n", 1), 2);
}

TEST(Verdict, IsNoneWhenTheServerCloses) {
  auto server = std::make_unique<StoreServer>(StoreServerOptions{.token = "secret", .failure_timeout = kTimeout});
  Store store(options(*server, 0, 1));
  const std::uint16_t port = server->port();
  server.reset();
  EXPECT_EQ(message_of<Error>([&] { store.get("a", 1s); }), format("the store at 127.0.0.1:{} has been closed", port));
  EXPECT_FALSE(store.failure());
}

TEST(Verdict, IsOneForAnExceptionThatUnwinds) {
  Ranks ranks(2, 1);
  try {
    Store store(options(ranks.server, 1, 2));
    throw std::runtime_error("user code");
  } catch (const std::runtime_error&) {}
  EXPECT_TRUE(contains(wait_for_failure(ranks[0]), "failed: it ended with an exception"));
}

// What ranks in processes of their own do. Each waits for the others first.

/// Writes the verdict, and after how many milliseconds it came, on stderr.
int report_verdict(const Store& store, std::chrono::steady_clock::time_point since) {
  const std::string verdict = wait_for_failure(store);
  const auto took = std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - since);
  std::fprintf(stderr, "%lld %s", static_cast<long long>(took.count()), verdict.c_str());
  return 0;
}

template <int signal>
int rank_one_gets(const RankEnvironment& env, Store& store) {
  const auto pids = store.exchange("pids", std::to_string(::getpid()), kSoon);
  const auto since = std::chrono::steady_clock::now();
  if (env.rank == 1) ::raise(signal);
  const int code = report_verdict(store, since);
  if (signal == SIGSTOP && env.rank == 0) ::kill(std::stoi(pids[1]), SIGCONT);
  return code;
}

const RankFunction rank_one_dies("rank one dies", rank_one_gets<SIGKILL>);
const RankFunction rank_one_stops("rank one stops", rank_one_gets<SIGSTOP>);

const RankFunction server_stops("server stops", [](const RankEnvironment& env, Store& outer) {
  const auto where = [&](std::uint16_t port) {
    return StoreOptions{.port = port, .rank = env.rank, .world_size = env.world_size, .failure_timeout = kTimeout};
  };
  if (env.rank == 0) {
    StoreServer server({.world_size = env.world_size, .failure_timeout = kTimeout});
    outer.set("port", std::to_string(server.port()));
    Store store(where(server.port()));
    store.exchange("all", "", kSoon);
    outer.exchange("all have their replies", "", kSoon);
    ::raise(SIGSTOP);
    return report_verdict(store, std::chrono::steady_clock::now());
  }
  const std::string pid = outer.get("port", kSoon);
  Store store(where(static_cast<std::uint16_t>(std::stoi(pid))));
  store.exchange("all", "", kSoon);
  outer.exchange("all have their replies", "", kSoon);
  return report_verdict(store, std::chrono::steady_clock::now());
});

const RankFunction hangs("hangs", [](const RankEnvironment& env, Store& store) {
  store.exchange("all", "", kSoon);
  if (env.rank == 1) ::raise(SIGKILL);
  std::this_thread::sleep_for(2 * kTimeout);  // in something that no verdict wakes
  return 0;
});

/// Rank `rank` has reported the verdict within the time.
AssertionResult reported(const RankResults& results, std::size_t rank, const std::string& begin, const std::string& end,
                         std::chrono::milliseconds within) {
  const std::string& text = results.ranks[rank].err;
  const AssertionResult right = contains(text, begin) ? contains(text, end) : contains(text, begin);
  if (!right) return right;
  if (std::atoi(text.c_str()) <= within.count()) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << text << ": later than " << within.count() << " ms";
}

TEST(Verdict, NamesAProcessThatWasKilledAtOnce) {
  const RankResults results = spawn_ranks(3, "rank one dies");
  EXPECT_EQ(results.codes(), (std::vector<int>{0, 128 + SIGKILL, 0}));
  for (const std::size_t rank : {0u, 2u}) EXPECT_TRUE(reported(results, rank, " rank 1 (", ") died", kTimeout / 4));
}

TEST(Verdict, NamesAProcessThatStoppedAndKeepsItOut) {
  const RankResults results = spawn_ranks(3, "rank one stops");
  EXPECT_EQ(results.codes(), (std::vector<int>{0, 0, 0}));
  // Rank 1 too, continued by rank 0.
  for (const std::size_t rank : {0u, 1u, 2u})
    EXPECT_TRUE(reported(results, rank, " rank 1 (", "stopped responding for " + seconds_text(kTimeout * 6 / 10),
                         rank == 1 ? kSoon : kTimeout));
}

TEST(Verdict, NamesTheServersProcessWhenItStops) {
  const RankResults results = spawn_ranks(3, "server stops");
  for (const std::size_t rank : {1u, 2u})
    EXPECT_TRUE(reported(results, rank, " rank 0 (the store at 127.0.0.1:",
                         "stopped responding for " + seconds_text(kTimeout * 6 / 10), kTimeout));
  EXPECT_FALSE(results.timed_out);
}

TEST(Verdict, EndsALaunchedProcessThatHangs) {
  const RankResults results = spawn_ranks(2, "hangs", {{"ANNEAL_LAUNCHED", "1"}});
  EXPECT_EQ(results.codes(), (std::vector<int>{76, 128 + SIGKILL}));
  EXPECT_TRUE(contains(results.ranks[0].err, ") died\n"));
}

TEST(Verdict, NeverEndsAnotherProgram) {
  const RankResults results = spawn_ranks(2, "hangs");
  EXPECT_EQ(results.codes(), (std::vector<int>{0, 128 + SIGKILL}));
  EXPECT_EQ(results.ranks[0].err, "");
}

}  // namespace
}  // namespace anneal::dist
