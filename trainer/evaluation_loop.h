// The loop of validation and test. Not for users.
#pragma once

#include "anneal/trainer/trainer_state.h"

namespace anneal {
inline namespace v0 {

enum class Purpose : std::uint8_t { check, sanity_check, own_run };

/// Runs the module over the loader's first `batches` and returns the epoch's metrics. Random numbers come from a stream
/// of its own; modes of modules are restored, one by one.
MetricMap evaluate(TrainerState& state, Loop loop, Purpose purpose, const DataLoader& loader, std::int64_t batches);

}  // namespace v0
}  // namespace anneal
