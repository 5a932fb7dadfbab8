#include "anneal/trainer/training_module.h"

#include <algorithm>
#include <cmath>

#include "anneal/optim/clip.h"
#include "anneal/trainer/trainer.h"

namespace anneal {
inline namespace v0 {
namespace {

[[noreturn]] void missing(const TrainingModule& module, const char* part) {
  throw ConfigError(
      format("{}: the module ({}) does not override it, and this run needs it", part, module.type_name()));
}

}  // namespace

Tensor TrainingModule::training_step(const Batch&, StepContext&) { missing(*this, "training_step"); }
void TrainingModule::validation_step(const Batch&, StepContext&) { missing(*this, "validation_step"); }
void TrainingModule::test_step(const Batch&, StepContext&) { missing(*this, "test_step"); }
Batch TrainingModule::predict_step(const Batch& batch, StepContext&) { return {{"y", (*this)(batch[0])}}; }
OptimizerConfig TrainingModule::configure_optimizers() { missing(*this, "configure_optimizers"); }
DataLoader TrainingModule::train_dataloader() { missing(*this, "train_dataloader"); }

void TrainingModule::transfer_batch_to_device(Batch& batch, Device device) {
  const auto is_elsewhere = [&](const NamedTensor& entry) { return entry.tensor.device() != device; };
  if (std::any_of(batch.begin(), batch.end(), is_elsewhere)) batch = batch.to(device);
}

Trainer& TrainingModule::trainer() const {
  if (!trainer_) throw Error(format("trainer: {} is not part of a run", type_name()));  // the name takes a while
  return *trainer_;
}
void TrainingModule::log(std::string_view name, double value, const LogOptions& options) {
  trainer().log(name, value, options);
}
void TrainingModule::log(std::string_view name, const Tensor& value, const LogOptions& options) {
  trainer().log(name, value, options);
}
void TrainingModule::log(std::string_view name, Metric& metric, const LogOptions& options) {
  trainer().log(name, metric, options);
}
void TrainingModule::log_dict(const MetricMap& values, const LogOptions& options) {
  trainer().log_dict(values, options);
}

void TrainingModule::clip_gradients(optim::Optimizer& optimizer, double value, std::string_view algorithm) {
  const TrainerOptions& options = trainer().options();
  check<ConfigError>(algorithm == "norm" || algorithm == "value" || algorithm == "adaptive",
                     "clip_gradients: expected the algorithm norm, value or adaptive, got \"{}\"", algorithm);
  check<ConfigError>(
      *options.gradient_clip_val == 0 ||
          (*options.gradient_clip_val == value && options.gradient_clip_algorithm == algorithm),
      "clip_gradients: the Trainer's gradient_clip_val is {} by {}, got {} by {}; leave the options unset",
      *options.gradient_clip_val, options.gradient_clip_algorithm, value, algorithm);
  const auto& group_vals = options.gradient_clip_group_vals;
  if (!group_vals.empty()) optim::clip_group_norms(optimizer, group_vals, options.gradient_clip_norm_type);
  if (algorithm == "adaptive" && value > 0) optim::clip_adaptive(optimizer, value);
  optimizer.defer_clipping(algorithm == "norm" ? value : 0, algorithm == "value" ? value : 0,
                           options.gradient_clip_norm_type);
}

std::int64_t StepContext::current_epoch() const { return trainer_->current_epoch(); }
std::int64_t StepContext::global_step() const { return trainer_->global_step(); }
void StepContext::log(std::string_view name, double value, const LogOptions& options) {
  trainer_->log(name, value, options);
}
void StepContext::log(std::string_view name, const Tensor& value, const LogOptions& options) {
  trainer_->log(name, value, options);
}
void StepContext::log(std::string_view name, Metric& metric, const LogOptions& options) {
  trainer_->log(name, metric, options);
}
void StepContext::log_dict(const MetricMap& values, const LogOptions& options) { trainer_->log_dict(values, options); }
void StepContext::set_weight(double items) {
  check(std::isfinite(items) && items >= 0, "set_weight: expected a number of items from 0 on, got {}", items);
  weight_ = items;
}

}  // namespace v0
}  // namespace anneal
