// What the store's server knows and decides, without its sockets and without a clock of its own.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "anneal/dist/frame.h"

namespace anneal {
inline namespace v0 {
namespace dist {

/// Between two heartbeats.
std::chrono::milliseconds beat_interval(std::chrono::milliseconds failure_timeout);
/// How long a silence is a failure; for a time-out of 0, for ever.
std::chrono::milliseconds silence_limit(std::chrono::milliseconds failure_timeout);
/// "6.0 s"
std::string seconds_text(std::chrono::milliseconds time);

/// Time as one thread lives through it: a pause in which it did not run (a stopped process, a suspended machine) counts
/// as a short one, so that nobody is called silent whom it had no chance to hear.
class AwakeClock {
 public:
  using Time = std::chrono::steady_clock::time_point;
  explicit AwakeClock(std::chrono::milliseconds longest_pause) : longest_pause_(longest_pause) {}

  Time now();

 private:
  std::chrono::steady_clock::duration longest_pause_;
  Time seen_ = std::chrono::steady_clock::now();
  Time now_ = seen_;
};

/// Connections are numbered by the caller, which hands in what arrives and carries out what is decided.
class StoreState {
 public:
  using Time = AwakeClock::Time;
  using Milliseconds = std::chrono::milliseconds;
  struct Options {
    int world_size;
    std::string token;
    Milliseconds failure_timeout;
    std::function<void(int connection, const Frame& frame)> send;
    /// Send what there is, then close: the state has forgotten the connection.
    std::function<void(int connection)> close;
  };

  explicit StoreState(Options options);

  void opened(int connection, Time now);
  void received(int connection, std::string_view bytes, Time now);
  /// The other end has closed, or the network has.
  void closed(int connection);
  /// Closes a connection that does what it must not.
  void expel(int connection, const std::string& why);
  /// Ends the waits that are over, finds the silent, and sends heartbeats. Call it every beat_interval.
  void tick(Time now);
  /// Takes leave of all, and forgets them.
  void bye();

  const std::string& verdict() const { return verdict_; }

 private:
  struct Connection {
    int rank = -1;  // until it says hello
    Time heard;
    int waits = 0;
    FrameReader reader{kMaxHello};
  };
  struct Member {
    enum { absent, here, left } state = absent;
    std::string host;
    std::int64_t pid = 0;
  };
  struct Wait {
    int connection = -1;
    std::uint64_t request = 0;
    Time from, until;
  };
  struct Part {  // what a rank brought to an exchange
    std::string value;
    Wait wait;
  };
  using Exchange = std::map<int, Part>;  // by rank

  bool handle(int connection, const Frame& frame, Time now);
  void hello(int connection, const Frame& frame);
  void refuse(int connection, const std::string& why);
  void set(const std::string& key, std::string value);
  void get(const Wait& wait, const std::string& key);
  std::int64_t add(const std::string& key, std::int64_t delta);
  void exchange(const Wait& wait, int rank, const std::string& name, std::string value);
  void give_back_if_complete(const std::string& name);
  void give_up_if_left(const std::string& name);
  void give_up_waits(Time now);
  void leave(int connection);

  Wait wait_for(int connection, const Frame& frame, std::int64_t timeout, Time now);
  void answer(const Wait& wait, Op op, std::string payload);
  void occupy(std::size_t bytes);
  void decide(const std::string& verdict);
  std::string member_text(int rank) const;
  std::string absent_text() const;

  Options options_;
  std::map<int, Connection> connections_;
  std::vector<Member> members_;  // by rank
  std::map<std::string, std::string> values_;
  std::map<std::string, std::vector<Wait>> gets_;  // by key
  std::map<std::string, Exchange> exchanges_;      // by name
  std::size_t bytes_ = 0;                          // of keys, values and exchanges
  std::string verdict_;
};

}  // namespace dist
}  // namespace v0
}  // namespace anneal
