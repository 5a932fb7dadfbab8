// Logs the learning rates.
#pragma once

#include <optional>

#include "anneal/trainer/callback.h"
#include "anneal/trainer/training_module.h"

namespace anneal {
inline namespace v0 {

struct LearningRateMonitorOptions {
  std::optional<Interval> logging_interval = {};  ///< unset: the schedule's; without a schedule, both
  bool log_momentum = false;                      ///< of Adam, beta1
  bool log_weight_decay = false;
};

/// Adds `lr-<optimizer>` (a second one of its type: `lr-<optimizer>-1`; or OptimizerEntry::name) to the rows of steps
/// or of epochs: the rate that the row's step was made with, or that its epoch began with. Behind that `/<group's
/// name>`, or of several groups `/pg1`, `/pg2`, ...; from when on there are several, those that are added later too.
/// With `-momentum` and `-weight_decay` behind the name, those too. Needs a logger: else ConfigError.
class LearningRateMonitor final : public Callback {
 public:
  explicit LearningRateMonitor(LearningRateMonitorOptions options = {}) : options_(options) {}

  void setup(Trainer& trainer, TrainingModule& module, Stage stage) override;
  void on_train_epoch_start(Trainer& trainer, TrainingModule& module) override;
  void on_train_batch_start(Trainer& trainer, TrainingModule& module, const Batch& batch, StepContext& step) override;
  bool rank_zero_only() const override { return true; }

 private:
  void log(Trainer& trainer, Interval interval) const;

  LearningRateMonitorOptions options_;
};

}  // namespace v0
}  // namespace anneal
