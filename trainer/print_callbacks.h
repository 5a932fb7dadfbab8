// What the simple form prints.
#pragma once

#include "anneal/trainer/trainer_callback.h"

namespace anneal {
inline namespace v0 {

/// A line where a run begins and ends, and where an epoch begins.
class PrintProgress final : public TrainerCallback {
 public:
  void on_training_run_start(SimpleTrainer& trainer) override;
  void on_train_epoch_start(Trainer& trainer, TrainingModule& module) override;
  void on_training_run_end(SimpleTrainer& trainer) override;
};

/// The newest values of the run history: of metrics with `train` in their names after an epoch's training, of the
/// others after an evaluation.
class PrintMetrics final : public TrainerCallback {
 public:
  void on_epoch_trained(SimpleTrainer& trainer) override;
  void on_eval_epoch_end(SimpleTrainer& trainer) override;
};
using LogMetrics = PrintMetrics;

}  // namespace v0
}  // namespace anneal
