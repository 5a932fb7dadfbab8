#include "anneal/trainer/weight_averaging.h"

#include <algorithm>
#include <utility>

#include "anneal/trainer/checkpoint.h"
#include "anneal/trainer/trainer.h"

namespace anneal {
inline namespace v0 {
namespace {

constexpr const char* own_section = "current_model";
constexpr const char* average_section = "averaging";
constexpr const char* count_name = "averaging.count";  // as AveragedWeights calls it

bool has(const StateDict& tensors, const std::string& name) {
  return std::ranges::find(tensors, name, &NamedTensor::name) != tensors.end();
}

}  // namespace

bool WeightAveraging::should_update(std::optional<std::int64_t> step, std::optional<std::int64_t>) {
  return step.has_value();
}

StateDict WeightAveraging::tensors_of(const TrainingModule& module) const {
  StateDict tensors = module.parameters();
  if (options_.use_buffers)
    for (NamedTensor& buffer : module.buffers()) tensors.push_back(std::move(buffer));
  return tensors;
}

void WeightAveraging::on_fit_start(Trainer& trainer, TrainingModule& module) {
  averages_.emplace(tensors_of(module), options_.rule, trainer.optimizer(), options_.device);
  if (const auto state = std::exchange(resumed_, {})) averages_->load_state_dict(*state);
  fuses_ = knows_ahead() && module.automatic_optimization() &&
           std::ranges::none_of(trainer.callbacks(), [](const auto& callback) { return callback->changes_weights(); });
}

void WeightAveraging::on_before_optimizer_step(Trainer& trainer, TrainingModule&, optim::Optimizer&) {
  if (fuses_ && should_update(trainer.global_step(), {})) averages_->begin_update();
}

void WeightAveraging::on_train_start(Trainer& trainer, TrainingModule&) { last_step_ = trainer.global_step(); }

void WeightAveraging::on_train_batch_end(Trainer& trainer, TrainingModule&, const Tensor&, const Batch&, StepContext&) {
  if (std::exchange(last_step_, trainer.global_step()) == trainer.global_step()) return;
  if (should_update(trainer.global_step() - 1, {})) averages_->finish_update();
}

void WeightAveraging::on_train_epoch_end(Trainer& trainer, TrainingModule&) {
  if (should_update({}, trainer.current_epoch())) averages_->update();
}

void WeightAveraging::on_validation_epoch_start(Trainer& trainer, TrainingModule&) {
  if (options_.evaluate_average && trainer.stage() == Stage::fit) averages_->swap();
}
void WeightAveraging::on_validation_epoch_end(Trainer&, TrainingModule&) { take_back(); }
// Also of a check that broke off.
void WeightAveraging::on_validation_end(Trainer&, TrainingModule&) { take_back(); }

void WeightAveraging::take_back() {
  if (averages_ && averages_->swapped()) averages_->swap();
}

void WeightAveraging::on_train_end(Trainer&, TrainingModule&) { averages_->swap(); }

void WeightAveraging::on_exception(Trainer&, TrainingModule&, const std::exception_ptr&) { take_back(); }
void WeightAveraging::teardown(Trainer&, TrainingModule&, Stage) {
  averages_.reset();
  resumed_.reset();
}

void WeightAveraging::on_save_checkpoint(Trainer&, TrainingModule& module, Checkpoint& checkpoint) {
  if (count() == 0) return;
  // While the averages are in the module, its own weights are behind them.
  const bool swapped = averages_->swapped();
  if (swapped) averages_->swap();
  const StateDict live = module.state_dict();
  checkpoint.model.clear();
  for (const NamedTensor& entry : live) checkpoint.model.push_back({entry.name, entry.tensor.clone()});
  if (swapped) averages_->swap();

  StateDict& section = checkpoint.extra[average_section];
  const StateDict averages = averages_->state_dict();
  for (std::size_t i = 0; i < live.size(); ++i) {
    // Tied tensors have several names, and an average under the first one.
    const auto first = std::ranges::find_if(live, [&](const NamedTensor& e) { return e.tensor.same(live[i].tensor); });
    const auto average = std::ranges::find(averages, first->name, &NamedTensor::name);
    if (average == averages.end()) continue;
    NamedTensor& plain = checkpoint.model[i];
    checkpoint.extra[own_section].push_back(plain);
    plain.tensor = average->tensor.to(plain.tensor.dtype());
    // That of a 16-bit weight has more digits than the plain name can hold.
    if (average->tensor.dtype() != plain.tensor.dtype() && plain.name == average->name) section.push_back(*average);
  }
  section.push_back({"count", std::ranges::find(averages, count_name, &NamedTensor::name)->tensor});
}

void WeightAveraging::on_load_checkpoint(Trainer& trainer, TrainingModule& module, Checkpoint& checkpoint) {
  last_step_ = checkpoint.counters.global_step;
  const auto own = checkpoint.extra.find(own_section), averages = checkpoint.extra.find(average_section);
  if (own == checkpoint.extra.end() || averages == checkpoint.extra.end()) {
    trainer.print("resume: the checkpoint has no averages of weights; they start from its weights");
    if (averages_) averages_.emplace(tensors_of(module), options_.rule, trainer.optimizer());
    return;
  }
  resumed_.emplace();
  for (const NamedTensor& entry : averages->second)
    resumed_->push_back({entry.name == "count" ? count_name : entry.name, entry.tensor});
  const StateDict averaged = tensors_of(module);
  for (const NamedTensor& entry : own->second) {
    const auto plain = std::ranges::find(checkpoint.model, entry.name, &NamedTensor::name);
    check(plain != checkpoint.model.end(), "resume: the checkpoint has the weight {} but no average of it", entry.name);
    if (has(averaged, entry.name) && !has(*resumed_, entry.name)) resumed_->push_back(*plain);
    plain->tensor = entry.tensor;
  }
  if (averages_) averages_->load_state_dict(*std::exchange(resumed_, {}));  // in the middle of a fit
}

EMAWeightAveraging::EMAWeightAveraging(EMAWeightAveragingOptions options)
    : WeightAveraging({.rule = optim::ema_avg(options.decay, options.warmup),
                       .use_buffers = options.use_buffers,
                       .evaluate_average = options.evaluate_average,
                       .device = options.device}),
      options_(options) {
  check<ConfigError>(options.update_every_n_steps >= 0, "update_every_n_steps: expected at least 0, got {}",
                     options.update_every_n_steps);
  for (const auto start : {options.update_starting_at_step, options.update_starting_at_epoch})
    check<ConfigError>(start.value_or(0) >= 0, "update_starting_at_step and _epoch: expected at least 0, got {}",
                       start.value_or(0));
}

bool EMAWeightAveraging::should_update(std::optional<std::int64_t> step, std::optional<std::int64_t> epoch) {
  if (step)
    return *step >= options_.update_starting_at_step.value_or(0) && options_.update_every_n_steps > 0 &&
           *step % options_.update_every_n_steps == 0;
  return options_.update_starting_at_epoch && *epoch >= *options_.update_starting_at_epoch;
}

}  // namespace v0
}  // namespace anneal
