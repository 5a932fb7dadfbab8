#include "anneal/trainer/save_callbacks.h"

#include <cmath>
#include <system_error>
#include <utility>

#include "anneal/core/collective.h"
#include "anneal/trainer/simple_trainer.h"

namespace anneal {
inline namespace v0 {
namespace {

void create_folder_of(const std::filesystem::path& path) {
  if (path.has_parent_path()) std::filesystem::create_directories(path.parent_path());
}

}  // namespace

void SaveBestModel::on_training_run_start(SimpleTrainer& trainer) {
  if (options_.reset_on_train && trainer.trainer().resumed_from().empty()) best_.reset();
}

void SaveBestModel::on_training_run_epoch_end(SimpleTrainer& trainer) {
  if (trainer.trainer().options().fast_dev_run > 0) return;
  const double value = trainer.run_history().latest(options_.watch_metric);
  if (std::isnan(value) || (best_ && !(options_.greater_is_better ? value > *best_ : value < *best_))) return;
  best_ = value;
  if (trainer.trainer().is_global_zero()) create_folder_of(options_.save_path);
  trainer.save_checkpoint(options_.save_path, options_.save_optimizer);
}

void SaveBestModel::on_training_run_end(SimpleTrainer& trainer) {
  if (!options_.load_saved_checkpoint || !best_) return;
  if (Collective* group = trainer.trainer().group()) group->barrier();  // rank 0 may still be writing
  trainer.load_checkpoint(options_.save_path, options_.save_optimizer);
}

StateMap SaveBestModel::state() const { return best_ ? StateMap{{"best", *best_}} : StateMap{}; }
void SaveBestModel::load_state(const StateMap& state) { best_ = std::get<double>(state.at("best")); }

SaveTrainingState::SaveTrainingState(SaveTrainingStateOptions options) : options_(std::move(options)) {
  const auto& o = options_;
  check<ConfigError>(o.save_every_n_epochs >= 0, "save_every_n_epochs: expected at least 0, got {}",
                     o.save_every_n_epochs);
  check<ConfigError>(o.save_every_n_steps >= 0, "save_every_n_steps: expected at least 0, got {}",
                     o.save_every_n_steps);
  check<ConfigError>(o.max_checkpoints.value_or(1) >= 1, "max_checkpoints: expected at least 1, got {}",
                     o.max_checkpoints.value_or(1));
}

void SaveTrainingState::on_train_start(Trainer& trainer, TrainingModule&) {
  kept_.clear();
  last_step_ = trainer.global_step();
}
void SaveTrainingState::on_train_batch_end(Trainer& trainer, TrainingModule&, const Tensor&, const Batch&,
                                           StepContext&) {
  const std::int64_t step = trainer.global_step(), every = options_.save_every_n_steps;
  if (std::exchange(last_step_, step) != step && every > 0 && step % every == 0) save(trainer);
}
void SaveTrainingState::on_train_epoch_end(Trainer& trainer, TrainingModule&) {
  const std::int64_t every = options_.save_every_n_epochs;
  if (every > 0 && (trainer.current_epoch() + 1) % every == 0) save(trainer);
}
void SaveTrainingState::on_train_end(Trainer& trainer, TrainingModule&) {
  if (options_.save_at_end) save(trainer);
}

// A later state of the same step replaces an earlier one.
void SaveTrainingState::save(Trainer& trainer) {
  if (trainer.options().fast_dev_run > 0) return;
  const auto path = options_.save_dir / format("step_{}.safetensors", trainer.global_step());
  std::filesystem::create_directories(options_.save_dir);
  trainer.save_checkpoint(path);
  if (kept_.empty() || kept_.back() != path) kept_.push_back(path);
  std::error_code gone;
  while (options_.max_checkpoints && static_cast<std::int64_t>(kept_.size()) > *options_.max_checkpoints) {
    std::filesystem::remove(kept_.front(), gone);
    kept_.pop_front();
  }
}

void WSDCheckpoint::on_train_start(Trainer& trainer, TrainingModule&) {
  decays_.clear();
  if (trainer.options().fast_dev_run > 0) return;
  const std::int64_t steps = trainer.estimated_stepping_batches();
  check<ConfigError>(steps > 0, "WSDCheckpoint: expected a run whose length is known; set max_epochs or max_steps");
  decays_ = optim::wsd_decays(steps, options_.schedule);
  last_step_ = trainer.global_step();
  std::filesystem::create_directories(options_.save_dir);
}

void WSDCheckpoint::on_train_batch_end(Trainer& trainer, TrainingModule&, const Tensor&, const Batch&, StepContext&) {
  const std::int64_t step = trainer.global_step();
  if (std::exchange(last_step_, step) == step) return;
  for (const optim::DecayPhase& decay : decays_) {
    if (decay.begin == step) trainer.save_checkpoint(options_.save_dir / format("before_decay_{}.safetensors", step));
    if (decay.end == step)
      trainer.save_checkpoint(options_.save_dir / format("after_decay_{}.safetensors", step), {.weights_only = true});
  }
}

}  // namespace v0
}  // namespace anneal
