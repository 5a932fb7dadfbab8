// How much is done in a second.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>

#include "anneal/trainer/metric_map.h"

namespace anneal {
inline namespace v0 {

struct ThroughputOptions {
  std::int64_t window_size = 100;  ///< updates that rates are taken over
  int world_size = 1;              ///< devices that do as much as this one each
  double peak_flops = 0;           ///< of one device in a second; 0: unknown
  std::string separator = "/";
};

/// Totals, and rates over a window of them.
class Throughput {
 public:
  /// All since the beginning, of one device.
  struct Totals {
    double time;  ///< seconds
    std::int64_t batches, samples;
    std::optional<std::int64_t> lengths = {};  ///< items, such as tokens
    std::optional<double> flops = {};
  };

  /// Throws ConfigError for options that make no sense.
  explicit Throughput(ThroughputOptions options = {});
  /// Throws Error for a time before the last one, for fewer samples than batches, and for lengths below samples.
  void update(const Totals& totals);
  /// time, batches, samples and lengths; once there are `window_size` updates also device/batches_per_sec,
  /// samples_per_sec, items_per_sec, flops_per_sec and mfu (the share of peak_flops), as far as they are known: the
  /// difference of the last and the first update over their time. Of several devices, their sums without "device/".
  MetricMap compute() const;
  void reset() { window_.clear(); }

 private:
  ThroughputOptions options_;
  std::deque<Totals> window_;
};

}  // namespace v0
}  // namespace anneal
