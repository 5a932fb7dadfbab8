// Logs how much a run does in a second.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "anneal/core/device_mark.h"
#include "anneal/core/op_observer.h"
#include "anneal/trainer/callback.h"
#include "anneal/trainer/row_schedule.h"
#include "anneal/trainer/throughput.h"

namespace anneal {
inline namespace v0 {

struct ThroughputMonitorOptions {
  std::function<std::int64_t(const Batch&)> batch_size_fn = {};  ///< default: Batch::size
  std::function<std::int64_t(const Batch&)> length_fn = {};      ///< a batch's items, such as tokens; default: unknown
  std::int64_t window_size = 100;                                ///< batches that rates are taken over
  std::string separator = "/";
  double peak_flops = 0;  ///< of one device in a second, for mfu; 0: unknown
};

/// Writes rows of Throughput, with "train/", "validate/", "test/" or "predict/" before the names, when rows of step
/// metrics are due. Each training starts at 0, and so does each check; what checks take is not training's time. A
/// GPU's time is its own, and is waited for when a row is due only. A batch's FLOPs are the module's flops_per_batch,
/// or those of the first batch's ops: of a training step three times the forward's.
class ThroughputMonitor final : public Callback {
 public:
  /// Throws ConfigError for options that make no sense.
  explicit ThroughputMonitor(ThroughputMonitorOptions options = {});

  void setup(Trainer& trainer, TrainingModule& module, Stage stage) override;
  void teardown(Trainer& trainer, TrainingModule& module, Stage stage) override;
  void on_train_start(Trainer& trainer, TrainingModule& module) override;
  void on_train_batch_start(Trainer& trainer, TrainingModule& module, const Batch& batch, StepContext& step) override;
  void on_before_backward(Trainer& trainer, TrainingModule& module, const Tensor& loss) override;
  void on_after_backward(Trainer& trainer, TrainingModule& module) override;
  void on_train_batch_end(Trainer& trainer, TrainingModule& module, const Tensor& loss, const Batch& batch,
                          StepContext& step) override;
  void on_validation_start(Trainer& trainer, TrainingModule& module) override;
  void on_validation_batch_start(Trainer& trainer, TrainingModule& module, const Batch& batch,
                                 StepContext& step) override;
  void on_validation_batch_end(Trainer& trainer, TrainingModule& module, const Batch& batch,
                               StepContext& step) override;
  void on_validation_end(Trainer& trainer, TrainingModule& module) override;
  void on_test_start(Trainer& trainer, TrainingModule& module) override;
  void on_test_batch_start(Trainer& trainer, TrainingModule& module, const Batch& batch, StepContext& step) override;
  void on_test_batch_end(Trainer& trainer, TrainingModule& module, const Batch& batch, StepContext& step) override;
  void on_predict_start(Trainer& trainer, TrainingModule& module) override;
  void on_predict_batch_start(Trainer& trainer, TrainingModule& module, const Batch& batch, StepContext& step) override;
  void on_predict_batch_end(Trainer& trainer, TrainingModule& module, const Batch& prediction, const Batch& batch,
                            StepContext& step) override;
  bool rank_zero_only() const override { return true; }

 private:
  // Totals at a batch's end; the time is known when the device has come that far.
  struct Entry {
    DeviceMark mark;
    double paused;
    Throughput::Totals totals;
  };
  // One kind of run.
  struct Meter {
    const char* name;
    double forwards;  // that a batch's FLOPs are worth
    Throughput throughput;
    DeviceMark start = DeviceMark();
    double paused = 0;  // seconds
    std::int64_t batches = 0, samples = 0, lengths = 0;
    double flops_per_batch = 0;
    std::deque<Entry> entries = {};  // since the last row
  };
  Meter& meter(Stage kind);
  void start(Trainer& trainer, TrainingModule& module, Stage kind);
  void begin_batch(Meter& meter);
  void end_batch(Trainer& trainer, Meter& meter, const Batch& batch);
  void write_row(Trainer& trainer, Meter& meter, std::int64_t x);
  void end_evaluation_batch(Trainer& trainer, Stage kind, const Batch& batch);

  ThroughputMonitorOptions options_;
  std::vector<Meter> meters_;  // training, validation, test, prediction
  RowSchedule rows_;
  std::unique_ptr<FlopCounter> counter_;  // in the first batch
  DeviceMark check_start_;
};

}  // namespace v0
}  // namespace anneal
