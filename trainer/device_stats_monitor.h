// Logs what a run takes of the machine.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "anneal/trainer/callback.h"
#include "anneal/trainer/row_schedule.h"

namespace anneal {
inline namespace v0 {

struct DeviceStatsMonitorOptions {
  std::optional<bool> cpu_stats = {};  ///< the machine's CPU and memory; unset: when the run is on the CPU
};

/// Writes rows at the start and at the end of batches of training, validation and test, when rows of step metrics are
/// due. Names are `DeviceStatsMonitor.<hook>/<stat>`: cpu_percent (busy since the last row), cpu_vm_percent and
/// cpu_swap_percent (in use) of the machine and rss_bytes of the process, from Linux's /proc; of a GPU's allocator
/// allocated_bytes, active_bytes (the same, as freed memory is free at once) and reserved_bytes (with what it keeps),
/// each .current and .peak, num_alloc_retries and num_ooms. Needs a logger: else ConfigError.
class DeviceStatsMonitor final : public Callback {
 public:
  explicit DeviceStatsMonitor(DeviceStatsMonitorOptions options = {}) : options_(options) {}

  void setup(Trainer& trainer, TrainingModule& module, Stage stage) override;
  void on_train_start(Trainer& trainer, TrainingModule& module) override;
  void on_train_batch_start(Trainer& trainer, TrainingModule& module, const Batch& batch, StepContext& step) override;
  void on_train_batch_end(Trainer& trainer, TrainingModule& module, const Tensor& loss, const Batch& batch,
                          StepContext& step) override;
  void on_validation_batch_start(Trainer& trainer, TrainingModule& module, const Batch& batch,
                                 StepContext& step) override;
  void on_validation_batch_end(Trainer& trainer, TrainingModule& module, const Batch& batch,
                               StepContext& step) override;
  void on_test_batch_start(Trainer& trainer, TrainingModule& module, const Batch& batch, StepContext& step) override;
  void on_test_batch_end(Trainer& trainer, TrainingModule& module, const Batch& batch, StepContext& step) override;
  bool rank_zero_only() const override { return true; }

 private:
  // What the machine's processors have done since it started.
  struct CpuTime {
    double busy = 0, total = 0;
  };
  static CpuTime cpu_time();
  void write_row(Trainer& trainer, HookPoint point, std::optional<std::int64_t> x);

  DeviceStatsMonitorOptions options_;
  RowSchedule rows_;
  CpuTime before_;
};

}  // namespace v0
}  // namespace anneal
