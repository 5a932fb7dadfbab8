// Softmax, cross-entropy and layer norm: the row programs of kernels/rowwise.h, threads over rows.
#include "anneal/kernels/rowwise.h"

#include "anneal/kernels/cpu/lanes.h"
#include "anneal/kernels/cpu/scratch.h"
#include "anneal/kernels/cpu/simd.h"
#include "anneal/kernels/parallel.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu::ANNEAL_LEVEL {
namespace {

constexpr std::int64_t grain_elements = 1 << 15;  // less is not worth a second thread

/// Whether results do where so many elements are read and written: up to about 32 MB are often still near afterwards.
template <class T>
ANNEAL_HD bool goes_past_caches(std::int64_t elements) {
  return elements * static_cast<std::int64_t>(sizeof(T)) > (std::int64_t{1} << 25);
}

/// Calls f(row) for every row.
template <class F>
ANNEAL_HD void for_rows(std::int64_t rows, std::int64_t cols, const F& f) {
  parallel_for(rows, grain_elements / (cols + 1) + 1, [&f](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) f(r);
    finish_streams();
  });
}

/// Where a row's exponentials are kept: in the result if that is of their type.
template <class T>
ANNEAL_HD Compute<T>* exps_of(T* y, std::int64_t cols) {
  if constexpr (std::is_same_v<T, Compute<T>>) return y;
  else return scratch<Compute<T>>(Scratch::rows, cols);
}

/// The sum of a vector's lanes, in a fixed tree.
template <class C>
ANNEAL_HD C sum_lanes(const Vector<C>& v) {
  C lane[lanes<C>];
  __builtin_memcpy(lane, &v, sizeof v);
  for (int width = lanes<C> / 2; width > 0; width /= 2) {
    for (int l = 0; l < width; ++l) lane[l] += lane[l + width];
  }
  return lane[0];
}

/// What a row of `layer_norm_grad` reads, and where it writes.
template <class T>
struct NormGrad {
  using C = Compute<T>;
  using V = Vector<C>;
  std::int64_t cols;
  const T *x, *dy, *weight;  // weight may be null
  C mean, rstd;

  ANNEAL_HD V normal(std::int64_t i, int n) const { return (load_first(x + i, n) - mean) * rstd; }
  ANNEAL_HD V slope(std::int64_t i, int n) const {
    const V dy_i = load_first(dy + i, n);
    return weight ? dy_i * load_first(weight + i, n) : dy_i;
  }
  /// step(i, n) for the vectors of a row: n elements from i on.
  template <class Step>
  ANNEAL_HD void each(const Step& step) const {
    std::int64_t i = 0;
    for (; i + lanes<C> <= cols; i += lanes<C>) step(i, lanes<C>);
    if (i < cols) step(i, static_cast<int>(cols - i));
  }

  /// The two means that dx takes: of slope, and of slope times normal. Adds to the sums, which are padded to whole
  /// vectors, unless they are null.
  struct Means {
    C slope, along;
  };
  ANNEAL_HD Means means(C* dweight, C* dbias) const {
    V slopes{}, alongs{};
    each([&](std::int64_t i, int n) __attribute__((always_inline)) {
      const V h = normal(i, n), s = slope(i, n);
      slopes += s;
      alongs += s * h;
      if (!dweight) return;
      const V dy_i = load_first(dy + i, n);
      store_vector(dweight + i, load_vector(dweight + i) + dy_i * h);
      store_vector(dbias + i, load_vector(dbias + i) + dy_i);
    });
    const auto count = static_cast<C>(cols);
    return {sum_lanes<C>(slopes) / count, sum_lanes<C>(alongs) / count};
  }

  template <bool streamed>
  ANNEAL_HD void write(const Means& m, T* dx, bool accumulate) const {
    each([&](std::int64_t i, int n) __attribute__((always_inline)) {
      V v = (slope(i, n) - m.slope - normal(i, n) * m.along) * rstd;
      if (accumulate) v += load_first(dx + i, n);
      if constexpr (streamed) stream_vector(dx + i, &v);
      else store_first(dx + i, v, n);
    });
  }
};

template <bool rms, class T>
void layer_norm_grad(const LayerNormGrad& a) {
  using C = Compute<T>;
  const LaneGroup g;
  const std::int64_t cols = a.cols;
  const std::int64_t padded = (cols + lanes<C> - 1) / lanes<C> * lanes<C>;
  const auto* x = static_cast<const T*>(a.x);
  const auto* dy = static_cast<const T*>(a.dy);
  const auto* weight = static_cast<const T*>(a.weight);
  const auto* means = static_cast<const C*>(a.mean);
  const auto* rstds = static_cast<const C*>(a.rstd);
  auto* dx = static_cast<T*>(a.dx);
  const bool whole_vectors =
      std::is_same_v<T, C> && cols == padded && reinterpret_cast<std::uintptr_t>(dx) % vector_bytes == 0;
  const bool streamed = whole_vectors && goes_past_caches<T>(3 * a.rows * cols);

  // Blocks of rows, fixed by the shape: each has its own sums over rows, added in order at the end.
  const std::int64_t shared = (a.rows + 63) / 64;
  const std::int64_t block_rows = shared < 16 ? 16 : shared;
  const std::int64_t blocks = (a.rows + block_rows - 1) / block_rows;
  const bool sums = a.dweight || a.dbias;
  C* const partials = sums ? scratch<C>(Scratch::partial, 2 * (blocks + 1) * padded) : nullptr;
  const auto clear = [=](C* to) { g.each(2 * padded, [=](std::int64_t i) { to[i] = 0; }); };

  parallel_for(blocks, grain_elements / (block_rows * cols + 1) + 1,
               [=, rows = a.rows, accumulate = a.accumulate](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t b = begin; b < end; ++b) {
                   C* const dweight = sums ? partials + 2 * b * padded : nullptr;
                   C* const dbias = dweight + padded;
                   if (sums) clear(dweight);
                   const std::int64_t last = (b + 1) * block_rows < rows ? (b + 1) * block_rows : rows;
                   for (std::int64_t r = b * block_rows; r < last; ++r) {
                     const NormGrad<T> row{cols, x + r * cols, dy + r * cols, weight, rms ? C(0) : means[r], rstds[r]};
                     auto m = row.means(dweight, dbias);
                     if (rms) m.slope = 0;
                     if (!dx) continue;
                     if (streamed) row.template write<std::is_same_v<T, C>>(m, dx + r * cols, accumulate);
                     else row.template write<false>(m, dx + r * cols, accumulate);
                   }
                 }
                 if (streamed) finish_streams();
               });

  if (!sums) return;
  C* const total = partials + 2 * blocks * padded;
  clear(total);
  parallel_for(2 * padded, grain_elements / (blocks + 1) + 1, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t b = 0; b < blocks; ++b) {
      const C* const part = partials + 2 * b * padded + begin;
      g.each(end - begin, [=, to = total + begin](std::int64_t i) { to[i] += part[i]; });
    }
  });
  auto* dweight = static_cast<T*>(a.dweight);
  auto* dbias = static_cast<T*>(a.dbias);
  if (dweight) g.each(cols, [=](std::int64_t i) { dweight[i] = store<T>(total[i]); });
  if (dbias) g.each(cols, [=](std::int64_t i) { dbias[i] = store<T>(total[padded + i]); });
}

}  // namespace

template <>
void run(const Softmax& a) {
  visit_floating(a.dtype, [&]<class T>() {
    const LaneGroup g;
    const auto* x = static_cast<const T*>(a.x);
    auto* y = static_cast<T*>(a.y);
    for_rows(a.rows, a.cols, [=, log = a.log, cols = a.cols](std::int64_t r) {
      T* const to = y + r * cols;
      if (log) softmax_row<true>(g, cols, x + r * cols, to, nullptr);
      else softmax_row<false>(g, cols, x + r * cols, to, exps_of(to, cols));
    });
  });
}

template <>
void run(const SoftmaxGrad& a) {
  visit_floating(a.dtype, [&]<class T>() {
    const LaneGroup g;
    const auto* y = static_cast<const T*>(a.y);
    const auto* dy = static_cast<const T*>(a.dy);
    auto* dx = static_cast<T*>(a.dx);
    for_rows(a.rows, a.cols, [=, log = a.log, cols = a.cols](std::int64_t r) {
      if (log) softmax_grad_row<true>(g, cols, y + r * cols, dy + r * cols, dx + r * cols);
      else softmax_grad_row<false>(g, cols, y + r * cols, dy + r * cols, dx + r * cols);
    });
  });
}

template <>
void run(const CheckTargets& a) {
  std::int64_t count = 0;
  for (std::int64_t r = 0; r < a.rows; ++r) {
    const std::int64_t index = a.classes[r];
    if (index == a.ignore_index) continue;
    ++count;
    if ((index < 0 || index >= a.cols) && *a.bad < 0) *a.bad = r;
  }
  *a.count = static_cast<double>(count);
}

template <>
void run(const CrossEntropy& a) {
  visit_floating(a.dtype, [&]<class T>() {
    const auto* x = static_cast<const T*>(a.x);
    auto* loss = static_cast<Compute<T>*>(a.loss);
    auto* dx = static_cast<T*>(a.dx);
    const bool streamed = dx && goes_past_caches<T>(2 * a.rows * a.cols);
    const LaneGroup g(streamed);
    for_rows(a.rows, a.cols, [=, targets = a.targets, cols = a.cols](std::int64_t r) {
      T* const to = dx ? dx + r * cols : nullptr;
      Compute<T>* const exps = !dx ? nullptr : streamed ? scratch<Compute<T>>(Scratch::rows, cols) : exps_of(to, cols);
      loss[r] = cross_entropy_row(g, cols, x + r * cols, row_target<T>(targets, r, cols), to, exps);
    });
  });
}

template <>
void run(const ScaleRows& a) {
  visit_floating(a.dtype, [&]<class T>() {
    const LaneGroup g;
    const auto* x = static_cast<const T*>(a.x);
    const auto* factors = static_cast<const Compute<T>*>(a.factor);
    auto* y = static_cast<T*>(a.y);
    if (x == y && a.shared && *factors == 1) return;
    for_rows(a.rows, a.cols, [=, shared = a.shared, cols = a.cols](std::int64_t r) {
      const Compute<T> factor = factors[shared ? 0 : r];
      if (x == y && factor == 1) return;
      g.each(cols,
             [=, from = x + r * cols, to = y + r * cols](std::int64_t i) { to[i] = store<T>(factor * load(from[i])); });
    });
  });
}

template <>
void run(const LayerNorm& a) {
  visit_floating(a.dtype, [&]<class T>() {
    using C = Compute<T>;
    const auto* x = static_cast<const T*>(a.x);
    const auto* residual = static_cast<const T*>(a.residual);
    const auto* weight = static_cast<const T*>(a.weight);
    const auto* bias = static_cast<const T*>(a.bias);
    auto* sum = static_cast<T*>(a.sum);
    auto* y = static_cast<T*>(a.y);
    auto* mean = static_cast<C*>(a.mean);
    auto* rstd = static_cast<C*>(a.rstd);
    const auto eps = static_cast<C>(a.eps);
    const LaneGroup g(goes_past_caches<T>((residual ? 4 : 2) * a.rows * a.cols));
    for_rows(a.rows, a.cols, [=, rms = a.rms, cols = a.cols](std::int64_t r) {
      const T* from = x + r * cols;
      if (residual) from = add_row(g, cols, from, residual + r * cols, sum + r * cols);
      const auto moments = rms ? layer_norm_row<true>(g, cols, eps, from, weight, bias, y + r * cols)
                               : layer_norm_row<false>(g, cols, eps, from, weight, bias, y + r * cols);
      if (mean) mean[r] = moments.mean;
      if (rstd) rstd[r] = moments.rstd;
    });
  });
}

template <>
void run(const LayerNormGrad& a) {
  visit_floating(a.dtype, [&]<class T>() {
    if (a.rms) layer_norm_grad<true, T>(a);
    else layer_norm_grad<false, T>(a);
  });
}

}  // namespace kernels::cpu::ANNEAL_LEVEL
}  // namespace v0
}  // namespace anneal
