// The user's model together with how it is trained.
#pragma once

#include <cstdint>
#include <string_view>

#include "anneal/data/batch.h"
#include "anneal/nn/module.h"
#include "anneal/optim/schedule.h"
#include "anneal/trainer/hook_point.h"
#include "anneal/trainer/metric_map.h"
#include "anneal/trainer/shared.h"
#include "anneal/trainer/step_context.h"

namespace anneal {
inline namespace v0 {

enum class Interval : std::uint8_t { epoch, step };

/// What configure_optimizers returns: `{optim::AdamW(parameters(), {.lr = 1e-3}), optim::cosine_annealing_lr(10)}`.
struct OptimizerConfig {
  Shared<optim::Optimizer> optimizer = {};  ///< none: nothing is updated
  optim::Schedule schedule = {};            ///< of the learning rate; none: it stays
  Interval interval = Interval::epoch;      ///< of the schedule's steps
  std::int64_t frequency = 1;               ///< the schedule moves every so many epochs, or optimizer steps
};

/// A module that a Trainer can train:
///
///   struct Classifier : anneal::TrainingModule {
///     nn::Sequential net{{this, "net"}, nn::Flatten(), nn::Linear(784, 512), nn::ReLU(), nn::Linear(512, 10)};
///     Tensor training_step(const Batch& batch, StepContext& step) override {
///       auto loss = cross_entropy(net(batch["x"]), batch["y"]);
///       step.log("train_loss", loss, {.prog_bar = true});
///       return loss;
///     }
///     OptimizerConfig configure_optimizers() override { return {optim::AdamW(parameters(), {.lr = 1e-3})}; }
///   };
class TrainingModule : public nn::Module {
 public:
  using nn::Module::Module;

  // ---- the parts ----

  /// The loss of a batch, a scalar. An undefined tensor: the batch takes no part in the update.
  virtual Tensor training_step(const Batch& batch, StepContext& step);
  /// Log metrics here; gradients are not recorded and the module is in eval mode.
  virtual void validation_step(const Batch& batch, StepContext& step);
  virtual void test_step(const Batch& batch, StepContext& step);
  virtual OptimizerConfig configure_optimizers();

  // ---- hooks, each called after the callbacks' ones of the same name ----

  virtual void setup(Stage) {}
  virtual void teardown(Stage) {}
  virtual void on_fit_start() {}
  virtual void on_fit_end() {}

  virtual void on_train_start() {}
  virtual void on_train_end() {}
  virtual void on_train_epoch_start() {}
  virtual void on_train_epoch_end() {}
  virtual void on_train_batch_start(const Batch&, StepContext&) {}
  virtual void on_train_batch_end(const Tensor& /*loss*/, const Batch&, StepContext&) {}
  virtual void on_before_zero_grad(optim::Optimizer&) {}
  virtual void on_before_backward(const Tensor& /*loss*/) {}
  virtual void on_after_backward() {}
  virtual void on_before_optimizer_step(optim::Optimizer&) {}

  virtual void on_validation_start() {}
  virtual void on_validation_end() {}
  virtual void on_validation_epoch_start() {}
  virtual void on_validation_epoch_end() {}
  virtual void on_validation_batch_start(const Batch&, StepContext&) {}
  virtual void on_validation_batch_end(const Batch&, StepContext&) {}

  virtual void on_test_start() {}
  virtual void on_test_end() {}
  virtual void on_test_epoch_start() {}
  virtual void on_test_epoch_end() {}
  virtual void on_test_batch_start(const Batch&, StepContext&) {}
  virtual void on_test_batch_end(const Batch&, StepContext&) {}

  /// Values of its own for the checkpoint. Parameters and buffers are in it anyway.
  virtual void on_save_checkpoint(StateMap&) {}
  virtual void on_load_checkpoint(const StateMap&) {}

  // ---- what the loop does by default ----

  virtual void backward(const Tensor& loss) { loss.backward(); }
  virtual void optimizer_zero_grad(optim::Optimizer& optimizer) { optimizer.zero_grad(); }
  virtual void optimizer_step(optim::Optimizer& optimizer) { optimizer.step(); }
  /// Before and after an evaluation. Afterwards every module's own mode is restored in any case, before this is called.
  virtual void on_validation_model_eval() { eval(); }
  virtual void on_validation_model_train() {}
  virtual void on_test_model_eval() { eval(); }
  virtual void on_test_model_train() {}
  /// Before a check that does not lie within an accumulation window.
  virtual void on_validation_model_zero_grad() { zero_grad(); }

  // ---- in a run ----

  /// Throws Error outside of a run.
  Trainer& trainer() const;
  /// Trainer::log, for hooks that get no StepContext.
  void log(std::string_view name, double value, const LogOptions& options = {});
  void log(std::string_view name, const Tensor& value, const LogOptions& options = {});

 private:
  friend struct TrainerState;
  Trainer* trainer_ = nullptr;
};

}  // namespace v0
}  // namespace anneal
