// What surrounds the loops. Not for users; in trainer.cpp.
#pragma once

#include <functional>

#include "anneal/trainer/trainer_state.h"

namespace anneal {
inline namespace v0 {

/// What schedules may be made of.
optim::RunNumbers run_numbers(const TrainerState& state);
/// How many of the train loader's batches an epoch has, after checking the options that depend on it.
void resolve_limits(TrainerState& state);
/// A run of a stage up to its loop; `instead` takes the place of that, and of the hooks around it.
void run_instead_of_loop(TrainerState& state, Stage stage, TrainingModule& module, const ModuleParts& parts,
                         const DataLoader& loader, const std::function<void()>& instead);

}  // namespace v0
}  // namespace anneal
