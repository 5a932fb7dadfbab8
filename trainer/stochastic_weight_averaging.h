// Stochastic weight averaging.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "anneal/optim/averaging.h"
#include "anneal/trainer/callback.h"
#include "anneal/trainer/options.h"

namespace anneal {
inline namespace v0 {

struct StochasticWeightAveragingOptions {
  std::vector<double> swa_lrs;   ///< the learning rate while weights are averaged; or one for each parameter group
  Amount swa_epoch_start = 0.8;  ///< the first epoch of those, counted from 1; or its share of max_epochs
  std::int64_t annealing_epochs = 10;      ///< in which the rate goes there
  std::string annealing_strategy = "cos";  ///< along half a cosine, or "linear"
  optim::AveragingRule rule = optim::swa_avg();
  /// Validation within fit sees the average, each time with BatchNorm's statistics computed anew.
  bool evaluate_average = false;
  std::optional<Device> device = {};  ///< where the average is; none: where the module is
};

/// From an epoch on the learning rate goes to a constant, and the weights at the end of each epoch are averaged; after
/// training the module has the average, with BatchNorm's statistics computed anew (Trainer::update_batch_norm). Needs
/// one optimizer; its schedule ends when averaging begins. Izmailov et al. 2018.
class StochasticWeightAveraging final : public Callback {
 public:
  /// Throws ConfigError for options out of range.
  explicit StochasticWeightAveraging(StochasticWeightAveragingOptions options);

  /// How many epochs' weights the average is of.
  std::int64_t count() const { return averages_ ? averages_->count() : 0; }

  void setup(Trainer& trainer, TrainingModule& module, Stage stage) override;
  void teardown(Trainer& trainer, TrainingModule& module, Stage stage) override;
  void on_fit_start(Trainer& trainer, TrainingModule& module) override;
  void on_train_epoch_start(Trainer& trainer, TrainingModule& module) override;
  void on_train_epoch_end(Trainer& trainer, TrainingModule& module) override;
  void on_validation_epoch_start(Trainer& trainer, TrainingModule& module) override;
  void on_validation_end(Trainer& trainer, TrainingModule& module) override;
  void on_train_end(Trainer& trainer, TrainingModule& module) override;
  void on_exception(Trainer& trainer, TrainingModule& module, const std::exception_ptr& error) override;
  void on_save_checkpoint(Trainer& trainer, TrainingModule& module, Checkpoint& checkpoint) override;
  void on_load_checkpoint(Trainer& trainer, TrainingModule& module, Checkpoint& checkpoint) override;
  std::string state_key() const override { return "StochasticWeightAveraging"; }
  StateMap state() const override;
  void load_state(const StateMap& state) override;

 private:
  void replace_schedule(Trainer& trainer) const;
  void take_back(TrainingModule& module);

  StochasticWeightAveragingOptions options_;
  std::int64_t start_ = 0;  // the epoch, counted from 0
  bool started_ = false;
  std::optional<optim::AveragedWeights> averages_;
  std::optional<StateDict> resumed_;  // for the averages, when they are made
  StateDict own_buffers_;             // while the module has the average
};

}  // namespace v0
}  // namespace anneal
