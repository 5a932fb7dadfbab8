#include "anneal/optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include "anneal/core/error.h"

namespace anneal {
inline namespace v0 {
namespace optim {
namespace {

double line(double from, double to, double share) { return from + (to - from) * share; }
double half_cosine(double from, double to, double share) {
  return to + (from - to) * (1 + std::cos(std::numbers::pi * share)) / 2;
}
auto annealing(const std::string& strategy) {
  check<ConfigError>(strategy == "cos" || strategy == "linear",
                     "anneal_strategy: expected \"cos\" or \"linear\", got \"{}\"", strategy);
  return strategy == "cos" ? half_cosine : line;
}
// How much of the way from `begin` to `end` is done.
double share(double at, double begin, double end) {
  return at >= end ? 1 : at <= begin ? 0 : (at - begin) / (end - begin);
}
double share(std::int64_t at, std::int64_t begin, std::int64_t end) {
  return share(static_cast<double>(at), static_cast<double>(begin), static_cast<double>(end));
}
void check_steps(const char* name, std::int64_t steps) {
  check<ConfigError>(steps >= 1, "{}: expected at least 1, got {}", name, steps);
}

std::vector<double> rates_of(const Optimizer& optimizer) {
  std::vector<double> rates;
  for (std::size_t g = 0; g < optimizer.groups(); ++g) rates.push_back(optimizer.lr(g));
  return rates;
}

// A schedule of numbers that are known now, or only in a run.
template <class Make>
Schedule when(bool known, const Make& make) {
  return known ? make(RunNumbers{}) : Schedule(make);
}
template <class Make, class... Numbers>
Schedule when_known(const Make& make, const Numbers&... steps) {
  return when((steps.known() && ...), [=](const RunNumbers& run) -> Schedule { return make(steps.in(run)...); });
}
bool all_known(const auto& list) {
  return std::all_of(list.begin(), list.end(), [](const auto& x) { return x.known(); });
}
std::vector<std::int64_t> all_in(const RunNumbers& run, const std::vector<Steps>& list) {
  std::vector<std::int64_t> numbers;
  for (const Steps& steps : list) numbers.push_back(steps.in(run));
  return numbers;
}
std::vector<Schedule> all_in(const RunNumbers& run, std::vector<Schedule> list) {
  for (Schedule& schedule : list) schedule = schedule.in(run);
  return list;
}

}  // namespace

double Schedule::operator()(double base, std::int64_t step, std::size_t group) const {
  check(static_cast<bool>(rate_), make_ ? "schedule: its numbers are known in a run; ask for in(run) first"
                                        : "schedule: an empty one has no rate");
  return rate_(base, step, group);
}

Schedule Schedule::with_momentum(std::function<double(std::int64_t)> momentum) const {
  if (make_) return [=, *this](const RunNumbers& run) { return in(run).with_momentum(momentum); };
  Schedule both = *this;
  both.momentum_ = std::move(momentum);
  return both;
}

std::optional<double> Schedule::momentum(std::int64_t step) const {
  return momentum_ ? std::optional(momentum_(step)) : std::nullopt;
}

Schedule constant_lr() {
  return [](double base, std::int64_t) { return base; };
}
Schedule step_lr(Steps step_size, double gamma) {
  const auto make = [=](std::int64_t size) {
    check_steps("step_size", size);
    return [=](double base, std::int64_t step) { return base * std::pow(gamma, static_cast<double>(step / size)); };
  };
  return when_known(make, step_size);
}
Schedule multi_step_lr(std::vector<Steps> milestones, double gamma) {
  return when(all_known(milestones), [=](const RunNumbers& run) -> Schedule {
    std::vector<std::int64_t> at = all_in(run, milestones);
    std::sort(at.begin(), at.end());
    return [=](double base, std::int64_t step) {
      const auto reached = std::upper_bound(at.begin(), at.end(), step) - at.begin();
      return base * std::pow(gamma, static_cast<double>(reached));
    };
  });
}
Schedule exponential_lr(double gamma) {
  return [=](double base, std::int64_t step) { return base * std::pow(gamma, static_cast<double>(step)); };
}
Schedule linear_lr(double start_factor, double end_factor, Steps total_steps) {
  const auto make = [=](std::int64_t total) {
    check_steps("total_steps", total);
    return [=](double base, std::int64_t step) { return base * line(start_factor, end_factor, share(step, 0, total)); };
  };
  return when_known(make, total_steps);
}
Schedule polynomial_lr(Steps total_steps, double power) {
  const auto make = [=](std::int64_t total) {
    check_steps("total_steps", total);
    return [=](double base, std::int64_t step) { return base * std::pow(1 - share(step, 0, total), power); };
  };
  return when_known(make, total_steps);
}
Schedule cosine_annealing_lr(Steps t_max, double eta_min) {
  const auto make = [=](std::int64_t half) {
    check_steps("t_max", half);
    return [=](double base, std::int64_t step) {
      return half_cosine(base, eta_min, static_cast<double>(step) / static_cast<double>(half));
    };
  };
  return when_known(make, t_max);
}
Schedule cosine_annealing_warm_restarts(Steps t_0, std::int64_t t_mult, double eta_min) {
  check_steps("t_mult", t_mult);
  const auto make = [=](std::int64_t first) {
    check_steps("t_0", first);
    return [=](double base, std::int64_t step) {
      std::int64_t length = first;
      if (t_mult == 1) step %= length;
      for (; step >= length; length *= t_mult) step -= length;
      return half_cosine(base, eta_min, share(step, 0, length));
    };
  };
  return when_known(make, t_0);
}

Schedule one_cycle_lr(Steps total_steps, OneCycleOptions o) {
  check<ConfigError>(o.pct_start >= 0 && o.pct_start <= 1, "pct_start: expected 0 to 1, got {}", o.pct_start);
  check<ConfigError>(o.div_factor > 0 && o.final_div_factor > 0,
                     "div_factor, final_div_factor: expected more than 0, got {} and {}", o.div_factor,
                     o.final_div_factor);
  const auto between = annealing(o.anneal_strategy);
  const auto make = [=](std::int64_t total) {
    check_steps("total_steps", total);
    const auto cycle = [=](double start, double peak, double end, std::int64_t step) {
      const auto at = static_cast<double>(step), last = static_cast<double>(total - 1);
      const double top = o.pct_start * static_cast<double>(total) - 1;
      if (at <= top) return between(start, peak, share(at, 0, top));
      if (!o.three_phase) return between(peak, end, share(at, top, last));
      if (at <= 2 * top) return between(peak, start, share(at, top, 2 * top));
      return between(start, end, share(at, 2 * top, last));
    };
    const Schedule rate = [=](double peak, std::int64_t step) {
      const double start = peak / o.div_factor;
      return cycle(start, peak, start / o.final_div_factor, step);
    };
    if (!o.cycle_momentum) return rate;
    return rate.with_momentum(
        [=](std::int64_t step) { return cycle(o.max_momentum, o.base_momentum, o.max_momentum, step); });
  };
  return when_known(make, total_steps).for_steps();
}

Schedule cyclic_lr(double max_lr, CyclicOptions o) {
  check<ConfigError>(o.mode == "triangular" || o.mode == "triangular2" || o.mode == "exp_range",
                     "mode: expected \"triangular\", \"triangular2\" or \"exp_range\", got \"{}\"", o.mode);
  const auto make = [=](std::int64_t up, std::int64_t down) {
    check_steps("step_size_up", up);
    check_steps("step_size_down", down);
    const auto between = [=](double base, double top, std::int64_t step) {
      const std::int64_t cycle = step / (up + down), at = step % (up + down);
      const double height = at <= up ? share(at, 0, up) : 1 - share(at, up, up + down);
      const double scale = o.mode == "triangular2" ? std::pow(0.5, static_cast<double>(cycle))
                           : o.mode == "exp_range" ? std::pow(o.gamma, static_cast<double>(step))
                                                   : 1;
      return base + (top - base) * height * scale;
    };
    const Schedule rate = [=](double base, std::int64_t step) { return between(base, max_lr, step); };
    if (!o.cycle_momentum) return rate;
    return rate.with_momentum([=](std::int64_t step) { return between(o.max_momentum, o.base_momentum, step); });
  };
  return when_known(make, o.step_size_up, o.step_size_down.value_or(o.step_size_up));
}

Schedule sequential_lr(std::vector<Schedule> schedules, std::vector<Steps> milestones) {
  check<ConfigError>(schedules.size() == milestones.size() + 1,
                     "milestones: expected one less than the {} schedules, got {}", schedules.size(),
                     milestones.size());
  return when(all_known(schedules) && all_known(milestones), [=](const RunNumbers& run) -> Schedule {
    const std::vector<std::int64_t> at = all_in(run, milestones);
    check<ConfigError>(std::is_sorted(at.begin(), at.end()), "milestones: expected in ascending order");
    const std::vector<Schedule> parts = all_in(run, schedules);
    const auto begin = [=](std::size_t part) { return part == 0 ? 0 : at[part - 1]; };
    const auto part_at = [=](std::int64_t step) {
      return static_cast<std::size_t>(std::upper_bound(at.begin(), at.end(), step) - at.begin());
    };
    const Schedule rate = [=](double base, std::int64_t step, std::size_t group) {
      const std::size_t part = part_at(step);
      return parts[part](base, step - begin(part), group);
    };
    if (!parts[0].momentum(0)) return rate;
    // A part without momentum leaves it as it was at the end of the one before.
    return rate.with_momentum([=](std::int64_t step) {
      for (std::size_t part = part_at(step);; step = begin(part--) - 1)
        if (const auto momentum = parts[part].momentum(step - begin(part))) return *momentum;
    });
  });
}
Schedule chained(std::vector<Schedule> schedules) {
  return when(all_known(schedules), [=](const RunNumbers& run) -> Schedule {
    const std::vector<Schedule> parts = all_in(run, schedules);
    const Schedule rate = [=](double base, std::int64_t step, std::size_t group) {
      for (const Schedule& part : parts) base = part(base, step, group);
      return base;
    };
    const auto moves = [](const Schedule& part) { return part.momentum(0).has_value(); };
    const auto last = std::find_if(parts.rbegin(), parts.rend(), moves);
    if (last == parts.rend()) return rate;
    return rate.with_momentum([part = *last](std::int64_t step) { return *part.momentum(step); });
  });
}
Schedule per_group(std::vector<Schedule> schedules) {
  return when(all_known(schedules), [=](const RunNumbers& run) -> Schedule {
    return [parts = all_in(run, schedules)](double base, std::int64_t step, std::size_t group) {
      check(group < parts.size(), "per_group: expected a schedule for each group, got {} and there is a group {}",
            parts.size(), group);
      return parts[group](base, step, group);
    };
  });
}

Schedule swa_lr(double swa_lr, Steps anneal_epochs, const std::string& anneal_strategy) {
  const auto between = annealing(anneal_strategy);
  const auto make = [=](std::int64_t epochs) {
    check<ConfigError>(epochs >= 0, "anneal_epochs: expected at least 0, got {}", epochs);
    return [=](double base, std::int64_t step) { return between(base, swa_lr, share(step, 0, epochs)); };
  };
  return when_known(make, anneal_epochs);
}

Schedule warmup_cosine(Steps warmup, Steps total_steps, double min_factor) {
  const auto make = [=](std::int64_t up, std::int64_t total) {
    check<ConfigError>(up >= 0 && total > up, "total_steps: expected more than the {} of the warm-up, got {}", up,
                       total);
    return [=](double base, std::int64_t step) {
      if (step < up) return base * share(step + 1, 0, up);
      return half_cosine(base, base * min_factor, share(step, up, total));
    };
  };
  return when_known(make, warmup, total_steps);
}

Schedule cosine_lr(Steps total_steps, CosineOptions o) {
  const auto make = [=](std::int64_t total, std::int64_t warmup, std::int64_t cooldown) {
    check<ConfigError>(warmup >= 0 && cooldown >= 0 && total > warmup + cooldown,
                       "total_steps: expected more than warm-up ({}) and cool-down ({}), got {}", warmup, cooldown,
                       total);
    return [=](double base, std::int64_t step) {
      const double start = o.warmup_starting_lr_ratio ? base * *o.warmup_starting_lr_ratio : o.warmup_starting_lr;
      const double min = o.min_lr_ratio ? base * *o.min_lr_ratio : o.min_lr;
      if (step < warmup) return line(start, base, share(step, 0, warmup));
      return half_cosine(base, min, std::pow(share(step, warmup, total - cooldown), o.k_decay));
    };
  };
  return when_known(make, total_steps, o.warmup, o.cooldown);
}

std::vector<DecayPhase> wsd_decays(std::int64_t total_steps, const WSDOptions& o) {
  const std::int64_t count = o.num_checkpoints;
  check_steps("num_checkpoints", count);
  check<ConfigError>(total_steps >= (count > 1 ? 4 : 1), "total_steps: expected at least {}, got {}", count > 1 ? 4 : 1,
                     total_steps);
  check<ConfigError>(o.decay_phase_ratio >= 0 && o.decay_phase_ratio <= (count > 1 ? 1.0 / 3 : 1),
                     "decay_phase_ratio: expected 0 to {}, got {}", count > 1 ? "1/3 with several checkpoints" : "1",
                     o.decay_phase_ratio);
  std::vector<DecayPhase> decays;
  std::int64_t begin = 0, end = count > 1 ? total_steps / 4 : total_steps;
  for (std::int64_t i = 0; i < count && begin < total_steps; ++i) {
    decays.push_back({end - (Steps(end - begin) * o.decay_phase_ratio).in({}), end});
    begin = std::exchange(end, std::min(2 * end, total_steps));
  }
  return decays;
}
Schedule wsd_lr(Steps total_steps, WSDOptions o) {
  check<ConfigError>(o.min_lr_ratio > 0, "min_lr_ratio: expected more than 0, got {}", o.min_lr_ratio);
  const auto make = [=](std::int64_t total, std::int64_t warmup) {
    check<ConfigError>(warmup >= 0, "warmup: expected at least 0, got {}", warmup);
    return [=, decays = wsd_decays(total, o)](double base, std::int64_t step) {
      if (step < warmup) return line(o.warmup_starting_lr, base, share(step, 0, warmup));
      const auto now = std::find_if(decays.begin(), decays.end() - 1, [=](const auto& d) { return step < d.end; });
      const double t = share(step, now->begin, now->end);
      return o.inverse ? base / line(1, 1 / o.min_lr_ratio, t) : base * line(o.min_lr_ratio, 1, 1 - std::sqrt(t));
    };
  };
  return when_known(make, total_steps, o.warmup);
}

LRScheduler::LRScheduler(Optimizer& optimizer, const Schedule& schedule, const RunNumbers& run)
    : LRScheduler(optimizer, schedule, rates_of(optimizer), run) {}
LRScheduler::LRScheduler(Optimizer& optimizer, const Schedule& schedule, std::vector<double> base,
                         const RunNumbers& run)
    : optimizer_(&optimizer), schedule_(schedule.in(run)), base_(std::move(base)) {
  check(base_.size() <= optimizer.groups(), "LRScheduler: {} rates for {} groups", base_.size(), optimizer.groups());
  set_steps(0);
}

void LRScheduler::set_steps(std::int64_t steps) {
  steps_ = steps;
  const std::optional<double> momentum = schedule_.momentum(steps);
  for (std::size_t g = 0; g < base_.size(); ++g) {
    optimizer_->set_lr(g, schedule_(base_[g], steps, g));
    if (momentum) optimizer_->set_momentum(g, *momentum);
  }
}

}  // namespace optim
}  // namespace v0
}  // namespace anneal
