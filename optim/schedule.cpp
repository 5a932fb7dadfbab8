#include "anneal/optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "anneal/core/error.h"

namespace anneal {
inline namespace v0 {
namespace optim {
namespace {

double half_cosine(double from, double to, double share) {
  return to + (from - to) * (1 + std::cos(std::numbers::pi * share)) / 2;
}
double share(std::int64_t step, std::int64_t of) { return static_cast<double>(step) / static_cast<double>(of); }

}  // namespace

Schedule constant_lr() {
  return [](double base, std::int64_t) { return base; };
}
Schedule step_lr(std::int64_t step_size, double gamma) {
  check<ConfigError>(step_size >= 1, "step_size: expected at least 1, got {}", step_size);
  return [=](double base, std::int64_t step) { return base * std::pow(gamma, static_cast<double>(step / step_size)); };
}
Schedule multi_step_lr(std::vector<std::int64_t> milestones, double gamma) {
  std::sort(milestones.begin(), milestones.end());
  return [milestones = std::move(milestones), gamma](double base, std::int64_t step) {
    const auto reached = std::upper_bound(milestones.begin(), milestones.end(), step) - milestones.begin();
    return base * std::pow(gamma, static_cast<double>(reached));
  };
}
Schedule exponential_lr(double gamma) {
  return [=](double base, std::int64_t step) { return base * std::pow(gamma, static_cast<double>(step)); };
}
Schedule linear_lr(double start_factor, double end_factor, std::int64_t total_steps) {
  check<ConfigError>(total_steps >= 1, "total_steps: expected at least 1, got {}", total_steps);
  return [=](double base, std::int64_t step) {
    return base * (start_factor + (end_factor - start_factor) * share(std::min(step, total_steps), total_steps));
  };
}
Schedule cosine_annealing_lr(std::int64_t t_max, double eta_min) {
  check<ConfigError>(t_max >= 1, "t_max: expected at least 1, got {}", t_max);
  return [=](double base, std::int64_t step) { return half_cosine(base, eta_min, share(step, t_max)); };
}
Schedule warmup_cosine(std::int64_t warmup, std::int64_t total_steps, double min_factor) {
  check<ConfigError>(warmup >= 0 && total_steps > warmup,
                     "total_steps: expected more than the {} of the warm-up, got {}", warmup, total_steps);
  return [=](double base, std::int64_t step) {
    if (step < warmup) return base * share(step + 1, warmup);
    return half_cosine(base, base * min_factor, share(std::min(step, total_steps) - warmup, total_steps - warmup));
  };
}

LRScheduler::LRScheduler(Optimizer& optimizer, Schedule schedule)
    : optimizer_(&optimizer), schedule_(std::move(schedule)) {
  for (std::size_t g = 0; g < optimizer.groups(); ++g) base_.push_back(optimizer.lr(g));
  set_steps(0);
}

void LRScheduler::set_steps(std::int64_t steps) {
  steps_ = steps;
  for (std::size_t g = 0; g < base_.size(); ++g) optimizer_->set_lr(g, schedule_(base_[g], steps));
}

}  // namespace optim
}  // namespace v0
}  // namespace anneal
