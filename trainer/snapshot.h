// Between a run and its checkpoint. Not for users.
#pragma once

#include "anneal/trainer/checkpoint.h"
#include "anneal/trainer/trainer_state.h"

namespace anneal {
inline namespace v0 {

/// The state of the run, or its weights alone. Its tensors are the run's own, not copies.
Checkpoint take_snapshot(TrainerState& state, bool weights_only = false);
/// Its tensors become copies, in the host's memory.
void own_tensors(Checkpoint& checkpoint);

/// Loggers go on where they were; before anything asks for their folders.
void restore_loggers(TrainerState& state, const Checkpoint& checkpoint);
/// Weights alone. Not strict: those that do not fit are reported and left as they are.
void load_weights(TrainerState& state, const Checkpoint& checkpoint, bool strict);
/// Weights, and the state of module and callbacks; before the optimizer is made.
void restore_model(TrainerState& state, Checkpoint& checkpoint, bool strict = true);
/// Optimizers with their schedules. Throws Error if the module's are others.
void restore_optimizers(TrainerState& state, const Checkpoint& checkpoint, bool override_lr = false);
/// Optimizer, schedule, counters, gradients, random numbers.
void restore_progress(TrainerState& state, const Checkpoint& checkpoint, bool override_lr = false);
/// All of it, in the middle of a fit, from the newest file that its ModelCheckpoints wrote when no more than so many
/// batches had been trained on. Throws Error if there is none.
void restore_newest(TrainerState& state, std::int64_t batches);

}  // namespace v0
}  // namespace anneal
