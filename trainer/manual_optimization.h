// What a module that optimizes by itself works with. TrainingModule makes these.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "anneal/core/autograd.h"
#include "anneal/optim/optimizer.h"

namespace anneal {
inline namespace v0 {

struct TrainerState;

/// An optimizer of the run, in training_step with manual optimization.
class ManualOptimizer {
 public:
  ManualOptimizer(TrainerState& state, std::size_t index) : state_(&state), index_(index) {}

  /// Reduces gradients over the ranks, calls on_before_optimizer_step, unscales and steps; does not step if scaled
  /// gradients are not finite. An optimizer that looks at the loss more than once takes a closure, which runs
  /// zero_grad, the loss and manual_backward and returns the loss; on one rank alone.
  void step(optim::Closure closure = {});
  void zero_grad();
  /// Moves the learning rate's schedule, if there is one.
  void step_schedule();
  /// The same for one that follows a metric.
  void step_schedule(double metric);
  optim::Optimizer& optimizer() const;
  /// Its steps so far.
  std::int64_t steps() const;

 private:
  TrainerState* state_;
  std::size_t index_;
};

/// Parameters that do not require gradients for a while: see TrainingModule::toggled.
class Toggled {
 public:
  /// Those of all optimizers of the run but `index`.
  Toggled(TrainerState& state, std::size_t index);
  ~Toggled();
  Toggled(const Toggled&) = delete;
  Toggled& operator=(const Toggled&) = delete;

 private:
  TrainerState& state_;
  std::vector<std::pair<Tensor, Ref<Node>>> leaves_;  // of what does not require gradients meanwhile
};

}  // namespace v0
}  // namespace anneal
