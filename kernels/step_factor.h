// What the kernel StepFactor does, for every backend.
#pragma once

#include "anneal/kernels/kernels.h"

namespace anneal {
inline namespace v0 {
namespace kernels {

ANNEAL_HD void finish_norm(const StepFactor& a) {
  StepState& s = *a.state;
  constexpr double largest = 1.7976931348623157e308;
  const double raw = a.p > largest ? s.total : __builtin_pow(s.total, 1 / a.p);
  const bool finite = raw <= largest;
  s.total = 0;
  s.factor = a.scaler ? a.average / s.scale : a.average;
  s.norm = raw * s.factor;
  if (a.max_norm > 0) {
    const double clip = a.max_norm / (s.norm + 1e-6);
    if (!(clip >= 1)) s.factor *= clip;  // a norm of NaN makes the factor NaN
  }
  if (!a.scaler) return;
  s.found_inf = !finite;
  s.skipped += s.found_inf;
  if (a.interval < 0) return;
  if (s.found_inf) {
    s.scale *= a.backoff;
    s.good_steps = 0;
  } else if (++s.good_steps == a.interval) {
    if (s.scale * a.growth <= largest) s.scale *= a.growth;
    s.good_steps = 0;
  }
}

}  // namespace kernels
}  // namespace v0
}  // namespace anneal
