// What configure_optimizers returns.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "anneal/optim/plateau.h"
#include "anneal/optim/schedule.h"
#include "anneal/trainer/shared.h"

namespace anneal {
inline namespace v0 {

enum class Interval : std::uint8_t { epoch, step };

/// One optimizer and what moves its learning rate: a schedule, or a metric.
struct OptimizerEntry {
  Shared<optim::Optimizer> optimizer = {};
  optim::Schedule schedule = {};        ///< none: the rate stays
  Interval interval = Interval::epoch;  ///< of its steps
  std::int64_t frequency = 1;           ///< it moves every so many epochs, or optimizer steps
  /// Instead of a schedule: lowers the rate when `monitor` stops getting better. It looks when an epoch or a step has
  /// ended, unless the metric is of validation and none ran since its last look.
  std::optional<optim::PlateauOptions> plateau = {};
  std::string monitor = {};  ///< a metric's name
  bool strict = true;        ///< a metric that is not there ends the run; false: there is a warning
  std::string name = {};     ///< what LearningRateMonitor calls it. Default: "lr-<the optimizer's type>"
};

/// An optimizer, with or without a schedule: `return {optim::AdamW(parameters(), {.lr = 1e-3}), schedule};`
/// More than one, which needs manual optimization: `return {{generator}, {.optimizer = critic, .schedule = schedule}};`
/// None: `return {};`, and nothing is updated.
class OptimizerConfig {
 public:
  OptimizerConfig() = default;
  template <class O>
  requires std::convertible_to<O, Shared<optim::Optimizer>> OptimizerConfig(O optimizer, optim::Schedule schedule = {},
                                                                            Interval interval = Interval::epoch,
                                                                            std::int64_t frequency = 1)
      : entries_{{.optimizer = std::move(optimizer),
                  .schedule = std::move(schedule),
                  .interval = interval,
                  .frequency = frequency}} {}
  OptimizerConfig(std::initializer_list<OptimizerEntry> entries) : entries_(entries) {}

  const std::vector<OptimizerEntry>& entries() const { return entries_; }

 private:
  std::vector<OptimizerEntry> entries_;
};

}  // namespace v0
}  // namespace anneal
