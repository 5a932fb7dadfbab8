// The user's model together with how it is trained.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "anneal/data/batch.h"
#include "anneal/nn/module.h"
#include "anneal/trainer/callback.h"
#include "anneal/trainer/hook_point.h"
#include "anneal/trainer/hparams.h"
#include "anneal/trainer/loader_set.h"
#include "anneal/trainer/manual_optimization.h"
#include "anneal/trainer/metric_map.h"
#include "anneal/trainer/optimizer_config.h"
#include "anneal/trainer/step_context.h"

namespace anneal {
inline namespace v0 {

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

  /// The loss of a batch, a scalar. An undefined tensor: the batch takes no part in the update. With manual
  /// optimization the returned loss is for on_train_batch_end alone.
  virtual Tensor training_step(const Batch& batch, StepContext& step);
  /// Log metrics here; gradients are not recorded and the module is in eval mode.
  virtual void validation_step(const Batch& batch, StepContext& step);
  virtual void test_step(const Batch& batch, StepContext& step);
  /// What the module says of a batch, by names of its choice: `return {{"y", net(batch["x"])}};` By default that is
  /// what `forward` makes of the batch's first tensor.
  virtual Batch predict_step(const Batch& batch, StepContext& step);
  virtual OptimizerConfig configure_optimizers();
  /// Makes the parts that are too large to be made on every use of the type: called once per run, after setup.
  virtual void configure_model() {}
  /// Callbacks that belong to the model. Each replaces those of the Trainer that it `replaces`.
  virtual std::vector<Shared<Callback>> configure_callbacks() { return {}; }
  /// What it was made with, for loggers, checkpoints and load_from_checkpoint.
  virtual HParams hparams() const { return {}; }
  /// Downloads and the like: called on one rank of each machine, while the others wait. Keep nothing in members here.
  virtual void prepare_data() {}

  // ---- loaders of its own, for runs that are given none: as a DataModule's ----

  virtual DataLoader train_dataloader();
  virtual LoaderSet val_dataloader() { return {}; }
  virtual LoaderSet test_dataloader() { return {}; }
  virtual LoaderSet predict_dataloader() { return {}; }
  virtual bool allow_zero_length() const { return false; }  ///< see DataModule

  // ---- hooks, each called after the callbacks' ones of the same name ----

  virtual void setup(Stage) {}
  virtual void teardown(Stage) {}
  virtual void on_fit_start() {}
  virtual void on_fit_end() {}
  virtual void on_signal(int /*signal*/) {}

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
  virtual void on_swa_batch(const Batch&, StepContext&) {}

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

  virtual void on_predict_start() {}
  virtual void on_predict_end() {}
  virtual void on_predict_epoch_start() {}
  virtual void on_predict_epoch_end() {}
  virtual void on_predict_batch_start(const Batch&, StepContext&) {}
  virtual void on_predict_batch_end(const Batch& /*prediction*/, const Batch&, StepContext&) {}

  /// Values and tensors of its own for the checkpoint (Checkpoint::user and extra). Parameters and buffers are in it
  /// anyway; on_load_checkpoint comes before they are read, and may change them.
  virtual void on_save_checkpoint(Checkpoint&) {}
  virtual void on_load_checkpoint(Checkpoint&) {}

  // ---- what the loop does by default ----

  virtual void backward(const Tensor& loss) { loss.backward(); }
  virtual void optimizer_zero_grad(optim::Optimizer& optimizer) { optimizer.zero_grad(); }
  virtual void optimizer_step(optim::Optimizer& optimizer) { optimizer.step(); }
  virtual void lr_scheduler_step(optim::LRScheduler& scheduler) { scheduler.step(); }
  virtual void lr_plateau_step(optim::ReduceLROnPlateau& scheduler, double metric) { scheduler.step(metric); }
  /// Chooses how the step clips, by calling `clip_gradients`; the arguments are the Trainer's options.
  virtual void configure_gradient_clipping(optim::Optimizer& optimizer, double value, std::string_view algorithm) {
    clip_gradients(optimizer, value, algorithm);
  }
  /// Around the way of every batch to the device; for augmentation where the model is.
  virtual void on_before_batch_transfer(Batch&) {}
  virtual void transfer_batch_to_device(Batch& batch, Device device);
  virtual void on_after_batch_transfer(Batch&) {}
  /// Before and after an evaluation. Afterwards every module's own mode is restored in any case, before this is called.
  virtual void on_validation_model_eval() { eval(); }
  virtual void on_validation_model_train() {}
  virtual void on_test_model_eval() { eval(); }
  virtual void on_test_model_train() {}
  virtual void on_predict_model_eval() { eval(); }
  virtual void on_predict_model_train() {}
  /// Before a check that does not lie within an accumulation window.
  virtual void on_validation_model_zero_grad() { zero_grad(); }

  // ---- what is measured of it ----

  /// An input of `forward`, by which ModelSummary tells sizes and FLOPs. Undefined: it does not.
  virtual Tensor example_input() const { return {}; }
  /// What ThroughputMonitor takes for a batch's FLOPs. 0: it counts those of the first one.
  virtual double flops_per_batch() const { return 0; }

  // ---- manual optimization: training_step runs backward and the optimizers, as for adversarial training ----
  //
  //   Tensor loss = critic_loss(batch);
  //   const auto only = toggled(1);         // the other optimizers' parameters get no gradients
  //   manual_backward(loss);
  //   optimizer(1).step();
  //   optimizer(1).zero_grad();

  /// False: the Trainer leaves backward, the optimizers and schedules to training_step. Its accumulation and clipping
  /// options must then be unset; see clip_gradients.
  virtual bool automatic_optimization() const { return true; }
  /// loss.backward(), scaled as the precision needs; with several ranks weighted by this rank's share of the batch.
  void manual_backward(const Tensor& loss);
  /// One of configure_optimizers' optimizers, by its number; valid in training_step.
  ManualOptimizer optimizer(std::size_t i = 0) const;
  /// While the result lives, only that optimizer's parameters require gradients. Throws Error if another one lives.
  Toggled toggled(std::size_t i);
  /// Whether the running batch completes a window of so many, for accumulation; an epoch's last batch does. Backward
  /// adds to a rank's own gradients, and `step` sums them over the ranks: nothing need be held back meanwhile.
  bool is_last_of_window(std::int64_t batches) const;

  // ---- in a run ----

  /// Throws Error outside of a run.
  Trainer& trainer() const;
  /// Trainer::log, for hooks that get no StepContext.
  void log(std::string_view name, double value, const LogOptions& options = {});
  void log(std::string_view name, const Tensor& value, const LogOptions& options = {});
  void log(std::string_view name, Metric& metric, const LogOptions& options = {});
  void log_dict(const MetricMap& values, const LogOptions& options = {});
  /// Makes the optimizer's next step clip gradients: to a norm, by value, or before it what is adaptive or by group. 0:
  /// no limit. Throws ConfigError for something else than the Trainer's gradient_clip_val and gradient_clip_algorithm,
  /// where those are set; its other options for clipping are taken in any case.
  void clip_gradients(optim::Optimizer& optimizer, double value, std::string_view algorithm = "norm");

 private:
  friend struct TrainerState;
  TrainerState& state() const;
  Trainer* trainer_ = nullptr;
};

}  // namespace v0
}  // namespace anneal
