// An optimizer in a run. Private.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "anneal/dist/reducer.h"
#include "anneal/trainer/checkpoint.h"
#include "anneal/trainer/console.h"
#include "anneal/trainer/optimizer_config.h"

namespace anneal {
inline namespace v0 {

class ActiveOptimizer {
 public:
  /// Throws ConfigError for an entry that makes no sense.
  explicit ActiveOptimizer(OptimizerEntry entry);

  optim::Optimizer& optimizer() const { return *entry_.optimizer; }
  const OptimizerEntry& entry() const { return entry_; }
  /// Null: it has no schedule.
  optim::LRScheduler* scheduler() { return scheduler_ ? &*scheduler_ : nullptr; }

  /// Makes what sums its gradients over the ranks, unless the one there is serves; they all call it.
  dist::Reducer& reducer(dist::ProcessGroup& group);

  Checkpoint::Optimizer state() const;
  /// Throws Error for the state of another kind of optimizer; warns where the code's numbers differ from it.
  void restore(const Checkpoint::Optimizer& saved, Console& console);

  std::int64_t steps = 0;  ///< made so far

 private:
  OptimizerEntry entry_;
  std::vector<double> base_lr_;
  std::optional<optim::LRScheduler> scheduler_;
  std::optional<dist::Reducer> reducer_;
};

}  // namespace v0
}  // namespace anneal
