#include "anneal/trainer/learning_rate_monitor.h"

#include <algorithm>

#include "anneal/optim/optimizer.h"
#include "anneal/trainer/trainer.h"

namespace anneal {
inline namespace v0 {

void LearningRateMonitor::setup(Trainer& trainer, TrainingModule&, Stage stage) {
  check<ConfigError>(stage != Stage::fit || !trainer.loggers().empty() || trainer.options().fast_dev_run > 0,
                     "logger: expected one for the LearningRateMonitor, got none");
}

void LearningRateMonitor::on_train_start(Trainer& trainer, TrainingModule&) {
  names_.clear();
  const optim::Optimizer* optimizer = trainer.optimizer();
  if (!optimizer) return;
  for (std::size_t g = 1; g <= optimizer->groups(); ++g) {
    std::string name = format("lr-{}", optimizer->name());
    if (optimizer->groups() > 1) name += format("/pg{}", g);
    names_.push_back({name, name + "-momentum", name + "-weight_decay"});
  }
}

void LearningRateMonitor::on_train_epoch_start(Trainer& trainer, TrainingModule&) { log(trainer, Interval::epoch); }
void LearningRateMonitor::on_train_batch_start(Trainer& trainer, TrainingModule&, const Batch&, StepContext&) {
  log(trainer, Interval::step);
}

void LearningRateMonitor::log(Trainer& trainer, Interval interval) const {
  const auto wanted = options_.logging_interval ? options_.logging_interval : trainer.schedule_interval();
  if (wanted && wanted != interval) return;
  // Batches of one window have one rate: its maximum is that rate to the bit, which a weighted mean may not be.
  const LogOptions how{.on_step = interval == Interval::step, .on_epoch = interval == Interval::epoch, .reduce = "max"};
  for (std::size_t g = 0; g < names_.size(); ++g) {
    const kernels::OptimGroup& numbers = trainer.optimizer()->numbers(g);
    trainer.log(names_[g].lr, numbers.lr, how);
    // An optimizer has one of the two.
    if (options_.log_momentum) trainer.log(names_[g].momentum, std::max(numbers.momentum, numbers.beta1), how);
    if (options_.log_weight_decay) trainer.log(names_[g].weight_decay, numbers.weight_decay, how);
  }
}

}  // namespace v0
}  // namespace anneal
