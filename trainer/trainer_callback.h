// Callbacks of the simple form.
#pragma once

#include "anneal/trainer/callback.h"

namespace anneal {
inline namespace v0 {

class SimpleTrainer;
struct BatchLoss;

/// A callback with pytorch-accelerated's hooks, which a SimpleTrainer calls beside those of Callback. Each comes after
/// the SimpleTrainer's method of the same moment.
class TrainerCallback : public Callback {
 public:
  /// At the end of the SimpleTrainer's constructor.
  virtual void on_init_end(SimpleTrainer&) {}
  virtual void on_training_run_start(SimpleTrainer&) {}
  virtual void on_train_step_start(SimpleTrainer&) {}
  /// Before the loss's backward.
  virtual void on_train_step_end(SimpleTrainer&, const Batch&, const BatchLoss&) {}
  /// pytorch-accelerated's on_train_epoch_end: before the evaluation that belongs to the epoch.
  virtual void on_epoch_trained(SimpleTrainer&) {}
  virtual void on_eval_epoch_start(SimpleTrainer&) {}
  virtual void on_eval_step_start(SimpleTrainer&) {}
  virtual void on_eval_step_end(SimpleTrainer&, const Batch&, const BatchLoss&) {}
  virtual void on_eval_epoch_end(SimpleTrainer&) {}
  /// After the evaluation.
  virtual void on_training_run_epoch_end(SimpleTrainer&) {}
  virtual void on_training_run_end(SimpleTrainer&) {}
  /// Around SimpleTrainer::evaluate.
  virtual void on_evaluation_run_start(SimpleTrainer&) {}
  virtual void on_evaluation_run_end(SimpleTrainer&) {}
};

}  // namespace v0
}  // namespace anneal
