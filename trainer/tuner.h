// Searches before training: a learning rate, and a batch size.
#pragma once

#include <concepts>
#include <cstdint>

#include "anneal/trainer/trainer.h"

namespace anneal {
inline namespace v0 {

/// Runs a Trainer for a few steps and undoes them. Modules, loaders and the Trainer are then as before, but for what
/// was looked for:
///
///   Tuner tuner(trainer);
///   tuner.scale_batch_size(model, train);                  // sets train's batch_size
///   tuner.lr_find(model, train).plot("learning_rate.svg");  // sets model.learning_rate
///   trainer.fit(model, train);
///
/// The Trainer's callbacks and loggers take no part. With fast_dev_run nothing is done but a warning given. Throws
/// ConfigError if the Trainer has a callback that does the same.
class Tuner {
 public:
  explicit Tuner(Trainer& trainer) : trainer_(trainer) {}

  /// LearningRateFinder's search. What configure_optimizers makes of the number that is set is the next fit's rate.
  template <std::derived_from<TrainingModule> M>
  LearningRateCurve lr_find(M& module, const DataLoader& train, const LearningRateFinderOptions& options = {}) {
    nn::check_registered(module, sizeof(M));
    return find_learning_rate(module, parts_of(module), train, options);
  }

  /// BatchSizeFinder's search: the size that the loader then has, and the module's `batch_size` if there is one.
  template <std::derived_from<TrainingModule> M>
  std::int64_t scale_batch_size(M& module, DataLoader& loader, const BatchSizeFinderOptions& options = {}) {
    nn::check_registered(module, sizeof(M));
    return find_batch_size(module, parts_of(module), loader, options);
  }

 private:
  LearningRateCurve find_learning_rate(TrainingModule& module, const ModuleParts& parts, const DataLoader& train,
                                       const LearningRateFinderOptions& options);
  std::int64_t find_batch_size(TrainingModule& module, const ModuleParts& parts, DataLoader& loader,
                               const BatchSizeFinderOptions& options);

  Trainer& trainer_;
};

}  // namespace v0
}  // namespace anneal
