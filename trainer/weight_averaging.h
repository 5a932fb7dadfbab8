// Averages of the weights while they train, to evaluate and keep instead of the last ones.
#pragma once

#include <cstdint>
#include <optional>
#include <typeinfo>
#include <vector>

#include "anneal/optim/averaging.h"
#include "anneal/trainer/callback.h"

namespace anneal {
inline namespace v0 {

struct WeightAveragingOptions {
  optim::AveragingRule rule = optim::swa_avg();  ///< how an average takes in new weights
  bool use_buffers = true;                       ///< averages floating buffers too; false: they stay the model's own
  bool evaluate_average = true;                  ///< the checks within fit use the averages, once there are any
  std::optional<Device> device = {};             ///< where the averages are; none: where the module is
};

/// Averages the weights as every step leaves them, in the step's own pass where it can, or when `should_update` of a
/// derived class says so. During a check the module holds the averages, and after training it keeps them. A checkpoint
/// has the averages under the plain names, so that it can be used without this callback, and the weights that train as
/// `current_model.*`; a run resumes to the bit.
class WeightAveraging : public Callback {
 public:
  explicit WeightAveraging(WeightAveragingOptions options = {}) : options_(std::move(options)) {}

  /// Called after each step with its number from 0, and at each epoch's end with the epoch's.
  virtual bool should_update(std::optional<std::int64_t> step, std::optional<std::int64_t> epoch);

  /// How many weights the averages are of.
  std::int64_t count() const { return averages_ ? averages_->count() : 0; }

  void on_fit_start(Trainer& trainer, TrainingModule& module) override;
  void on_train_start(Trainer& trainer, TrainingModule& module) override;
  void on_before_optimizer_step(Trainer& trainer, TrainingModule& module, optim::Optimizer& optimizer) override;
  void on_train_batch_end(Trainer& trainer, TrainingModule& module, const Tensor& loss, const Batch& batch,
                          StepContext& step) override;
  void on_train_epoch_end(Trainer& trainer, TrainingModule& module) override;
  void on_validation_epoch_start(Trainer& trainer, TrainingModule& module) override;
  void on_validation_epoch_end(Trainer& trainer, TrainingModule& module) override;
  void on_validation_end(Trainer& trainer, TrainingModule& module) override;
  void on_train_end(Trainer& trainer, TrainingModule& module) override;
  void on_exception(Trainer& trainer, TrainingModule& module, const std::exception_ptr& error) override;
  void teardown(Trainer& trainer, TrainingModule& module, Stage stage) override;
  void on_save_checkpoint(Trainer& trainer, TrainingModule& module, Checkpoint& checkpoint) override;
  void on_load_checkpoint(Trainer& trainer, TrainingModule& module, Checkpoint& checkpoint) override;

 protected:
  // Whether should_update goes by its argument alone, so that it can be asked before the step.
  virtual bool knows_ahead() const { return typeid(*this) == typeid(WeightAveraging); }

 private:
  StateDict tensors_of(const TrainingModule& module) const;
  void take_back();

  WeightAveragingOptions options_;
  std::optional<optim::AveragedWeights> averages_;
  std::optional<StateDict> resumed_;  // for the averages, when they are made
  std::int64_t last_step_ = 0;
  bool fuses_ = false;  // with the optimizer's steps
};

struct EMAWeightAveragingOptions {
  double decay = 0.999;
  std::int64_t update_every_n_steps = 1;
  std::optional<std::int64_t> update_starting_at_step = {};   ///< from this step on, counted from 0
  std::optional<std::int64_t> update_starting_at_epoch = {};  ///< also at the ends of epochs, from this one on
  bool use_buffers = true;
  bool warmup = false;  ///< the decay is at most (1 + updates) / (10 + updates)
  bool evaluate_average = true;
  std::optional<Device> device = {};
};

/// Exponential moving averages: the first update copies, then average = decay * average + (1 - decay) * weight.
class EMAWeightAveraging final : public WeightAveraging {
 public:
  /// Throws ConfigError for a decay not in [0, 1], or negative counts.
  explicit EMAWeightAveraging(EMAWeightAveragingOptions options = {});
  bool should_update(std::optional<std::int64_t> step, std::optional<std::int64_t> epoch) override;

 private:
  bool knows_ahead() const override { return true; }
  EMAWeightAveragingOptions options_;
};

}  // namespace v0
}  // namespace anneal
