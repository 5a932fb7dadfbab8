// How long each action of a run takes.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "anneal/trainer/profiler.h"

namespace anneal {
inline namespace v0 {

/// A table of actions: mean, calls, total and share of the run's time, the longest first. Actions lie within each
/// other, so shares do not sum to 100 %. Times are the host's: what a GPU computes shows where it is waited for.
class SimpleProfiler final : public Profiler {
 public:
  using Profiler::Profiler;

  /// Throws Error for an action that has begun.
  void start(std::string_view action) override;
  /// Throws Error for an action that has not begun.
  void stop(std::string_view action) override;
  void begin_run() override;
  void end_run() override;
  std::string report() const override;

  /// How often an action ended, and the seconds it took, since the run began.
  std::int64_t calls(std::string_view action) const;
  double seconds(std::string_view action) const;

 private:
  using Clock = std::chrono::steady_clock;
  struct Action {
    std::int64_t calls = 0;
    double seconds = 0;
    std::optional<Clock::time_point> start = {};  // while it runs
  };
  std::map<std::string, Action, std::less<>> actions_;
  Clock::time_point begin_ = Clock::now();
  std::optional<Clock::time_point> end_;
};

}  // namespace v0
}  // namespace anneal
