#include "anneal/trainer/batch_limits.h"

#include "anneal/core/error.h"
#include "anneal/trainer/trainer_state.h"

namespace anneal {
inline namespace v0 {

LimitBatches::LimitBatches(std::int64_t batches) : batches_(batches) {
  check<ConfigError>(batches >= 1, "LimitBatches: expected at least 1, got {}", batches);
}
void LimitBatches::configure(TrainerOptions& options) {
  options.limit_train_batches = options.limit_val_batches = options.limit_test_batches = batches_;
}

LimitEvalSteps::LimitEvalSteps(std::int64_t batches, bool limit_intermediate_only)
    : batches_(batches), intermediate_only_(limit_intermediate_only) {
  check<ConfigError>(batches >= 1, "LimitEvalSteps: expected at least 1, got {}", batches);
}
// Not in `configure`, where the number of ranks is not known.
void LimitEvalSteps::setup(Trainer& trainer, TrainingModule&, Stage) {
  TrainerState& s = TrainerState::of(trainer);
  const std::int64_t share = (batches_ + s.ranks() - 1) / s.ranks();
  if (intermediate_only_) s.intermediate_batches = share;
  else s.options.limit_val_batches = s.options.limit_test_batches = share;
}

StepBasedEvaluation::StepBasedEvaluation(std::int64_t batches) : batches_(batches) {
  check<ConfigError>(batches >= 1, "StepBasedEvaluation: expected at least 1, got {}", batches);
}
void StepBasedEvaluation::configure(TrainerOptions& options) { options.val_check_interval = batches_; }

}  // namespace v0
}  // namespace anneal
