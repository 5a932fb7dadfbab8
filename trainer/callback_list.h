// Which callbacks a Trainer calls. Not for users.
#pragma once

#include <vector>

#include "anneal/trainer/trainer_state.h"

namespace anneal {
inline namespace v0 {

/// Those given, then the standard ones; `rich`: for a terminal with colours.
std::vector<Shared<Callback>> with_standard_callbacks(const TrainerOptions& options, bool rich);

/// Tuner callbacks first, checkpoints last, and only what this rank calls. Throws ConfigError for callbacks that
/// contradict each other or the options.
void set_callbacks(TrainerState& state, std::vector<Shared<Callback>> callbacks);

/// The module's callbacks take their places.
void add_callbacks_of_module(TrainerState& state);

/// What rank 0's callbacks have learnt, such as which checkpoint is the best, for those that only it called.
void share_callbacks(TrainerState& state);

}  // namespace v0
}  // namespace anneal
