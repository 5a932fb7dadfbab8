#include "anneal/trainer/tuner.h"

#include <algorithm>

#include "anneal/trainer/run.h"
#include "anneal/trainer/run_loaders.h"
#include "anneal/trainer/trial.h"

namespace anneal {
inline namespace v0 {
namespace {

template <class Finder>
void check_alone(const TrainerState& s, const char* what, const char* callback) {
  check<ConfigError>(std::none_of(s.callbacks.begin(), s.callbacks.end(),
                                  [](const auto& c) { return dynamic_cast<const Finder*>(c.get()) != nullptr; }),
                     "{}: the Trainer's callbacks have a {}, which does the same", what, callback);
}

Stage stage_of(const std::string& method) {
  if (method == "fit") return Stage::fit;
  if (method == "validate") return Stage::validate;
  if (method == "test") return Stage::test;
  check<ConfigError>(method == "predict", "method: expected fit, validate, test or predict, got \"{}\"", method);
  return Stage::predict;
}

}  // namespace

LearningRateCurve Tuner::find_learning_rate(TrainingModule& module, const ModuleParts& parts, const DataLoader& train,
                                            const LearningRateFinderOptions& options) {
  GivenLoaders data(module, &train);
  return find_learning_rate(module, parts, data, options);
}

LearningRateCurve Tuner::find_learning_rate(TrainingModule& module, const ModuleParts& parts, DataModule& data,
                                            const LearningRateFinderOptions& options) {
  TrainerState& s = TrainerState::of(trainer_);
  check_alone<LearningRateFinder>(s, "lr_find", "LearningRateFinder");
  LearningRateFinder finder(options);
  if (skips_search(s, "lr_find")) return {};
  const Aside aside(s);
  run_instead_of_loop(s, Stage::fit, module, parts, data, [&] { finder.lr_find(trainer_, module); });
  return finder.curve();
}

std::int64_t Tuner::find_batch_size(TrainingModule& module, const ModuleParts& parts, DataLoader& loader,
                                    const BatchSizeFinderOptions& options) {
  const LoaderSet set(loader);
  const bool fits = options.method == "fit";
  GivenLoaders data(module, fits ? &loader : nullptr, fits ? nullptr : &set);
  if (const std::int64_t found = find_batch_size(module, parts, data, options); found > 0)
    loader = loader.with_batch_size(found);
  return loader.options().batch_size;
}

std::int64_t Tuner::find_batch_size(TrainingModule& module, const ModuleParts& parts, DataModule& data,
                                    const BatchSizeFinderOptions& options) {
  TrainerState& s = TrainerState::of(trainer_);
  check_alone<BatchSizeFinder>(s, "scale_batch_size", "BatchSizeFinder");
  const Stage stage = stage_of(options.method);
  BatchSizeFinder finder(options);
  if (skips_search(s, "scale_batch_size")) return 0;
  const Aside aside(s);
  run_instead_of_loop(s, stage, module, parts, data, [&] { finder.scale_batch_size(trainer_, module); });
  return finder.optimal_batch_size();
}

}  // namespace v0
}  // namespace anneal
