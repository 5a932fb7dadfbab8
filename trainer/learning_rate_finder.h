// A search for a good learning rate.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "anneal/trainer/callback.h"
#include "anneal/trainer/learning_rate_curve.h"

namespace anneal {
inline namespace v0 {

struct LearningRateFinderOptions {
  double min_lr = 1e-8;
  double max_lr = 1;
  std::int64_t num_training = 100;   ///< steps, each at a rate of its own from min_lr to max_lr
  std::string mode = "exponential";  ///< each rate is a multiple of the one before; or "linear", a sum
  /// Ends the search when the smoothed loss is so many times the least so far (of losses above 0). Unset: never.
  std::optional<double> early_stop_threshold = 4;
  /// Whether the suggestion becomes the rate of the run's optimizer and the base of its schedule, and is kept in `attr`
  /// for configure_optimizers. Default of `attr`: the module's public member `learning_rate`, or `lr`.
  bool update_attr = true;
  double* attr = nullptr;
};

/// Trains a few steps at rising rates when fit begins, takes the rate at which the loss falls fastest, and undoes the
/// steps: everything but that rate is then as before to the bit. A run that is resumed keeps its own rate. Needs one
/// optimizer. To search in other epochs, derive from it:
///
///   struct FromTimeToTime : LearningRateFinder {
///     void on_train_epoch_start(Trainer& trainer, TrainingModule& module) override {
///       if (trainer.current_epoch() % 10 == 0) lr_find(trainer, module);
///     }
///   };
class LearningRateFinder : public Callback {
 public:
  /// Throws ConfigError for options out of range.
  explicit LearningRateFinder(LearningRateFinderOptions options = {});

  /// One search. Throws Error elsewhere than in on_fit_start, on_train_start and on_train_epoch_start, and ConfigError
  /// if there is nowhere to keep the suggestion, or not one optimizer.
  void lr_find(Trainer& trainer, TrainingModule& module);
  /// What the last search has seen; of several ranks each has its own losses, and rank 0's suggestion is taken.
  const LearningRateCurve& curve() const { return curve_; }

  void on_fit_start(Trainer& trainer, TrainingModule& module) override;

 private:
  LearningRateFinderOptions options_;
  LearningRateCurve curve_;
};

}  // namespace v0
}  // namespace anneal
