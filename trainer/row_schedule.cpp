#include "anneal/trainer/row_schedule.h"

#include <utility>

#include "anneal/trainer/trainer.h"

namespace anneal {
inline namespace v0 {
namespace {

std::optional<std::int64_t> if_due(const Trainer& trainer, std::int64_t x) {
  const std::int64_t every = trainer.options().log_every_n_steps;
  return every > 0 && x % every == 0 ? std::optional(x) : std::nullopt;
}

}  // namespace

void RowSchedule::begin_training(const Trainer& trainer) { begun_ = made_ = trainer.global_step(); }

std::optional<std::int64_t> RowSchedule::before_training_batch(const Trainer& trainer) {
  const std::int64_t step = trainer.global_step() + 1;
  return std::exchange(begun_, step) == step ? std::nullopt : if_due(trainer, step);
}

std::optional<std::int64_t> RowSchedule::after_training_batch(const Trainer& trainer) {
  const std::int64_t step = trainer.global_step();
  return std::exchange(made_, step) == step ? std::nullopt : if_due(trainer, step);
}

std::optional<std::int64_t> RowSchedule::before_batch(const Trainer& trainer, Stage kind) const {
  if (trainer.stage() == Stage::sanity_check) return std::nullopt;
  return if_due(trainer, batches_[static_cast<std::size_t>(kind)] + 1);
}

std::optional<std::int64_t> RowSchedule::after_batch(const Trainer& trainer, Stage kind) {
  if (trainer.stage() == Stage::sanity_check) return std::nullopt;
  return if_due(trainer, ++batches_[static_cast<std::size_t>(kind)]);
}

}  // namespace v0
}  // namespace anneal
