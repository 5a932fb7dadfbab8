// What surrounds the loops. Not for users.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "anneal/trainer/checkpoint.h"
#include "anneal/trainer/trainer_state.h"

namespace anneal {
inline namespace v0 {

/// What schedules may be made of.
optim::RunNumbers run_numbers(const TrainerState& state);

/// The runs, each with its hooks and loaders. An exception goes through the hooks for it, ends the loggers, and tells
/// the other ranks why the job ends.
FitResult train_module(TrainerState& state, TrainingModule& module, DataModule& data, const FitOptions& options);
/// The state in which the last fit ended; there must be fitted_data.
Checkpoint snapshot_after_fit(TrainerState& state, bool weights_only);
std::vector<MetricMap> evaluate_module(TrainerState& state, Stage stage, TrainingModule& module, DataModule& data,
                                       const std::string& ckpt);
std::vector<std::vector<Batch>> predict_module(TrainerState& state, TrainingModule& module, DataModule& data,
                                               const PredictOptions& options);
/// A run of a stage up to its loop; `instead` takes the place of that, and of the hooks around it.
void run_instead_of_loop(TrainerState& state, Stage stage, TrainingModule& module, const ModuleParts& parts,
                         DataModule& data, const std::function<void()>& instead);

}  // namespace v0
}  // namespace anneal
