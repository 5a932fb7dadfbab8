// The loops of validation, test and prediction. Not for users.
#pragma once

#include "anneal/trainer/trainer_state.h"

namespace anneal {
inline namespace v0 {

enum class Purpose : std::uint8_t { check, sanity_check, own_run };

/// Runs the module over the loaders and returns each one's metrics. Random numbers come from a stream of its own; modes
/// of modules are restored, one by one.
std::vector<MetricMap> evaluate(TrainerState& state, Loop loop, Purpose purpose, const LimitedLoaders& loaders);

/// The same for predictions, which are brought to the CPU; if they are not returned only the hooks get them.
std::vector<std::vector<Batch>> predict(TrainerState& state, const LimitedLoaders& loaders,
                                        const PredictOptions& options);

}  // namespace v0
}  // namespace anneal
