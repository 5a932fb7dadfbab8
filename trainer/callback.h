// Code that a Trainer calls at fixed points of a run.
#pragma once

#include <exception>
#include <string>
#include <typeinfo>

#include "anneal/core/tensor.h"
#include "anneal/core/type_name.h"
#include "anneal/data/batch.h"
#include "anneal/trainer/hook_point.h"
#include "anneal/trainer/metric_map.h"

namespace anneal {
inline namespace v0 {

namespace optim {
class Optimizer;
}
class Trainer;
class TrainingModule;
class StepContext;
struct Checkpoint;
struct TrainerOptions;

/// Base of callbacks. Each hook is called for the callbacks in their order and then for the module; an exception ends
/// the run. Metrics are logged by `trainer.log`.
class Callback {
 public:
  virtual ~Callback() = default;

  /// Changes options of the Trainer that it is given to, before they are checked.
  virtual void configure(TrainerOptions&) {}

  virtual void setup(Trainer&, TrainingModule&, Stage) {}
  /// Also after an exception.
  virtual void teardown(Trainer&, TrainingModule&, Stage) {}
  virtual void on_exception(Trainer&, TrainingModule&, const std::exception_ptr&) {}

  /// A signal ends the fit (TrainerOptions::handle_signals): comes in place of on_train_end and on_fit_end.
  virtual void on_signal(Trainer&, TrainingModule&, int /*signal*/) {}

  virtual void on_fit_start(Trainer&, TrainingModule&) {}
  virtual void on_fit_end(Trainer&, TrainingModule&) {}
  virtual void on_sanity_check_start(Trainer&, TrainingModule&) {}
  virtual void on_sanity_check_end(Trainer&, TrainingModule&) {}

  virtual void on_train_start(Trainer&, TrainingModule&) {}
  virtual void on_train_end(Trainer&, TrainingModule&) {}
  virtual void on_train_epoch_start(Trainer&, TrainingModule&) {}
  virtual void on_train_epoch_end(Trainer&, TrainingModule&) {}
  virtual void on_train_batch_start(Trainer&, TrainingModule&, const Batch&, StepContext&) {}
  /// `loss` is what training_step returned.
  virtual void on_train_batch_end(Trainer&, TrainingModule&, const Tensor& /*loss*/, const Batch&, StepContext&) {}
  virtual void on_before_zero_grad(Trainer&, TrainingModule&, optim::Optimizer&) {}
  virtual void on_before_backward(Trainer&, TrainingModule&, const Tensor& /*loss*/) {}
  virtual void on_after_backward(Trainer&, TrainingModule&) {}
  /// Gradients are complete: the mean over the accumulation window.
  virtual void on_before_optimizer_step(Trainer&, TrainingModule&, optim::Optimizer&) {}

  /// Trainer::update_batch_norm, as after weight averaging, has seen a batch: the one hook of its pass.
  virtual void on_swa_batch(Trainer&, TrainingModule&, const Batch&, StepContext&) {}

  virtual void on_validation_start(Trainer&, TrainingModule&) {}
  virtual void on_validation_end(Trainer&, TrainingModule&) {}
  virtual void on_validation_epoch_start(Trainer&, TrainingModule&) {}
  virtual void on_validation_epoch_end(Trainer&, TrainingModule&) {}
  virtual void on_validation_batch_start(Trainer&, TrainingModule&, const Batch&, StepContext&) {}
  virtual void on_validation_batch_end(Trainer&, TrainingModule&, const Batch&, StepContext&) {}

  virtual void on_test_start(Trainer&, TrainingModule&) {}
  virtual void on_test_end(Trainer&, TrainingModule&) {}
  virtual void on_test_epoch_start(Trainer&, TrainingModule&) {}
  virtual void on_test_epoch_end(Trainer&, TrainingModule&) {}
  virtual void on_test_batch_start(Trainer&, TrainingModule&, const Batch&, StepContext&) {}
  virtual void on_test_batch_end(Trainer&, TrainingModule&, const Batch&, StepContext&) {}

  virtual void on_predict_start(Trainer&, TrainingModule&) {}
  virtual void on_predict_end(Trainer&, TrainingModule&) {}
  virtual void on_predict_epoch_start(Trainer&, TrainingModule&) {}
  virtual void on_predict_epoch_end(Trainer&, TrainingModule&) {}
  virtual void on_predict_batch_start(Trainer&, TrainingModule&, const Batch&, StepContext&) {}
  /// `prediction` is what predict_step returned.
  virtual void on_predict_batch_end(Trainer&, TrainingModule&, const Batch& /*prediction*/, const Batch&,
                                    StepContext&) {}

  /// Tensors and values for the checkpoint beyond `state`, before the module's; and back, before the weights are read,
  /// which it may change.
  virtual void on_save_checkpoint(Trainer&, TrainingModule&, Checkpoint&) {}
  virtual void on_load_checkpoint(Trainer&, TrainingModule&, Checkpoint&) {}

  /// Whether this one, of a module, takes the place of that one of the Trainer's: if that has its type, or a type that
  /// its own derives from.
  virtual bool replaces(const Callback& other) const {
    return typeid(other) != typeid(Callback) && is_base(typeid(other), typeid(*this));
  }

  /// Whether it reads metrics in on_train_epoch_end: it is then called after the others and the module, when the
  /// epoch's metrics are there.
  virtual bool monitors() const { return false; }

  /// Of several ranks, whether only rank 0 calls it: one that writes files or text.
  virtual bool rank_zero_only() const { return false; }
  /// Whether it writes weights between an optimizer's step and the end of the batch: averages are then taken there.
  virtual bool changes_weights() const { return false; }

  /// What a checkpoint keeps of it: found again by this key, which tells callbacks of one type apart. Empty: by the
  /// name of its type, and its number among several of that. Nothing is stored for an empty state.
  virtual std::string state_key() const { return {}; }
  virtual StateMap state() const { return {}; }
  virtual void load_state(const StateMap&) {}
};

}  // namespace v0
}  // namespace anneal
