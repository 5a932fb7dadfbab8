// Learning-rate schedules: pure functions of the step, by the names and formulas of torch.optim.lr_scheduler.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "anneal/optim/optimizer.h"

namespace anneal {
inline namespace v0 {
namespace optim {

/// The learning rate after `step` steps (0 at first) of a group whose own rate is `base`.
using Schedule = std::function<double(double base, std::int64_t step)>;

/// base
Schedule constant_lr();
/// base * gamma^(step / step_size), rounded down
Schedule step_lr(std::int64_t step_size, double gamma = 0.1);
/// base * gamma for each milestone that was reached
Schedule multi_step_lr(std::vector<std::int64_t> milestones, double gamma = 0.1);
/// base * gamma^step
Schedule exponential_lr(double gamma);
/// base times a factor that goes from `start_factor` to `end_factor` in `total_steps` and stays there
Schedule linear_lr(double start_factor = 1.0 / 3, double end_factor = 1, std::int64_t total_steps = 5);
/// From base to `eta_min` along half a cosine in `t_max` steps, and back again. Loshchilov & Hutter 2017.
Schedule cosine_annealing_lr(std::int64_t t_max, double eta_min = 0);
/// Linearly up to base in `warmup` steps (the first one takes base / warmup), then along half a cosine to base *
/// `min_factor` at `total_steps`, and constant.
Schedule warmup_cosine(std::int64_t warmup, std::int64_t total_steps, double min_factor = 0);

/// Drives the rates of an optimizer's groups by a schedule. Its whole state is the number of steps.
class LRScheduler {
 public:
  /// Sets the rates for step 0. The optimizer must outlive it.
  LRScheduler(Optimizer& optimizer, Schedule schedule);
  /// One step further.
  void step() { set_steps(steps_ + 1); }
  std::int64_t steps() const { return steps_; }
  /// To any step, as when a run is resumed.
  void set_steps(std::int64_t steps);

 private:
  Optimizer* optimizer_;
  Schedule schedule_;
  std::vector<double> base_;
  std::int64_t steps_ = 0;
};

}  // namespace optim
}  // namespace v0
}  // namespace anneal
