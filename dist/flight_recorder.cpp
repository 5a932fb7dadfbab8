#include "anneal/dist/flight_recorder.h"

#include <algorithm>
#include <cstdio>
#include <ctime>

namespace anneal {
inline namespace v0 {
namespace dist {

void FlightRecorder::begin(const Operation& operation) {
  const std::lock_guard lock(mutex_);
  if (ring_.empty()) ring_.resize(capacity);
  newest_ = operation.sequence;
  ring_[newest_ % capacity] = {
      operation.signature, operation.what, operation.sequence, State::running, std::chrono::system_clock::now(), {}};
}

void FlightRecorder::end(std::uint64_t sequence, bool ok) {
  const std::lock_guard lock(mutex_);
  if (ring_.empty()) return;
  Record& record = ring_[sequence % capacity];
  if (record.sequence != sequence) return;
  record.state = ok ? State::done : State::failed;
  record.ended = std::chrono::system_clock::now();
}

std::vector<FlightRecorder::Record> FlightRecorder::last(std::size_t n) const {
  const std::lock_guard lock(mutex_);
  std::vector<Record> records;
  if (ring_.empty()) return records;
  const std::uint64_t kept = std::min<std::uint64_t>({n, capacity, newest_});
  for (std::uint64_t sequence = newest_ - kept + 1; sequence <= newest_; ++sequence)
    if (const Record& record = ring_[sequence % capacity]; record.sequence == sequence) records.push_back(record);
  return records;
}

std::ostream& operator<<(std::ostream& out, const FlightRecorder::Record& record) {
  using std::chrono::system_clock;
  const std::time_t seconds = system_clock::to_time_t(record.began);
  const auto since_epoch = std::chrono::duration_cast<std::chrono::milliseconds>(record.began.time_since_epoch());
  std::tm utc{};
  ::gmtime_r(&seconds, &utc);
  char time[32], took[32];
  const std::size_t n = std::strftime(time, sizeof time, "%FT%T", &utc);
  std::snprintf(time + n, sizeof time - n, ".%03dZ", static_cast<int>(since_epoch.count() % 1000));
  const bool running = record.state == FlightRecorder::State::running;
  const std::chrono::duration<double> duration = (running ? system_clock::now() : record.ended) - record.began;
  std::snprintf(took, sizeof took, "%.6g s", duration.count());
  constexpr const char* states[] = {"running for", "done in", "failed after"};
  return out << time << ' ' << describe(record.signature, record.sequence, record.what) << ": "
             << states[static_cast<int>(record.state)] << ' ' << took;
}

}  // namespace dist
}  // namespace v0
}  // namespace anneal
