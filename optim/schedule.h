// Learning-rate schedules: pure functions of the step, by the names and formulas of torch.optim.lr_scheduler.
#pragma once

#include <concepts>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "anneal/optim/optimizer.h"
#include "anneal/optim/placeholders.h"

namespace anneal {
inline namespace v0 {
namespace optim {

/// The learning rate after `step` steps (0 at first) of a group whose own rate is `base`. One's own is a lambda:
/// `[](double base, std::int64_t step) { return base / (1 + step); }`, with the group's index as a third argument if it
/// likes, or one that makes it from the run's numbers:
/// `[](const RunNumbers& run) { return exponential_lr(1 - 1.0 / *run.num_epochs); }`.
class Schedule {
 public:
  Schedule() = default;
  template <class Rate>
  requires(!std::same_as<Rate, Schedule> && std::is_invocable_r_v<double, const Rate&, double, std::int64_t>)
      Schedule(Rate rate)
      : rate_([rate = std::move(rate)](double base, std::int64_t step, std::size_t) { return rate(base, step); }) {}
  template <class Rate>
  requires std::is_invocable_r_v<double, const Rate&, double, std::int64_t, std::size_t> Schedule(Rate rate)
      : rate_(std::move(rate)) {}
  template <class Make>
  requires std::is_invocable_r_v<Schedule, const Make&, const RunNumbers&> Schedule(Make make)
      : make_(std::move(make)) {}

  explicit operator bool() const { return rate_ || make_; }
  /// Whether it is the same in every run.
  bool known() const { return !make_; }
  /// The schedule in this run. Throws ConfigError for numbers that do not fit, or that the run does not know.
  Schedule in(const RunNumbers& run) const { return make_ ? make_(run).in(run) : *this; }
  /// Throws Error unless `known`.
  double operator()(double base, std::int64_t step, std::size_t group = 0) const;

  /// The same with a momentum, of Adam the first beta, that goes along with it.
  Schedule with_momentum(std::function<double(std::int64_t step)> momentum) const;
  /// None: the optimizer's own.
  std::optional<double> momentum(std::int64_t step) const;

  /// The same as one that is meant to move with every step: where it moves by epochs, a Trainer warns.
  Schedule for_steps() const {
    Schedule marked = *this;
    marked.for_steps_ = true;
    return marked;
  }
  bool is_for_steps() const { return for_steps_; }

 private:
  std::function<double(double, std::int64_t, std::size_t)> rate_;
  std::function<double(std::int64_t)> momentum_;
  std::function<Schedule(const RunNumbers&)> make_;
  bool for_steps_ = false;
};

/// base
Schedule constant_lr();
/// base * gamma^(step / step_size), rounded down
Schedule step_lr(Steps step_size, double gamma = 0.1);
/// base * gamma for each milestone that was reached
Schedule multi_step_lr(std::vector<Steps> milestones, double gamma = 0.1);
/// base * gamma^step
Schedule exponential_lr(double gamma);
/// base times a factor that goes from `start_factor` to `end_factor` in `total_steps` and stays there
Schedule linear_lr(double start_factor = 1.0 / 3, double end_factor = 1, Steps total_steps = 5);
/// base * (1 - step / total_steps)^power, then 0
Schedule polynomial_lr(Steps total_steps = 5, double power = 1);
/// From base to `eta_min` along half a cosine in `t_max` steps, and back again. Loshchilov & Hutter 2017.
Schedule cosine_annealing_lr(Steps t_max, double eta_min = 0);
/// From base to `eta_min` along half a cosine in `t_0` steps, then at once from base again, each time in `t_mult` times
/// as many steps as before.
Schedule cosine_annealing_warm_restarts(Steps t_0, std::int64_t t_mult = 1, double eta_min = 0);

struct OneCycleOptions {
  double pct_start = 0.3;               ///< the share of the steps that go up
  std::string anneal_strategy = "cos";  ///< or "linear"
  double div_factor = 25;               ///< starts at base / div_factor
  double final_div_factor = 1e4;        ///< ends at the start / final_div_factor, and stays there
  bool three_phase = false;             ///< down to the start as it came up, then to the end
  bool cycle_momentum = true;           ///< momentum goes down while the rate goes up, and up again
  double base_momentum = 0.85, max_momentum = 0.95;
};
/// Up to base, which is PyTorch's `max_lr`, and down to almost nothing. Smith & Topin 2018.
Schedule one_cycle_lr(Steps total_steps, OneCycleOptions options = {});

struct CyclicOptions {
  Steps step_size_up = 2000;
  std::optional<Steps> step_size_down = {};  ///< unset: as up
  std::string mode = "triangular";           ///< "triangular2": each peak half as high; "exp_range": times gamma^step
  double gamma = 1;
  bool cycle_momentum = true;  ///< momentum goes down while the rate goes up, and up again
  double base_momentum = 0.8, max_momentum = 0.9;
};
/// From base, PyTorch's `base_lr`, up to `max_lr` and back, again and again. Smith 2017.
Schedule cyclic_lr(double max_lr, CyclicOptions options = {});

/// One schedule after the other, each from its own step 0: the next at each milestone.
Schedule sequential_lr(std::vector<Schedule> schedules, std::vector<Steps> milestones);
/// All at once: the rate of each is the base of the next.
Schedule chained(std::vector<Schedule> schedules);
/// One for each group of the optimizer, as PyTorch's LambdaLR has them.
Schedule per_group(std::vector<Schedule> schedules);

/// torch.optim.swa_utils.SWALR: from base to `swa_lr` in `anneal_epochs` steps, along half a cosine ("cos") or a line
/// ("linear"), and constant. Base is the rate when an LRScheduler with it is made. Izmailov et al. 2018.
Schedule swa_lr(double swa_lr, Steps anneal_epochs = 10, const std::string& anneal_strategy = "cos");

/// Linearly up to base in `warmup` steps (the first one takes base / warmup), then along half a cosine to base *
/// `min_factor` at `total_steps`, and constant.
Schedule warmup_cosine(Steps warmup, Steps total_steps, double min_factor = 0);

struct CosineOptions {
  Steps warmup = 0;
  Steps cooldown = 0;  ///< the last steps stay at the minimum
  double min_lr = 1e-6;
  std::optional<double> min_lr_ratio = {};  ///< the minimum as a share of base, instead of min_lr
  double warmup_starting_lr = 1e-6;
  std::optional<double> warmup_starting_lr_ratio = {};
  double k_decay = 1;  ///< the power of the cosine's time: more stays high for longer
};
/// pytorch-accelerated's: linearly from `warmup_starting_lr` to base, along half a cosine to the minimum, and constant.
Schedule cosine_lr(Steps total_steps, CosineOptions options = {});

struct WSDOptions {
  Steps warmup = 0;
  double warmup_starting_lr = 1e-6;
  double decay_phase_ratio = 0.1;  ///< the share of each period that decays; at most 1/3 if there are several
  double min_lr_ratio = 1e-6;      ///< what is left of base at the end of a decay
  bool inverse = false;            ///< 1 / rate goes linearly instead of by a square root
  std::int64_t num_checkpoints = 1;
};
/// Warm-up, stable, decay: linearly up to base, constant, and quickly down at the end of each period, where the next
/// one starts from base again. One period has all steps; several end at total_steps / 4 (rounded down) times 1, 2, 4,
/// ..., at most total_steps. Wen et al. 2024.
Schedule wsd_lr(Steps total_steps, WSDOptions options = {});
/// The steps of the periods' decays, [begin, end): where to keep a checkpoint before and after. The run's own numbers.
struct DecayPhase {
  std::int64_t begin, end;
};
std::vector<DecayPhase> wsd_decays(std::int64_t total_steps, const WSDOptions& options = {});

/// Drives the rates of an optimizer's groups, and their momentum if it has one, by a schedule. Its whole state is the
/// number of steps.
class LRScheduler {
 public:
  /// Sets the rates for step 0; those that the groups have are the schedule's base. The optimizer must outlive it. A
  /// schedule with placeholders needs the run's numbers.
  LRScheduler(Optimizer& optimizer, const Schedule& schedule, const RunNumbers& run = {});
  /// The same for these rates, of the first groups; it leaves the others alone, as it does those that are added later.
  LRScheduler(Optimizer& optimizer, const Schedule& schedule, std::vector<double> base, const RunNumbers& run = {});
  /// One step further.
  void step() { set_steps(steps_ + 1); }
  /// timm's calls, of schedulers that go by epochs and by updates: to that one.
  void step(std::int64_t epoch) { set_steps(epoch); }
  void step_update(std::int64_t num_updates) { set_steps(num_updates); }
  std::int64_t steps() const { return steps_; }
  /// To any step, as when a run is resumed.
  void set_steps(std::int64_t steps);
  /// The rates of the groups that it started from.
  const std::vector<double>& base() const { return base_; }

 private:
  Optimizer* optimizer_;
  Schedule schedule_;
  std::vector<double> base_;
  std::int64_t steps_ = 0;
};

}  // namespace optim
}  // namespace v0
}  // namespace anneal
