// A run's actions and ops, one by one, on a time line.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "anneal/core/device_mark.h"
#include "anneal/trainer/op_timer.h"
#include "anneal/trainer/profiler.h"

namespace anneal {
inline namespace v0 {

/// Of each `wait + warmup + active` batches the last `active` ones are traced; the first ones of a run are not like
/// the others. While it warms up it looks without keeping anything.
struct TraceProfilerOptions {
  std::filesystem::path dirpath = {};  ///< default: the Trainer's log_dir()
  std::string filename = "trace";      ///< writes `<dirpath>/<stage>-<filename>.json`
  std::int64_t wait = 1, warmup = 1, active = 3;
  std::int64_t repeat = 1;  ///< how often; 0: until the run ends
};

/// Writes actions and ops as a Chrome trace, for chrome://tracing or ui.perfetto.dev: the host's in one row, each GPU's
/// ops in a row of their own. Of a CUDA build the actions are NVTX ranges meanwhile. Actions that began before the
/// traced batches, or outlast them, are left out.
class TraceProfiler final : public Profiler {
 public:
  /// Throws ConfigError for numbers that make no sense.
  explicit TraceProfiler(TraceProfilerOptions options = {});

  void start(std::string_view action) override;
  void stop(std::string_view action) override;
  void begin_run() override;
  void end_run() override;
  void end_batch() override;
  /// The trace, as JSON.
  std::string report() const override;
  std::string_view extension() const override { return "json"; }

 private:
  struct Action {
    std::string name;
    double start, seconds;  // from the run's begin; what it takes
  };
  double now() const { return DeviceMark().seconds_since(origin_); }
  void enter_phase();
  void forget_running();

  std::int64_t wait_, warmup_, active_, repeat_;
  std::int64_t batches_ = 0;
  bool keeps_ = false;
  DeviceMark origin_;
  std::unique_ptr<OpTimer> timer_;  // while it looks at all
  std::vector<Action> running_, actions_;
  std::vector<TimedOp> ops_;
};

}  // namespace v0
}  // namespace anneal
