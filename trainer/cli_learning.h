// An optimizer and a schedule by their names, for the command line.
#pragma once

#include <cstdint>
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
  std::int64_t step_size = 1, warmup = 0;
  double gamma = 0.1, start_factor = 1.0 / 3, end_factor = 1, power = 1, eta_min = 0, min_factor = 0;
  optim::OneCycleOptions one_cycle = {};
};

/// An optimizer and a schedule, instead of those of the module.
class Learning {
 public:
  /// Takes the names "optimizer.name" and "lr_scheduler.name" from the settings: on them hangs the table. Throws
  /// ConfigError for an unknown name, and where there are settings without the name.
  explicit Learning(const std::vector<Setting>& settings);
  Learning(const Learning&) = delete;
  Learning& operator=(const Learning&) = delete;

  OptionTable table();
  /// Whether an optimizer was named.
  explicit operator bool() const { return !optimizer_.empty(); }
  OptimizerConfig make(std::vector<NamedTensor> parameters) const;

 private:
  optim::Schedule schedule() const;

  std::string optimizer_, scheduler_;
  optim::SGDOptions sgd_;
  optim::AdamOptions adam_;
  optim::AdamWOptions adamw_;
  ScheduleOptions schedule_;
};

}  // namespace cli
}  // namespace v0
}  // namespace anneal
