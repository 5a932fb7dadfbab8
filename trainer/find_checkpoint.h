// Which file a run goes on from. Not for users.
#pragma once

#include <optional>
#include <string>

#include "anneal/trainer/checkpoint.h"
#include "anneal/trainer/trainer_state.h"

namespace anneal {
inline namespace v0 {

/// What `resume` names (FitOptions), on all ranks: loaded, and remembered as resumed_from. Nothing if there is no last
/// one.
std::optional<Checkpoint> find_checkpoint(TrainerState& state, const std::string& resume);
/// The file that the fit's first ModelCheckpoint holds for the best, on all ranks; empty: there is none.
std::string best_checkpoint(const TrainerState& state);
/// The newest that the run's ModelCheckpoints wrote, of those after at most so many batches. Throws Error if there is
/// none.
Checkpoint find_newest(TrainerState& state, std::int64_t batches);

}  // namespace v0
}  // namespace anneal
