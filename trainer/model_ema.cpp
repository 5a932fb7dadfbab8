#include "anneal/trainer/model_ema.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "anneal/trainer/checkpoint.h"
#include "anneal/trainer/simple_trainer.h"

namespace anneal {
inline namespace v0 {
namespace {

constexpr const char* metric = "ema_model_eval_loss_epoch";
constexpr const char* section = "ema_model";

}  // namespace

ModelEma::ModelEma(ModelEmaOptions options) : options_(std::move(options)), rule_(optim::ema_avg(options_.decay)) {}

void ModelEma::on_fit_start(Trainer& trainer, TrainingModule& module) {
  StateDict tensors = module.parameters();
  for (NamedTensor& buffer : module.buffers()) tensors.push_back(std::move(buffer));
  averages_.emplace(std::move(tensors), rule_, trainer.optimizer());
  if (const auto state = std::exchange(resumed_, {})) averages_->load_state_dict(*state);
  fuses_ = options_.per_step &&
           std::ranges::none_of(trainer.callbacks(), [](const auto& callback) { return callback->changes_weights(); });
}

void ModelEma::on_before_optimizer_step(Trainer&, TrainingModule&, optim::Optimizer&) {
  if (fuses_) averages_->begin_update();
}

void ModelEma::on_training_run_start(SimpleTrainer& trainer) {
  last_step_ = trainer.trainer().global_step();
  if (averages_->count() > 0) return;  // resumed
  best_.reset();
  averages_->update();  // a copy
}

void ModelEma::on_train_batch_end(Trainer& trainer, TrainingModule&, const Tensor&, const Batch&, StepContext&) {
  const std::int64_t step = trainer.global_step();
  if (std::exchange(last_step_, step) != step && options_.per_step) averages_->finish_update();
}
void ModelEma::on_epoch_trained(SimpleTrainer&) {
  if (!options_.per_step) averages_->update();
}

void ModelEma::on_training_run_epoch_end(SimpleTrainer& trainer) {
  if (!options_.evaluate_during_training || !trainer.has_eval_dataset()) return;
  averages_->swap();
  const double loss = trainer.eval_loss();
  trainer.run_history().update(metric, loss);
  trainer.trainer().log(metric, loss);
  if (!std::isnan(loss) && (!best_ || (options_.greater_is_better ? loss > *best_ : loss < *best_))) {
    best_ = loss;
    save(trainer);
  }
  averages_->swap();
}

void ModelEma::on_training_run_end(SimpleTrainer& trainer) {
  if (options_.evaluate_during_training && trainer.has_eval_dataset()) return;
  averages_->swap();
  save(trainer);
  averages_->swap();
}

void ModelEma::save(SimpleTrainer& trainer) const {
  if (trainer.trainer().options().fast_dev_run == 0) trainer.save_checkpoint(options_.save_path, false);
}

void ModelEma::on_exception(Trainer&, TrainingModule&, const std::exception_ptr&) {
  if (averages_ && averages_->swapped()) averages_->swap();
}
void ModelEma::teardown(Trainer&, TrainingModule&, Stage) {
  averages_.reset();
  resumed_.reset();
}

void ModelEma::on_save_checkpoint(Trainer&, TrainingModule&, Checkpoint& checkpoint) {
  if (averages_ && averages_->count() > 0) checkpoint.extra[section] = averages_->state_dict();
}
void ModelEma::on_load_checkpoint(Trainer&, TrainingModule&, Checkpoint& checkpoint) {
  if (const auto found = checkpoint.extra.find(section); found != checkpoint.extra.end()) resumed_ = found->second;
}
StateMap ModelEma::state() const { return best_ ? StateMap{{"best", *best_}} : StateMap{}; }
void ModelEma::load_state(const StateMap& state) { best_ = std::get<double>(state.at("best")); }

}  // namespace v0
}  // namespace anneal
