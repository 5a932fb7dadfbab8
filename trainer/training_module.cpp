#include "anneal/trainer/training_module.h"

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
OptimizerConfig TrainingModule::configure_optimizers() { missing(*this, "configure_optimizers"); }

Trainer& TrainingModule::trainer() const {
  check(trainer_, "trainer: {} is not part of a run", type_name());
  return *trainer_;
}
void TrainingModule::log(std::string_view name, double value, const LogOptions& options) {
  trainer().log(name, value, options);
}
void TrainingModule::log(std::string_view name, const Tensor& value, const LogOptions& options) {
  trainer().log(name, value, options);
}

std::int64_t StepContext::current_epoch() const { return trainer_->current_epoch(); }
std::int64_t StepContext::global_step() const { return trainer_->global_step(); }
void StepContext::log(std::string_view name, double value, const LogOptions& options) {
  trainer_->log(name, value, options);
}
void StepContext::log(std::string_view name, const Tensor& value, const LogOptions& options) {
  trainer_->log(name, value, options);
}

}  // namespace v0
}  // namespace anneal
