#include "anneal/optim/plateau.h"

#include <algorithm>
#include <limits>

#include "anneal/core/error.h"

namespace anneal {
inline namespace v0 {
namespace optim {

ReduceLROnPlateau::ReduceLROnPlateau(Optimizer& optimizer, PlateauOptions options)
    : optimizer_(&optimizer), options_(std::move(options)) {
  const PlateauOptions& o = options_;
  check<ConfigError>(o.mode == "min" || o.mode == "max", "mode: expected \"min\" or \"max\", got \"{}\"", o.mode);
  check<ConfigError>(o.threshold_mode == "rel" || o.threshold_mode == "abs",
                     "threshold_mode: expected \"rel\" or \"abs\", got \"{}\"", o.threshold_mode);
  check<ConfigError>(o.factor >= 0 && o.factor < 1, "factor: expected less than 1, got {}", o.factor);
  check<ConfigError>(o.patience >= 0 && o.cooldown >= 0, "patience, cooldown: expected at least 0, got {} and {}",
                     o.patience, o.cooldown);
  check<ConfigError>(o.min_lr.size() == 1 || o.min_lr.size() == optimizer.groups(),
                     "min_lr: expected one, or one for each of the {} groups, got {}", optimizer.groups(),
                     o.min_lr.size());
  constexpr double infinity = std::numeric_limits<double>::infinity();
  state_.best = o.mode == "min" ? infinity : -infinity;
}

bool ReduceLROnPlateau::is_better(double metric) const {
  const double margin = options_.threshold;
  const bool relative = options_.threshold_mode == "rel";
  if (options_.mode == "min") return metric < (relative ? state_.best * (1 - margin) : state_.best - margin);
  return metric > (relative ? state_.best * (1 + margin) : state_.best + margin);
}

void ReduceLROnPlateau::reduce() {
  for (std::size_t g = 0; g < optimizer_->groups(); ++g) {
    const double min = options_.min_lr[std::min(g, options_.min_lr.size() - 1)];  // groups may have been added
    const double lr = std::max(optimizer_->lr(g) * options_.factor, min);
    if (optimizer_->lr(g) - lr > options_.eps) optimizer_->set_lr(g, lr);
  }
}

void ReduceLROnPlateau::step(double metric) {
  ++state_.steps;
  if (is_better(metric)) {
    state_.best = metric;
    state_.num_bad_epochs = 0;
  } else {
    ++state_.num_bad_epochs;
  }
  if (state_.cooldown_counter > 0) {
    --state_.cooldown_counter;
    state_.num_bad_epochs = 0;
  }
  if (state_.num_bad_epochs <= options_.patience) return;
  reduce();
  state_.cooldown_counter = options_.cooldown;
  state_.num_bad_epochs = 0;
}

}  // namespace optim
}  // namespace v0
}  // namespace anneal
