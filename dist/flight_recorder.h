// What a group did last, for the post-mortem.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <ostream>
#include <string>
#include <vector>

#include "anneal/dist/operation.h"

namespace anneal {
inline namespace v0 {
namespace dist {

/// The last collectives of a group: when each was started and how it ended. Safe to use from several threads.
class FlightRecorder {
 public:
  enum class State : std::uint8_t { running, done, failed };
  struct Record {
    Signature signature;
    std::string what;
    std::uint64_t sequence = 0;
    State state = State::running;
    std::chrono::system_clock::time_point began, ended;
  };

  static constexpr std::size_t capacity = 1024;

  void begin(const Operation& operation);
  void end(std::uint64_t sequence, bool ok);
  /// The newest `n` records at most, oldest first.
  std::vector<Record> last(std::size_t n = capacity) const;

 private:
  mutable std::mutex mutex_;
  std::vector<Record> ring_;  // the record of a sequence number is at that number modulo the capacity
  std::uint64_t newest_ = 0;
};

/// One line: "2026-11-21T12:00:01.250Z all_reduce #417 (bucket 3, 1048576 f32): running for 6.0 s"
std::ostream& operator<<(std::ostream& out, const FlightRecorder::Record& record);

}  // namespace dist
}  // namespace v0
}  // namespace anneal
