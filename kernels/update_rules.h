// What optimizers do to one element, for every backend. A rule is made from the numbers of one block of the arena at
// one step; C is what is computed with. rule(g, p, s) updates the value p by its gradient g; s[0], s[1], ... are the
// element's state.
#pragma once

#include <limits>

#include "anneal/kernels/kernels.h"
#include "anneal/kernels/math.h"

namespace anneal {
inline namespace v0 {
namespace kernels {

/// What every rule does to gradients first.
template <class C>
struct Slope {
  ANNEAL_HD Slope(const OptimStep& a, const OptimGroup& group)
      : factor(static_cast<C>((group.maximize ? -1 : 1) * (a.state ? a.state->factor : 1))),
        limit(a.clip_value > 0 ? static_cast<C>(a.clip_value) : std::numeric_limits<C>::infinity()) {}

  ANNEAL_HD C operator()(C g) const {
    const C x = factor * g;
    return x > limit ? limit : x < -limit ? -limit : x;
  }

  C factor, limit;
};

/// The state is exp_avg and exp_avg_sq.
template <class C>
struct AdamRule {
  static constexpr int states = 2;
  ANNEAL_HD AdamRule(const OptimStep& a, const OptimGroup& group, std::int64_t step)
      : slope(a, group),
        l2(static_cast<C>(group.decoupled ? 0 : group.weight_decay)),
        kept(static_cast<C>(group.decoupled ? 1 - group.lr * group.weight_decay : 1)),
        new1(static_cast<C>(1 - group.beta1)),
        beta2(static_cast<C>(group.beta2)),
        new2(static_cast<C>(1 - group.beta2)),
        root_scale(static_cast<C>(1 / math::sqrt(1 - math::pow(group.beta2, static_cast<double>(step))))),
        eps(static_cast<C>(group.eps)),
        step_size(static_cast<C>(group.lr / (1 - math::pow(group.beta1, static_cast<double>(step))))) {}

  /// How many of the states are there.
  ANNEAL_HD int used() const { return states; }
  ANNEAL_HD void operator()(C g, C& p, C* s) const {
    const C d = slope(g) + l2 * p;
    s[0] += new1 * (d - s[0]);
    s[1] = beta2 * s[1] + new2 * (d * d);
    p = kept * p - step_size * (s[0] / (math::sqrt(s[1]) * root_scale + eps));
  }

  Slope<C> slope;
  C l2, kept, new1, beta2, new2, root_scale, eps, step_size;
};

/// The state is the momentum, if there is any.
template <class C>
struct SgdRule {
  static constexpr int states = 1;
  ANNEAL_HD SgdRule(const OptimStep& a, const OptimGroup& group, std::int64_t step)
      : slope(a, group),
        l2(static_cast<C>(group.weight_decay)),
        lr(static_cast<C>(group.lr)),
        momentum(static_cast<C>(group.momentum)),
        fresh(static_cast<C>(1 - group.dampening)),
        plain(group.momentum == 0),
        first(step == 1),
        nesterov(group.nesterov) {}

  ANNEAL_HD int used() const { return plain ? 0 : states; }
  ANNEAL_HD void operator()(C g, C& p, C* s) const {
    C d = slope(g) + l2 * p;
    if (!plain) {
      s[0] = first ? d : momentum * s[0] + fresh * d;
      d = nesterov ? d + momentum * s[0] : s[0];
    }
    p -= lr * d;
  }

  Slope<C> slope;
  C l2, lr, momentum, fresh;
  bool plain, first, nesterov;
};

}  // namespace kernels
}  // namespace v0
}  // namespace anneal
