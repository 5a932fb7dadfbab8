#include "anneal/trainer/learning_rate_monitor.h"

#include <map>
#include <string>

#include "anneal/optim/optimizer.h"
#include "anneal/trainer/console.h"
#include "anneal/trainer/trainer.h"

namespace anneal {
inline namespace v0 {

void LearningRateMonitor::setup(Trainer& trainer, TrainingModule&, Stage stage) {
  check<ConfigError>(stage != Stage::fit || !trainer.loggers().empty() || trainer.options().fast_dev_run > 0,
                     "logger: expected one for the LearningRateMonitor, got none");
}

void LearningRateMonitor::on_train_epoch_start(Trainer& trainer, TrainingModule&) { log(trainer, Interval::epoch); }
void LearningRateMonitor::on_train_batch_start(Trainer& trainer, TrainingModule&, const Batch&, StepContext&) {
  log(trainer, Interval::step);
}

void LearningRateMonitor::log(Trainer& trainer, Interval interval) const {
  // Batches of one window have one rate: its maximum is that rate to the bit, which a weighted mean may not be.
  const LogOptions how{.on_step = interval == Interval::step, .on_epoch = interval == Interval::epoch, .reduce = "max"};
  std::map<std::string, int> of_type;
  const auto optimizers = trainer.optimizers();
  for (std::size_t i = 0; i < optimizers.size(); ++i) {
    const optim::Optimizer& optimizer = *optimizers[i];
    const OptimizerEntry& entry = trainer.optimizer_entry(i);
    std::string name = entry.name;
    if (name.empty()) {
      name = format("lr-{}", optimizer.name());
      if (const int before = of_type[name]++; before > 0) name += format("-{}", before);
    }
    const bool moves = entry.schedule || entry.plateau;
    if (options_.logging_interval.value_or(moves ? entry.interval : interval) != interval) continue;
    for (std::size_t g = 0; g < optimizer.groups(); ++g) {
      const std::string& group = optimizer.group_name(g);
      const std::string lr = !group.empty()           ? name + '/' + group
                             : optimizer.groups() > 1 ? format("{}/pg{}", name, g + 1)
                                                      : name;
      trainer.log(lr, optimizer.lr(g), how);
      const double momentum = optimizer.momentum(g);
      if (options_.log_momentum) trainer.log(lr + "-momentum", momentum, how);
      if (options_.log_momentum && momentum == 0)
        trainer.console().warn(format("log_momentum: {} has none; 0 is logged", lr));
      if (options_.log_weight_decay) trainer.log(lr + "-weight_decay", optimizer.numbers(g).weight_decay, how);
    }
  }
}

}  // namespace v0
}  // namespace anneal
