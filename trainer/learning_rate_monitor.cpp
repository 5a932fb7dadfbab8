#include "anneal/trainer/learning_rate_monitor.h"

#include <algorithm>
#include <map>

#include "anneal/optim/optimizer.h"
#include "anneal/trainer/trainer.h"

namespace anneal {
inline namespace v0 {

void LearningRateMonitor::setup(Trainer& trainer, TrainingModule&, Stage stage) {
  check<ConfigError>(stage != Stage::fit || !trainer.loggers().empty() || trainer.options().fast_dev_run > 0,
                     "logger: expected one for the LearningRateMonitor, got none");
}

void LearningRateMonitor::on_train_start(Trainer& trainer, TrainingModule&) {
  rates_.clear();
  std::map<std::string, int> of_type;
  const auto optimizers = trainer.optimizers();
  for (std::size_t i = 0; i < optimizers.size(); ++i) {
    const OptimizerEntry& entry = trainer.optimizer_entry(i);
    std::string name = entry.name;
    if (name.empty()) {
      name = format("lr-{}", optimizers[i]->name());
      if (const int before = of_type[name]++; before > 0) name += format("-{}", before);
    }
    const auto interval = entry.schedule ? std::optional(entry.interval) : std::nullopt;
    for (std::size_t g = 0; g < optimizers[i]->groups(); ++g) {
      const std::string lr = optimizers[i]->groups() > 1 ? format("{}/pg{}", name, g + 1) : name;
      rates_.push_back({optimizers[i], g, interval, lr, lr + "-momentum", lr + "-weight_decay"});
    }
  }
}

void LearningRateMonitor::on_train_epoch_start(Trainer& trainer, TrainingModule&) { log(trainer, Interval::epoch); }
void LearningRateMonitor::on_train_batch_start(Trainer& trainer, TrainingModule&, const Batch&, StepContext&) {
  log(trainer, Interval::step);
}

void LearningRateMonitor::log(Trainer& trainer, Interval interval) const {
  // Batches of one window have one rate: its maximum is that rate to the bit, which a weighted mean may not be.
  const LogOptions how{.on_step = interval == Interval::step, .on_epoch = interval == Interval::epoch, .reduce = "max"};
  for (const Rate& rate : rates_) {
    const auto wanted = options_.logging_interval ? options_.logging_interval : rate.interval;
    if (wanted && wanted != interval) continue;
    const kernels::OptimGroup& numbers = rate.optimizer->numbers(rate.group);
    trainer.log(rate.lr, numbers.lr, how);
    // An optimizer has one of the two.
    if (options_.log_momentum) trainer.log(rate.momentum, rate.optimizer->momentum(rate.group), how);
    if (options_.log_weight_decay) trainer.log(rate.weight_decay, numbers.weight_decay, how);
  }
}

}  // namespace v0
}  // namespace anneal
