// Callbacks that are short for options of the Trainer.
#pragma once

#include <cstdint>

#include "anneal/trainer/callback.h"

namespace anneal {
inline namespace v0 {

/// Epochs and evaluations are cut to so many batches, for a quick look at a program: limit_train_batches,
/// limit_val_batches and limit_test_batches. The environment variable ANNEAL_LIMIT_BATCHES adds one.
class LimitBatches final : public Callback {
 public:
  /// Throws ConfigError for fewer than 1.
  explicit LimitBatches(std::int64_t batches);
  void configure(TrainerOptions& options) override;

 private:
  std::int64_t batches_;
};

/// The checks within an epoch are cut to so many batches of each loader, over all ranks together, each of which has its
/// share (rounded up). With `limit_intermediate_only` false all validation and tests: limit_val_batches and
/// limit_test_batches.
class LimitEvalSteps final : public Callback {
 public:
  /// Throws ConfigError for fewer than 1.
  explicit LimitEvalSteps(std::int64_t batches, bool limit_intermediate_only = true);
  void setup(Trainer& trainer, TrainingModule& module, Stage stage) override;

 private:
  std::int64_t batches_;
  bool intermediate_only_;
};

/// Validation after every so many batches of an epoch: val_check_interval. Where a check is not at an epoch's end, a
/// SimpleTrainer calls its metric `intermediate_eval_loss`.
class StepBasedEvaluation final : public Callback {
 public:
  /// Throws ConfigError for fewer than 1.
  explicit StepBasedEvaluation(std::int64_t batches);
  void configure(TrainerOptions& options) override;

 private:
  std::int64_t batches_;
};

}  // namespace v0
}  // namespace anneal
