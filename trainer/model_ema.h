// An exponential moving average of a model beside it, in the simple form.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "anneal/optim/averaging.h"
#include "anneal/trainer/trainer_callback.h"

namespace anneal {
inline namespace v0 {

struct ModelEmaOptions {
  double decay = 0.99;
  bool evaluate_during_training = true;  ///< after each epoch, on the run's eval_dataset
  std::filesystem::path save_path = "ema_model.safetensors";
  bool greater_is_better = false;
  bool per_step = false;  ///< takes in the weights after every optimizer step, not once an epoch
};

/// Averages parameters and buffers from the start of the run on, at the end of each epoch's training; the model keeps
/// its own. The average's loss is in the run history as `ema_model_eval_loss_epoch`, and the average is saved when that
/// got better; without evaluations it is saved at the run's end. pytorch-accelerated's. For averages that the model
/// ends with there is EMAWeightAveraging.
class ModelEma final : public TrainerCallback {
 public:
  /// Throws ConfigError for a decay not in [0, 1].
  explicit ModelEma(ModelEmaOptions options = {});

  /// By the names of the file, not copies; valid in a run.
  StateDict averages() const { return averages_ ? averages_->averages() : StateDict(); }

  void on_training_run_start(SimpleTrainer& trainer) override;
  void on_before_optimizer_step(Trainer& trainer, TrainingModule& module, optim::Optimizer& optimizer) override;
  void on_train_batch_end(Trainer& trainer, TrainingModule& module, const Tensor& loss, const Batch& batch,
                          StepContext& step) override;
  void on_epoch_trained(SimpleTrainer& trainer) override;
  void on_training_run_epoch_end(SimpleTrainer& trainer) override;
  void on_training_run_end(SimpleTrainer& trainer) override;
  void on_fit_start(Trainer& trainer, TrainingModule& module) override;
  void on_exception(Trainer& trainer, TrainingModule& module, const std::exception_ptr& error) override;
  void teardown(Trainer& trainer, TrainingModule& module, Stage stage) override;
  void on_save_checkpoint(Trainer& trainer, TrainingModule& module, Checkpoint& checkpoint) override;
  void on_load_checkpoint(Trainer& trainer, TrainingModule& module, Checkpoint& checkpoint) override;
  std::string state_key() const override { return "ModelEma"; }
  StateMap state() const override;
  void load_state(const StateMap& state) override;

 private:
  void save(SimpleTrainer& trainer) const;

  ModelEmaOptions options_;
  optim::AveragingRule rule_;
  std::optional<optim::AveragedWeights> averages_;
  std::optional<StateDict> resumed_;  // for the averages, when they are made
  std::optional<double> best_;
  std::int64_t last_step_ = 0;
  bool fuses_ = false;  // with the optimizer's steps
};

}  // namespace v0
}  // namespace anneal
