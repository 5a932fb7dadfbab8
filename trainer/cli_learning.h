// An optimizer and a schedule by their names, for the command line.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "anneal/optim/adam.h"
#include "anneal/optim/schedule.h"
#include "anneal/optim/sgd.h"
#include "anneal/trainer/optimizer_config.h"
#include "anneal/trainer/option_table.h"

namespace anneal {
inline namespace v0 {
namespace cli {

/// What schedules can be told; each has some of these.
struct ScheduleOptions {
  std::string interval = "epoch";
  std::int64_t frequency = 1;
  std::optional<std::int64_t> total_steps = {};  ///< unset: to the end of the run
  std::int64_t step_size = 1, warmup = 0, cooldown = 0, t_0 = 1, t_mult = 1;
  std::vector<std::int64_t> milestones = {};
  double gamma = 0.1, start_factor = 1.0 / 3, end_factor = 1, power = 1, eta_min = 0, min_factor = 0, max_lr = 0.1;
  std::int64_t step_size_up = 2000;
  std::optional<std::int64_t> step_size_down = {};
  optim::OneCycleOptions one_cycle = {};
  optim::CyclicOptions cyclic = {};
  optim::CosineOptions cosine = {};
  optim::WSDOptions wsd = {};
  optim::PlateauOptions plateau = {};
  std::string monitor = "val_loss";
};

/// An optimizer and a schedule, instead of those of the module; or a schedule for the module's own optimizer.
class Learning {
 public:
  /// Takes the names "optimizer.name" and "lr_scheduler.name" from the settings: on them hangs the table. Throws
  /// ConfigError for an unknown name, and where there are settings without the name.
  explicit Learning(const std::vector<Setting>& settings);
  Learning(const Learning&) = delete;
  Learning& operator=(const Learning&) = delete;

  OptionTable table();
  /// Whether one of them was named; whether an optimizer was.
  explicit operator bool() const { return !optimizer_.empty() || !scheduler_.empty(); }
  bool has_optimizer() const { return !optimizer_.empty(); }
  /// `own` is the module's configure_optimizers, which is asked where no optimizer was named. Throws ConfigError where
  /// it does not make one.
  OptimizerConfig make(std::vector<NamedTensor> parameters, const std::function<OptimizerConfig()>& own) const;

 private:
  Shared<optim::Optimizer> optimizer(std::vector<NamedTensor> parameters) const;

  std::string optimizer_, scheduler_;
  optim::SGDOptions sgd_;
  optim::AdamOptions adam_;
  optim::AdamWOptions adamw_;
  ScheduleOptions schedule_;
};

}  // namespace cli
}  // namespace v0
}  // namespace anneal
