// Ranks on this machine, started by rank 0.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

namespace anneal {
inline namespace v0 {
namespace dist {

/// 32 bytes from the system's random numbers, as 64 hexadecimal digits.
std::string random_token();

/// Makes this process rank 0 of `n`, all on this machine: starts ranks 1 to n-1 as this same program with the same
/// arguments, and with torchrun's variables, ANNEAL_TOKEN, ANNEAL_LAUNCHED=1 and, unless it is set, OMP_NUM_THREADS =
/// cores / n in their environment. They find themselves by rank_environment(). They write where this process writes,
/// and read nothing. Their own time-outs end them when this process dies.
///
///     StoreServer server({.world_size = n, .token = token});
///     LocalRanks others(n, server.port(), token);
///     ... train ...
///     return others.wait();
class LocalRanks {
 public:
  /// `port`: where this process's StoreServer listens, on 127.0.0.1. `grace`: how long ranks that were asked to end may
  /// take. Throws Error when a process cannot be started, and where ranks would start ranks.
  LocalRanks(int n, std::uint16_t port, const std::string& token,
             std::chrono::milliseconds grace = std::chrono::seconds(10));
  /// Asks those that still run to end (SIGTERM), and kills them after the grace time; stopped ones at once.
  ~LocalRanks();
  LocalRanks(const LocalRanks&) = delete;
  LocalRanks& operator=(const LocalRanks&) = delete;

  /// Waits until all have ended; the exit code of the first that ended with another than 0, or 0. A signal s counts as
  /// 128 + s.
  int wait();

 private:
  class Children;
  std::unique_ptr<Children> children_;
};

}  // namespace dist
}  // namespace v0
}  // namespace anneal
