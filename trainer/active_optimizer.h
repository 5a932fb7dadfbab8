// An optimizer in a run. Private.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "anneal/dist/reducer.h"
#include "anneal/trainer/checkpoint.h"
#include "anneal/trainer/console.h"
#include "anneal/trainer/optimizer_config.h"

namespace anneal {
inline namespace v0 {

class ActiveOptimizer {
 public:
  /// Throws ConfigError for an entry that makes no sense, or a schedule that needs what the run does not know.
  ActiveOptimizer(OptimizerEntry entry, const optim::RunNumbers& run);

  optim::Optimizer& optimizer() const { return *entry_.optimizer; }
  const OptimizerEntry& entry() const { return entry_; }
  /// Replaces what moves its rate; the rates as they are become the schedule's base.
  void set_schedule(optim::Schedule schedule, Interval interval);
  /// Gives all groups that rate; a schedule goes on from it as its base.
  void set_base_lr(double lr);
  /// The run's numbers have changed: a schedule that is made of them goes on with the new ones.
  void set_run(const optim::RunNumbers& run);
  /// Null: it has no schedule.
  optim::LRScheduler* scheduler() { return scheduler_ && scheduled ? &*scheduler_ : nullptr; }
  /// Null: no metric moves its rate.
  optim::ReduceLROnPlateau* plateau() { return plateau_ && scheduled ? &*plateau_ : nullptr; }

  /// Makes what sums its gradients over the ranks, unless the one there is serves; they all call it.
  dist::Reducer& reducer(dist::ProcessGroup& group);

  /// Throws Error, which names one, where not the same parameters have gradients as when it was first called.
  void check_graph();

  Checkpoint::Optimizer state() const;
  /// Throws Error for the state of another kind of optimizer; warns where the code's numbers differ from it.
  /// `override_lr`: the rates are the code's.
  void restore(const Checkpoint::Optimizer& saved, Console& console, bool override_lr);

  std::int64_t steps = 0;            ///< made so far
  dist::BucketOptions buckets = {};  ///< of its reducer
  std::int64_t checks_at_look = 0;   ///< validations that had run when the plateau last looked
  bool scheduled = true;             ///< false: nothing moves its rate

 private:
  void restart_schedule(std::int64_t at);

  OptimizerEntry entry_;
  optim::RunNumbers run_;
  std::vector<double> base_lr_;  // of the groups that were there when its schedule was made
  std::optional<optim::LRScheduler> scheduler_;
  std::optional<optim::ReduceLROnPlateau> plateau_;
  std::optional<dist::Reducer> reducer_;
  std::optional<std::set<std::string>> graph_;  // the parameters of the first step
};

}  // namespace v0
}  // namespace anneal
