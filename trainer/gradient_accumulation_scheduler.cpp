#include "anneal/trainer/gradient_accumulation_scheduler.h"

#include <iterator>
#include <utility>

#include "anneal/trainer/trainer.h"

namespace anneal {
inline namespace v0 {

GradientAccumulationScheduler::GradientAccumulationScheduler(std::map<std::int64_t, std::int64_t> scheduling)
    : scheduling_(std::move(scheduling)) {
  check<ConfigError>(!scheduling_.empty(), "scheduling: expected at least one epoch, got none");
  for (const auto& [epoch, batches] : scheduling_) {
    check<ConfigError>(epoch >= 0, "scheduling: expected epochs from 0 on, got {}", epoch);
    check<ConfigError>(batches >= 1, "scheduling: expected at least 1 batch in epoch {}, got {}", epoch, batches);
  }
}

std::int64_t GradientAccumulationScheduler::factor(std::int64_t epoch) const {
  const auto after = scheduling_.upper_bound(epoch);
  return after == scheduling_.begin() ? 1 : std::prev(after)->second;
}

void GradientAccumulationScheduler::setup(Trainer& trainer, TrainingModule& module, Stage stage) {
  if (stage != Stage::fit) return;
  check<ConfigError>(trainer.options().accumulate_grad_batches == 1,
                     "accumulate_grad_batches: expected 1 beside a GradientAccumulationScheduler, got {}",
                     trainer.options().accumulate_grad_batches);
  check<ConfigError>(module.automatic_optimization(),
                     "GradientAccumulationScheduler: with manual optimization training_step decides when to step");
}

void GradientAccumulationScheduler::on_train_epoch_start(Trainer& trainer, TrainingModule&) {
  trainer.set_accumulate_grad_batches(factor(trainer.current_epoch()));
}

}  // namespace v0
}  // namespace anneal
