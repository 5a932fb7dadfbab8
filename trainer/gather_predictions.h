// Predictions of all ranks together. Not for users.
#pragma once

#include <cstdint>
#include <vector>

#include "anneal/trainer/trainer_state.h"

namespace anneal {
inline namespace v0 {

/// All ranks' batches as one, whose rows are in the order of `samples`, the dataset's indices of this rank's rows; a
/// sample that was predicted several times is there once. Every rank gets it, and all call it. Throws Error where a
/// tensor has not one row a sample, or where ranks predicted different tensors.
Batch gather_predictions(TrainerState& state, const std::vector<Batch>& batches,
                         const std::vector<std::int64_t>& samples);

}  // namespace v0
}  // namespace anneal
