// BatchNorm's running statistics for weights that were not trained as they are. Not for users.
#pragma once

#include "anneal/trainer/trainer_state.h"

namespace anneal {
inline namespace v0 {

/// Trainer::update_batch_norm.
void update_batch_norm(TrainerState& state);

}  // namespace v0
}  // namespace anneal
