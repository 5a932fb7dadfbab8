// Accumulation that changes from epoch to epoch.
#pragma once

#include <cstdint>
#include <map>

#include "anneal/trainer/callback.h"

namespace anneal {
inline namespace v0 {

/// `GradientAccumulationScheduler({{0, 8}, {4, 4}, {8, 1}})`: 8 batches make a step until epoch 4, and so on; 1 before
/// the first epoch named. Epochs count from 0. The Trainer's own accumulate_grad_batches must be 1.
class GradientAccumulationScheduler final : public Callback {
 public:
  /// Throws ConfigError for no epochs, one below 0, or fewer than 1 batch.
  explicit GradientAccumulationScheduler(std::map<std::int64_t, std::int64_t> scheduling);

  /// How many batches make a step in an epoch.
  std::int64_t factor(std::int64_t epoch) const;

  void setup(Trainer& trainer, TrainingModule& module, Stage stage) override;
  void on_train_epoch_start(Trainer& trainer, TrainingModule& module) override;

 private:
  std::map<std::int64_t, std::int64_t> scheduling_;
};

}  // namespace v0
}  // namespace anneal
