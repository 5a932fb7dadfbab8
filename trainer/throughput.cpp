#include "anneal/trainer/throughput.h"

#include <utility>

#include "anneal/core/error.h"

namespace anneal {
inline namespace v0 {

Throughput::Throughput(ThroughputOptions options) : options_(std::move(options)) {
  check<ConfigError>(options_.window_size >= 2, "window_size: expected at least 2, got {}", options_.window_size);
  check<ConfigError>(options_.world_size >= 1, "world_size: expected at least 1, got {}", options_.world_size);
  check<ConfigError>(options_.peak_flops >= 0, "peak_flops: expected at least 0, got {}", options_.peak_flops);
}

void Throughput::update(const Totals& totals) {
  check(window_.empty() || totals.time >= window_.back().time,
        "throughput: expected a time from {} on, that of the last update, got {}",
        window_.empty() ? 0 : window_.back().time, totals.time);
  check(totals.samples >= totals.batches, "throughput: expected at least one sample a batch, got {} in {} batches",
        totals.samples, totals.batches);
  check(!totals.lengths || *totals.lengths >= totals.samples,
        "throughput: expected at least one item a sample, got {} in {} samples", totals.lengths.value_or(0),
        totals.samples);
  if (static_cast<std::int64_t>(window_.size()) == options_.window_size) window_.pop_front();
  window_.push_back(totals);
}

MetricMap Throughput::compute() const {
  MetricMap metrics;
  if (window_.empty()) return metrics;
  const Totals& first = window_.front();
  const Totals& last = window_.back();
  metrics.set("time", last.time);
  metrics.set("batches", static_cast<double>(last.batches));
  metrics.set("samples", static_cast<double>(last.samples));
  if (last.lengths) metrics.set("lengths", static_cast<double>(*last.lengths));
  const double seconds = last.time - first.time;
  if (static_cast<std::int64_t>(window_.size()) < options_.window_size || seconds == 0) return metrics;

  const std::string device = "device" + options_.separator;
  const auto rate = [&](const std::string& name, double amount) {
    metrics.set(device + name, amount / seconds);
    if (options_.world_size > 1) metrics.set(name, amount / seconds * options_.world_size);
  };
  rate("batches_per_sec", static_cast<double>(last.batches - first.batches));
  rate("samples_per_sec", static_cast<double>(last.samples - first.samples));
  if (first.lengths && last.lengths) rate("items_per_sec", static_cast<double>(*last.lengths - *first.lengths));
  if (first.flops && last.flops) {
    rate("flops_per_sec", *last.flops - *first.flops);
    if (options_.peak_flops > 0)
      metrics.set(device + "mfu", (*last.flops - *first.flops) / seconds / options_.peak_flops);
  }
  return metrics;
}

}  // namespace v0
}  // namespace anneal
