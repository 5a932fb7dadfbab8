#include "anneal/trainer/stochastic_weight_averaging.h"

#include <algorithm>
#include <utility>

#include "anneal/trainer/checkpoint.h"
#include "anneal/trainer/trainer.h"

namespace anneal {
inline namespace v0 {

StochasticWeightAveraging::StochasticWeightAveraging(StochasticWeightAveragingOptions options)
    : options_(std::move(options)) {
  const Amount& start = options_.swa_epoch_start;
  check<ConfigError>(!options_.swa_lrs.empty(), "swa_lrs: expected one, or one for each group, got none");
  for (const double lr : options_.swa_lrs) check<ConfigError>(lr > 0, "swa_lrs: expected above 0, got {}", lr);
  check<ConfigError>(start.is_count() ? start.value() >= 1 : start.value() >= 0 && start.value() <= 1,
                     "swa_epoch_start: expected an epoch from 1 on or a share from 0.0 to 1.0, got {}", start);
  check<ConfigError>(options_.annealing_epochs >= 0, "annealing_epochs: expected at least 0, got {}",
                     options_.annealing_epochs);
  check<ConfigError>(options_.annealing_strategy == "cos" || options_.annealing_strategy == "linear",
                     "annealing_strategy: expected cos or linear, got \"{}\"", options_.annealing_strategy);
}

void StochasticWeightAveraging::setup(Trainer& trainer, TrainingModule&, Stage stage) {
  if (stage != Stage::fit) return;
  check<ConfigError>(trainer.options().on_bad_number != "rollback",
                     "on_bad_number: expected something else than rollback with StochasticWeightAveraging");
  started_ = false;
  const Amount& start = options_.swa_epoch_start;
  const std::int64_t epochs = *trainer.options().max_epochs;
  check<ConfigError>(start.is_count() || epochs >= 0,
                     "swa_epoch_start: expected an epoch, as there is no max_epochs to take {} of", start);
  const std::int64_t first = start.is_count() ? static_cast<std::int64_t>(start.value()) : start.of(epochs);
  start_ = std::max<std::int64_t>(first - 1, 0);
}

void StochasticWeightAveraging::on_fit_start(Trainer& trainer, TrainingModule& module) {
  check<ConfigError>(trainer.optimizers().size() == 1 && module.automatic_optimization(),
                     "StochasticWeightAveraging: expected one optimizer that the Trainer steps, got {}{}",
                     trainer.optimizers().size(), module.automatic_optimization() ? "" : " with manual optimization");
  check<ConfigError>(options_.swa_lrs.size() == 1 || options_.swa_lrs.size() == trainer.optimizer()->groups(),
                     "swa_lrs: expected one, or one for each of {} groups, got {}", trainer.optimizer()->groups(),
                     options_.swa_lrs.size());
  averages_.emplace(module.parameters(), options_.rule, trainer.optimizer(), options_.device);
  if (const auto state = std::exchange(resumed_, {})) averages_->load_state_dict(*state);
  if (started_) replace_schedule(trainer);
}

void StochasticWeightAveraging::on_train_epoch_start(Trainer& trainer, TrainingModule&) {
  if (started_ || trainer.current_epoch() < start_) return;
  trainer.print("StochasticWeightAveraging begins, and decides on the learning rate");
  replace_schedule(trainer);
  started_ = true;
}

void StochasticWeightAveraging::replace_schedule(Trainer& trainer) const {
  std::vector<optim::Schedule> schedules;
  for (const double lr : options_.swa_lrs)
    schedules.push_back(optim::swa_lr(lr, options_.annealing_epochs, options_.annealing_strategy));
  trainer.set_schedule(schedules.size() == 1 ? schedules[0] : optim::per_group(std::move(schedules)), Interval::epoch);
}

void StochasticWeightAveraging::on_train_epoch_end(Trainer&, TrainingModule&) {
  if (started_) averages_->update();
}

void StochasticWeightAveraging::on_validation_epoch_start(Trainer& trainer, TrainingModule& module) {
  if (!options_.evaluate_average || trainer.stage() != Stage::fit || count() == 0) return;
  own_buffers_ = module.buffers();
  for (NamedTensor& buffer : own_buffers_) buffer.tensor = buffer.tensor.clone();
  averages_->swap();
  trainer.update_batch_norm();
}
void StochasticWeightAveraging::on_validation_end(Trainer&, TrainingModule& module) { take_back(module); }

void StochasticWeightAveraging::take_back(TrainingModule& module) {
  if (!averages_ || !averages_->swapped()) return;
  averages_->swap();
  const StateDict buffers = module.buffers();
  for (std::size_t i = 0; i < own_buffers_.size(); ++i) buffers[i].tensor.copy_(own_buffers_[i].tensor);
  own_buffers_.clear();
}

void StochasticWeightAveraging::on_train_end(Trainer& trainer, TrainingModule&) {
  if (count() == 0) return;
  averages_->swap();
  trainer.update_batch_norm();
}

void StochasticWeightAveraging::on_exception(Trainer&, TrainingModule& module, const std::exception_ptr&) {
  take_back(module);
}
void StochasticWeightAveraging::teardown(Trainer&, TrainingModule&, Stage) {
  averages_.reset();
  resumed_.reset();
}

void StochasticWeightAveraging::on_save_checkpoint(Trainer&, TrainingModule&, Checkpoint& checkpoint) {
  if (count() > 0) checkpoint.extra["swa"] = averages_->state_dict();
}
void StochasticWeightAveraging::on_load_checkpoint(Trainer&, TrainingModule&, Checkpoint& checkpoint) {
  if (const auto found = checkpoint.extra.find("swa"); found != checkpoint.extra.end()) resumed_ = found->second;
}

StateMap StochasticWeightAveraging::state() const {
  return started_ ? StateMap{{"started", std::int64_t{1}}} : StateMap{};
}
void StochasticWeightAveraging::load_state(const StateMap& state) { started_ = state.contains("started"); }

}  // namespace v0
}  // namespace anneal
