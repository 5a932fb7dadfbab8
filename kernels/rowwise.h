// Row programs: softmax, cross-entropy and layer norm of one row, written once for every backend.
//
// A Group is who works on a row: one thread with vector lanes on the host, a block of threads on a device. It owns the
// loops; a program only says what happens at position i. Programs keep to two rules: what is computed at i is read and
// written through i alone, and the same member of the group visits i in every sweep.
#pragma once

#include <concepts>
#include <cstdint>
#include <type_traits>

#include "anneal/kernels/kernels.h"
#include "anneal/kernels/math.h"

namespace anneal {
inline namespace v0 {
namespace kernels {

/// g.sum(n, f), g.max(n, f): over f(0), ..., f(n - 1), in an order fixed by n; 0 and -infinity for n == 0. Every member
/// of the group gets the result.
/// g.each(n, f): calls f(i) for i in [0, n), in any order.
/// g.at(i, f): calls f(i) once, where `each` would.
template <class G>
concept Group = requires(const G& g, std::int64_t n, float (&f)(std::int64_t)) {
  { g.sum(n, f) } -> std::same_as<float>;
  { g.max(n, f) } -> std::same_as<float>;
  g.each(n, f);
  g.at(n, f);
};

/// y = softmax(x), or its logarithm. A row of -infinity alone gives NaN.
template <bool log, Group G, class T>
ANNEAL_HD void softmax_row(const G& g, std::int64_t n, const T* x, T* y) {
  using C = Compute<T>;
  const C top = g.max(n, [=](std::int64_t i) { return load(x[i]); });
  if constexpr (log) {
    const C shift = math::log(g.sum(n, [=](std::int64_t i) { return math::exp(load(x[i]) - top); }));
    g.each(n, [=](std::int64_t i) { y[i] = store<T>((load(x[i]) - top) - shift); });
  } else if constexpr (std::is_same_v<T, C>) {
    const C factor = C(1) / g.sum(n, [=](std::int64_t i) { return y[i] = math::exp(x[i] - top); });
    g.each(n, [=](std::int64_t i) { y[i] *= factor; });
  } else {  // y cannot hold the exponentials without rounding them
    const C factor = C(1) / g.sum(n, [=](std::int64_t i) { return math::exp(load(x[i]) - top); });
    g.each(n, [=](std::int64_t i) { y[i] = store<T>(math::exp(load(x[i]) - top) * factor); });
  }
}

/// dx from y = softmax(x) (or its logarithm) and dy.
template <bool log, Group G, class T>
ANNEAL_HD void softmax_grad_row(const G& g, std::int64_t n, const T* y, const T* dy, T* dx) {
  using C = Compute<T>;
  if constexpr (log) {
    const C total = g.sum(n, [=](std::int64_t i) { return load(dy[i]); });
    g.each(n, [=](std::int64_t i) { dx[i] = store<T>(load(dy[i]) - math::exp(load(y[i])) * total); });
  } else {
    const C total = g.sum(n, [=](std::int64_t i) { return load(y[i]) * load(dy[i]); });
    g.each(n, [=](std::int64_t i) { dx[i] = store<T>(load(y[i]) * (load(dy[i]) - total)); });
  }
}

/// What a row should have been: q_i = keep * (probabilities[i], or one at `index`) + spread. Without probabilities a
/// negative index means that the row is ignored. Loss and gradient are linear in q, so a factor of theirs is part of
/// it.
template <class T>
struct RowTarget {
  const T* probabilities;
  std::int64_t index;
  Compute<T> keep, spread;
};
template <class T>
ANNEAL_HD RowTarget<T> row_target(const Targets& targets, std::int64_t row, std::int64_t cols) {
  using C = Compute<T>;
  const double factor = targets.count ? 1 / *targets.count : 1;
  const auto keep = static_cast<C>((1 - targets.smoothing) * factor);
  const auto spread = static_cast<C>(targets.smoothing / static_cast<double>(cols) * factor);
  if (targets.probabilities) return {static_cast<const T*>(targets.probabilities) + row * cols, -1, keep, spread};
  const std::int64_t index = targets.classes[row];
  const bool counts = index != targets.ignore_index && index >= 0 && index < cols;
  return {nullptr, counts ? index : -1, keep, spread};
}

template <class C>
struct RowLoss {
  C loss, lse;
};

/// loss = -sum_i q_i log softmax(x)_i, and the log-sum-exp of x.
template <Group G, class T>
ANNEAL_HD RowLoss<Compute<T>> cross_entropy_row(const G& g, std::int64_t n, const T* x, const RowTarget<T>& target) {
  using C = Compute<T>;
  const T* const q = target.probabilities;
  const C keep = target.keep, spread = target.spread;
  const C top = g.max(n, [=](std::int64_t i) { return load(x[i]); });
  const C shift = math::log(g.sum(n, [=](std::int64_t i) { return math::exp(load(x[i]) - top); }));
  const auto log_p = [=](std::int64_t i) { return (load(x[i]) - top) - shift; };
  C loss = C(0) * keep;  // an average over no rows at all is NaN
  if (q) {
    loss = -g.sum(n, [=](std::int64_t i) { return (keep * load(q[i]) + spread) * log_p(i); });
  } else if (target.index >= 0) {
    loss = -keep * log_p(target.index);
    if (spread != C(0)) loss -= spread * g.sum(n, log_p);
  }
  return {loss, top + shift};
}

/// dx = scale * d loss / dx
template <Group G, class T>
ANNEAL_HD void cross_entropy_grad_row(const G& g, std::int64_t n, const T* x, const RowTarget<T>& target,
                                      Compute<T> lse, Compute<T> scale, T* dx) {
  using C = Compute<T>;
  const T* const q = target.probabilities;
  const C keep = target.keep, spread = target.spread;
  if (q) {
    const C mass = g.sum(n, [=](std::int64_t i) { return keep * load(q[i]) + spread; });
    g.each(n, [=](std::int64_t i) {
      dx[i] = store<T>(scale * (mass * math::exp(load(x[i]) - lse) - (keep * load(q[i]) + spread)));
    });
  } else if (target.index >= 0) {
    const C mass = keep + spread * static_cast<C>(n);
    const C right = mass * math::exp(load(x[target.index]) - lse);  // before the sweep, so that dx may lie over x
    g.each(n, [=](std::int64_t i) { dx[i] = store<T>(scale * (mass * math::exp(load(x[i]) - lse) - spread)); });
    g.at(target.index, [=](std::int64_t i) { dx[i] = store<T>(scale * (right - (keep + spread))); });
  } else {
    g.each(n, [=](std::int64_t i) { dx[i] = store<T>(C(0)); });
  }
}

template <class C>
struct RowMoments {
  C mean, rstd;
};

/// y = (x - mean) * rstd * weight + bias; weight and bias may be null. `rms`: mean is taken as 0.
template <bool rms, Group G, class T>
ANNEAL_HD RowMoments<Compute<T>> layer_norm_row(const G& g, std::int64_t n, Compute<T> eps, const T* x, const T* weight,
                                                const T* bias, T* y) {
  using C = Compute<T>;
  C mean = 0;
  if constexpr (!rms) mean = g.sum(n, [=](std::int64_t i) { return load(x[i]); }) / static_cast<C>(n);
  const C squares = g.sum(n, [=](std::int64_t i) {
    const C d = load(x[i]) - mean;
    return d * d;
  });
  const C rstd = C(1) / math::sqrt(squares / static_cast<C>(n) + eps);
  const auto normal = [=](std::int64_t i) { return (load(x[i]) - mean) * rstd; };
  if (weight && bias) {
    g.each(n, [=](std::int64_t i) { y[i] = store<T>(normal(i) * load(weight[i]) + load(bias[i])); });
  } else if (weight) {
    g.each(n, [=](std::int64_t i) { y[i] = store<T>(normal(i) * load(weight[i])); });
  } else if (bias) {
    g.each(n, [=](std::int64_t i) { y[i] = store<T>(normal(i) + load(bias[i])); });
  } else {
    g.each(n, [=](std::int64_t i) { y[i] = store<T>(normal(i)); });
  }
  return {mean, rstd};
}

/// dx of the above.
template <bool rms, Group G, class T>
ANNEAL_HD void layer_norm_grad_row(const G& g, std::int64_t n, const RowMoments<Compute<T>>& moments, const T* x,
                                   const T* weight, const T* dy, T* dx) {
  using C = Compute<T>;
  const C mean = moments.mean, rstd = moments.rstd;
  const auto program = [=](auto slope) {  // slope(i) = dy_i * weight_i
    const C count = static_cast<C>(n);
    C offset = 0;
    if constexpr (!rms) offset = g.sum(n, slope) / count;
    const C along = g.sum(n, [=](std::int64_t i) { return slope(i) * (load(x[i]) - mean); }) * rstd * rstd / count;
    g.each(n, [=](std::int64_t i) { dx[i] = store<T>(rstd * ((slope(i) - offset) - (load(x[i]) - mean) * along)); });
  };
  if (weight) program([=](std::int64_t i) { return load(dy[i]) * load(weight[i]); });
  else program([=](std::int64_t i) { return load(dy[i]); });
}

}  // namespace kernels
}  // namespace v0
}  // namespace anneal
