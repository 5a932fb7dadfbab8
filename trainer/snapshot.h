// Between a run and its checkpoint. Not for users.
#pragma once

#include <optional>
#include <string_view>

#include "anneal/trainer/checkpoint.h"
#include "anneal/trainer/trainer_state.h"

namespace anneal {
inline namespace v0 {

/// The state of the run. Its tensors are the run's own, not copies.
Checkpoint take_snapshot(TrainerState& state);
/// What `resume` names: loaded, and remembered as resumed_from. Nothing if there is no last one.
std::optional<Checkpoint> find_checkpoint(TrainerState& state, const std::string& resume);

/// Loggers go on where they were; before anything asks for their folders.
void restore_loggers(TrainerState& state, const Checkpoint& checkpoint);
/// Weights, and the state of module and callbacks; before the optimizer is made.
void restore_model(TrainerState& state, Checkpoint& checkpoint);
/// Optimizer, schedule, counters, gradients, random numbers.
void restore_progress(TrainerState& state, const Checkpoint& checkpoint);

}  // namespace v0
}  // namespace anneal
