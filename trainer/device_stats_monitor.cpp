#include "anneal/trainer/device_stats_monitor.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <map>

#include "anneal/core/allocator.h"
#include "anneal/core/error.h"
#include "anneal/trainer/trainer.h"

namespace anneal {
inline namespace v0 {
namespace {

// "MemTotal: 16384 kB", line by line.
std::map<std::string, double> memory_info() {
  std::ifstream in("/proc/meminfo");
  std::map<std::string, double> kilobytes;
  std::string name;
  double value = 0;
  while (in >> name >> value) {
    kilobytes[name.substr(0, name.find(':'))] = value;
    in.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return kilobytes;
}

double percent(double part, double whole) { return whole > 0 ? 100 * part / whole : 0; }

void set_memory(MetricMap& row, const std::string& prefix) {
  const auto kilobytes = memory_info();
  const auto used = [&](const char* stat, const char* total, const char* free) {
    const auto of_total = kilobytes.find(total), of_free = kilobytes.find(free);
    if (of_total != kilobytes.end() && of_free != kilobytes.end())
      row.set(prefix + stat, percent(of_total->second - of_free->second, of_total->second));
  };
  used("cpu_vm_percent", "MemTotal", "MemAvailable");
  used("cpu_swap_percent", "SwapTotal", "SwapFree");
  std::ifstream in("/proc/self/statm");
  double size = 0, resident = 0;
  if (in >> size >> resident) row.set(prefix + "rss_bytes", resident * static_cast<double>(::sysconf(_SC_PAGESIZE)));
}

void set_allocator(MetricMap& row, const std::string& prefix, const MemoryStats& stats) {
  const auto set = [&](const std::string& stat, std::size_t value) {
    row.set(prefix + stat, static_cast<double>(value));
  };
  for (const char* kind : {"allocated_bytes", "active_bytes"}) {
    set(std::string(kind) + ".current", stats.active);
    set(std::string(kind) + ".peak", stats.peak);
  }
  set("reserved_bytes.current", stats.active + stats.cached);
  set("reserved_bytes.peak", stats.held_peak);
  set("num_alloc_retries", stats.retries);
  set("num_ooms", stats.failures);
}

}  // namespace

// user, nice, system, idle, iowait, irq, softirq, steal; guests' time is in the first two.
DeviceStatsMonitor::CpuTime DeviceStatsMonitor::cpu_time() {
  std::ifstream in("/proc/stat");
  std::string name;
  in >> name;
  CpuTime time;
  double ticks = 0;
  for (int i = 0; i < 8 && in >> ticks; ++i) {
    time.total += ticks;
    if (i != 3 && i != 4) time.busy += ticks;
  }
  return time;
}

void DeviceStatsMonitor::setup(Trainer& trainer, TrainingModule&, Stage) {
  check<ConfigError>(!trainer.loggers().empty() || trainer.options().fast_dev_run > 0,
                     "logger: expected one for the DeviceStatsMonitor, got none");
  rows_ = {};
  before_ = cpu_time();
}

void DeviceStatsMonitor::write_row(Trainer& trainer, HookPoint point, std::optional<std::int64_t> x) {
  if (!x) return;
  const std::string prefix = format("DeviceStatsMonitor.{}/", info(point).name);
  const bool on_cpu = trainer.device() == Device{};
  MetricMap row;
  if (options_.cpu_stats.value_or(on_cpu)) {
    const CpuTime now = cpu_time();
    if (now.total > 0) row.set(prefix + "cpu_percent", percent(now.busy - before_.busy, now.total - before_.total));
    before_ = now;
    set_memory(row, prefix);
  }
  if (!on_cpu) set_allocator(row, prefix, allocator(trainer.device()).stats());
  trainer.log_row(row, *x);
}

void DeviceStatsMonitor::on_train_start(Trainer& trainer, TrainingModule&) { rows_.begin_training(trainer); }
void DeviceStatsMonitor::on_train_batch_start(Trainer& trainer, TrainingModule&, const Batch&, StepContext&) {
  write_row(trainer, HookPoint::on_train_batch_start, rows_.before_training_batch(trainer));
}
void DeviceStatsMonitor::on_train_batch_end(Trainer& trainer, TrainingModule&, const Tensor&, const Batch&,
                                            StepContext&) {
  write_row(trainer, HookPoint::on_train_batch_end, rows_.after_training_batch(trainer));
}
void DeviceStatsMonitor::on_validation_batch_start(Trainer& trainer, TrainingModule&, const Batch&, StepContext&) {
  write_row(trainer, HookPoint::on_validation_batch_start, rows_.before_batch(trainer, Stage::validate));
}
void DeviceStatsMonitor::on_validation_batch_end(Trainer& trainer, TrainingModule&, const Batch&, StepContext&) {
  write_row(trainer, HookPoint::on_validation_batch_end, rows_.after_batch(trainer, Stage::validate));
}
void DeviceStatsMonitor::on_test_batch_start(Trainer& trainer, TrainingModule&, const Batch&, StepContext&) {
  write_row(trainer, HookPoint::on_test_batch_start, rows_.before_batch(trainer, Stage::test));
}
void DeviceStatsMonitor::on_test_batch_end(Trainer& trainer, TrainingModule&, const Batch&, StepContext&) {
  write_row(trainer, HookPoint::on_test_batch_end, rows_.after_batch(trainer, Stage::test));
}

}  // namespace v0
}  // namespace anneal
