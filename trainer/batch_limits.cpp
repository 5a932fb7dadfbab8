#include "anneal/trainer/batch_limits.h"

#include "anneal/core/error.h"
#include "anneal/trainer/options.h"

namespace anneal {
inline namespace v0 {

LimitBatches::LimitBatches(std::int64_t batches) : batches_(batches) {
  check<ConfigError>(batches >= 1, "LimitBatches: expected at least 1, got {}", batches);
}
void LimitBatches::configure(TrainerOptions& options) {
  options.limit_train_batches = options.limit_val_batches = options.limit_test_batches = batches_;
}

LimitEvalSteps::LimitEvalSteps(std::int64_t batches) : batches_(batches) {
  check<ConfigError>(batches >= 1, "LimitEvalSteps: expected at least 1, got {}", batches);
}
void LimitEvalSteps::configure(TrainerOptions& options) {
  options.limit_val_batches = options.limit_test_batches = batches_;
}

StepBasedEvaluation::StepBasedEvaluation(std::int64_t batches) : batches_(batches) {
  check<ConfigError>(batches >= 1, "StepBasedEvaluation: expected at least 1, got {}", batches);
}
void StepBasedEvaluation::configure(TrainerOptions& options) { options.val_check_interval = batches_; }

}  // namespace v0
}  // namespace anneal
