// Row programs: softmax, cross-entropy and layer norm of one row, written once for every backend.
//
// A Group is who works on a row: one thread with vector lanes on the host, a block of threads on a device. It owns the
// loops; a program only says what happens at position i. Programs keep to two rules: what is computed at i is read and
// written through i alone, and the same member of the group visits i in every sweep.
#pragma once

#include <concepts>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "anneal/kernels/kernels.h"
#include "anneal/kernels/math.h"

namespace anneal {
inline namespace v0 {
namespace kernels {

/// g.sum(n, f), g.max(n, f): over f(0), ..., f(n - 1), in an order fixed by n; 0 and -infinity for n == 0. Every member
/// of the group gets the result.
/// g.sum(n, next, f): the same; meanwhile next[0], ..., next[n - 1] may be fetched.
/// g.each(n, f): calls f(i) for i in [0, n), in any order.
/// g.at(i, f): calls f(i) once, where `each` would.
/// g.write(n, to, f): to[i] = f(i), where `each` would; `to` is not read again soon.
/// G::block(): as many positions as stay near between a sweep over them and the next.
template <class G>
concept Group = requires(const G& g, std::int64_t n, float (&f)(std::int64_t), float* to) {
  { g.sum(n, f) } -> std::same_as<float>;
  { g.sum(n, to, f) } -> std::same_as<float>;
  { g.max(n, f) } -> std::same_as<float>;
  g.each(n, f);
  g.at(n, f);
  g.write(n, to, f);
  { G::block() } -> std::convertible_to<std::int64_t>;
};

/// A row's exponentials: exps_i = exp(x_i - shift), where the row's maximum `top` is at most a little above `shift`.
template <class C>
struct Exponentials {
  C shift, top, total;  // the sum of exps_i

  /// log sum_i exp(x_i - top)
  ANNEAL_HD C log_total() const { return math::log(total * math::exp(shift - top)); }
};

/// Block by block, so that a long row is read once: what comes after the first block's maximum is far above it seldom,
/// and then what there is shrinks. `exps` is null or room for n, and may lie over x. Of -infinity alone, total is 0.
/// Milakov and Gimelshein, "Online normalizer calculation for softmax" (2018), with fewer changes of shift.
template <Group G, class T>
ANNEAL_HD Exponentials<Compute<T>> exponentials(const G& g, std::int64_t n, const T* x, Compute<T>* exps) {
  using C = Compute<T>;
  constexpr C lowest = -std::numeric_limits<C>::infinity(), far = 60;
  Exponentials<C> e{0, lowest, 0};
  for (std::int64_t begin = 0; begin < n; begin += G::block()) {
    const std::int64_t count = n - begin < G::block() ? n - begin : G::block();
    const T* const from = x + begin;
    const C highest = g.max(count, [=](std::int64_t i) { return load(from[i]); });
    if (highest > e.top) e.top = highest;
    if (e.total == 0) {
      e.shift = e.top > lowest ? e.top : C(0);
    } else if (e.top - e.shift > far) {
      const C less = math::exp(e.shift - e.top);
      if (exps) g.each(begin, [=](std::int64_t i) { exps[i] *= less; });
      e.total *= less;
      e.shift = e.top;
    }
    const auto exp = [=, shift = e.shift](std::int64_t i) { return math::exp(load(from[i]) - shift); };
    const T* const next = from + count;
    if (exps) e.total += g.sum(count, next, [=, to = exps + begin](std::int64_t i) { return to[i] = exp(i); });
    else e.total += g.sum(count, next, exp);
  }
  return e;
}

/// y = softmax(x), or its logarithm. A row of -infinity alone gives NaN. `exps` is room for n exponentials, which may
/// be y, or null: then they are computed twice.
template <bool log, Group G, class T>
ANNEAL_HD void softmax_row(const G& g, std::int64_t n, const T* x, T* y, Compute<T>* exps) {
  using C = Compute<T>;
  const Exponentials<C> e = exponentials(g, n, x, log ? nullptr : exps);
  if constexpr (log) {
    const C log_total = e.log_total();
    g.each(n, [=](std::int64_t i) { y[i] = store<T>((load(x[i]) - e.top) - log_total); });
  } else {
    const C factor = C(1) / e.total;
    if (exps) g.each(n, [=](std::int64_t i) { y[i] = store<T>(exps[i] * factor); });
    else g.each(n, [=](std::int64_t i) { y[i] = store<T>(math::exp(load(x[i]) - e.shift) * factor); });
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

/// Returns loss = -sum_i q_i log softmax(x)_i. Unless dx is null, dx = d loss / dx; it may lie over x. `exps` as above.
template <Group G, class T>
ANNEAL_HD Compute<T> cross_entropy_row(const G& g, std::int64_t n, const T* x, const RowTarget<T>& target, T* dx,
                                       Compute<T>* exps) {
  using C = Compute<T>;
  const T* const q = target.probabilities;
  const C keep = target.keep, spread = target.spread;
  if (n == 0 || (!q && target.index < 0)) {
    if (dx) g.each(n, [=](std::int64_t i) { dx[i] = store<T>(C(0)); });
    return C(0) * keep;  // an average over no rows at all is NaN
  }
  const C right = q ? C(0) : load(x[target.index]);
  const auto wanted = [=](std::int64_t i) { return keep * load(q[i]) + spread; };
  C mass = keep, along = 0;  // the sums of q_i and, but for the one at `index`, of q_i (x_i - top)
  if (q || spread != C(0)) {
    // Before exponentials may lie over x.
    const C top = g.max(n, [=](std::int64_t i) { return load(x[i]); });
    const auto below = [=](std::int64_t i) { return load(x[i]) - top; };
    mass = q ? g.sum(n, wanted) : keep + spread * static_cast<C>(n);
    along = q ? g.sum(n, [=](std::int64_t i) { return wanted(i) * below(i); }) : spread * g.sum(n, below);
  }
  const Exponentials<C> e = exponentials(g, n, x, exps);
  if (dx) {
    const C factor = mass / e.total;
    const auto differentiate = [=](auto kept) {
      if (q) g.write(n, dx, [=](std::int64_t i) { return store<T>(kept(i) * factor - wanted(i)); });
      else g.write(n, dx, [=](std::int64_t i) { return store<T>(kept(i) * factor - spread); });
    };
    if (exps) differentiate([=](std::int64_t i) { return exps[i]; });
    else differentiate([=](std::int64_t i) { return math::exp(load(x[i]) - e.shift); });
    if (!q) {
      const C slope = math::exp(right - e.shift) * factor - (keep + spread);
      g.at(target.index, [=](std::int64_t i) { dx[i] = store<T>(slope); });
    }
  }
  if (!q) along += keep * (right - e.top);
  return mass * e.log_total() - along;
}

/// sum = x + residual. Returns sum.
template <Group G, class T>
ANNEAL_HD const T* add_row(const G& g, std::int64_t n, const T* x, const T* residual, T* sum) {
  g.each(n, [=](std::int64_t i) { sum[i] = store<T>(load(x[i]) + load(residual[i])); });
  return sum;
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
  const C squares = g.sum(n, x + n, [=](std::int64_t i) {
    const C d = load(x[i]) - mean;
    return d * d;
  });
  const C rstd = C(1) / math::sqrt(squares / static_cast<C>(n) + eps);
  const auto normal = [=](std::int64_t i) { return (load(x[i]) - mean) * rstd; };
  if (weight && bias) {
    g.write(n, y, [=](std::int64_t i) { return store<T>(normal(i) * load(weight[i]) + load(bias[i])); });
  } else if (weight) {
    g.write(n, y, [=](std::int64_t i) { return store<T>(normal(i) * load(weight[i])); });
  } else if (bias) {
    g.write(n, y, [=](std::int64_t i) { return store<T>(normal(i) + load(bias[i])); });
  } else {
    g.write(n, y, [=](std::int64_t i) { return store<T>(normal(i)); });
  }
  return {mean, rstd};
}

}  // namespace kernels
}  // namespace v0
}  // namespace anneal
