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
  template <std::derived_from<TrainingModule> M, std::derived_from<DataModule> D>
  LearningRateCurve lr_find(M& module, D& data, const LearningRateFinderOptions& options = {}) {
    nn::check_registered(module, sizeof(M));
    return find_learning_rate(module, parts_of(module, data), data, options);
  }

  /// BatchSizeFinder's search: the size that the loader then has, and the module's `batch_size` if there is one.
  template <std::derived_from<TrainingModule> M>
  std::int64_t scale_batch_size(M& module, DataLoader& loader, const BatchSizeFinderOptions& options = {}) {
    nn::check_registered(module, sizeof(M));
    return find_batch_size(module, parts_of(module), loader, options);
  }
  /// The same, which also sets the DataModule's `batch_size` if there is one.
  template <std::derived_from<TrainingModule> M, std::derived_from<DataModule> D>
  std::int64_t scale_batch_size(M& module, D& data, const BatchSizeFinderOptions& options = {}) {
    nn::check_registered(module, sizeof(M));
    const std::int64_t found = find_batch_size(module, parts_of(module, data), data, options);
    if constexpr (requires { data.batch_size = found; })
      if (found > 0) data.batch_size = static_cast<decltype(data.batch_size)>(found);
    return found;
  }

 private:
  LearningRateCurve find_learning_rate(TrainingModule& module, const ModuleParts& parts, const DataLoader& train,
                                       const LearningRateFinderOptions& options);
  LearningRateCurve find_learning_rate(TrainingModule& module, const ModuleParts& parts, DataModule& data,
                                       const LearningRateFinderOptions& options);
  std::int64_t find_batch_size(TrainingModule& module, const ModuleParts& parts, DataLoader& loader,
                               const BatchSizeFinderOptions& options);
  // 0: nothing was done.
  std::int64_t find_batch_size(TrainingModule& module, const ModuleParts& parts, DataModule& data,
                               const BatchSizeFinderOptions& options);

  Trainer& trainer_;
};

}  // namespace v0
}  // namespace anneal
