// What each op of a run costs.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "anneal/core/device_mark.h"
#include "anneal/trainer/op_timer.h"
#include "anneal/trainer/profiler.h"

namespace anneal {
inline namespace v0 {

/// A table of the kernels that ops ran on the run's thread: calls, time, share of all ops' time, bytes and FLOPs
/// (kernels/work.h) and both per second, the longest first. A GPU's times are its own.
class OpsProfiler final : public Profiler {
 public:
  using Profiler::Profiler;

  struct Totals {
    std::int64_t calls = 0;
    double seconds = 0, bytes = 0, flops = 0;
  };
  /// Since the run began, by the kernel's name.
  const std::map<std::string_view, Totals>& ops() const { return ops_; }

  void start(std::string_view) override {}
  void stop(std::string_view) override {}
  void begin_run() override;
  void end_run() override;
  std::string report() const override;

 private:
  std::map<std::string_view, Totals> ops_;
  DeviceMark begin_;
  double run_seconds_ = 0;
  std::unique_ptr<OpTimer> timer_;
};

}  // namespace v0
}  // namespace anneal
