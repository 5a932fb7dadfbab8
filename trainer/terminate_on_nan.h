// Ends training when the loss is no number.
#pragma once

#include "anneal/trainer/trainer_callback.h"

namespace anneal {
inline namespace v0 {

/// With it, `on_bad_number` of a Trainer that would ignore one is "stop": a loss or gradients that are not finite end
/// training before they can change a weight, with StopReason::bad_number. So does the loss of a SimpleTrainer's
/// evaluation within training, once that has ended.
class TerminateOnNaN final : public TrainerCallback {
 public:
  /// Whether that ended the last fit.
  bool triggered() const { return triggered_; }

  void configure(TrainerOptions& options) override;
  void setup(Trainer& trainer, TrainingModule& module, Stage stage) override;
  void on_eval_step_end(SimpleTrainer& trainer, const Batch& batch, const BatchLoss& result) override;
  void on_train_end(Trainer& trainer, TrainingModule& module) override;

 private:
  bool triggered_ = false;
};

}  // namespace v0
}  // namespace anneal
