// Softmax, cross-entropy and layer norm: the row programs of kernels/rowwise.h, threads over rows.
#include "anneal/kernels/rowwise.h"

#include "anneal/kernels/cpu/lanes.h"
#include "anneal/kernels/cpu/scratch.h"
#include "anneal/kernels/parallel.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu::ANNEAL_LEVEL {
namespace {

constexpr std::int64_t grain_elements = 1 << 15;  // less is not worth a second thread

/// Calls f(row) for every row.
template <class F>
ANNEAL_HD void for_rows(std::int64_t rows, std::int64_t cols, const F& f) {
  parallel_for(rows, grain_elements / (cols + 1) + 1, [&f](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) f(r);
  });
}

template <bool rms, class T>
void layer_norm_grad(const LayerNormGrad& a) {
  using C = Compute<T>;
  const LaneGroup g;
  const std::int64_t cols = a.cols;
  const auto* x = static_cast<const T*>(a.x);
  const auto* dy = static_cast<const T*>(a.dy);
  const auto* weight = static_cast<const T*>(a.weight);
  const auto* means = static_cast<const C*>(a.mean);
  const auto* rstds = static_cast<const C*>(a.rstd);
  auto* dx = static_cast<T*>(a.dx);

  // Blocks of rows, fixed by the shape: each has its own sums over rows, added in order at the end.
  const std::int64_t shared = (a.rows + 63) / 64;
  const std::int64_t block_rows = shared < 16 ? 16 : shared;
  const std::int64_t blocks = (a.rows + block_rows - 1) / block_rows;
  const bool sums = a.dweight || a.dbias;
  C* const partials = sums ? scratch<C>(Scratch::partial, 2 * (blocks + 1) * cols) : nullptr;
  const auto clear = [=](C* to) { g.each(2 * cols, [=](std::int64_t i) { to[i] = 0; }); };

  parallel_for(blocks, grain_elements / (block_rows * cols + 1) + 1,
               [=, rows = a.rows](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t b = begin; b < end; ++b) {
                   C* const dweight = partials + 2 * b * cols;
                   C* const dbias = dweight + cols;
                   if (sums) clear(dweight);
                   const std::int64_t last = (b + 1) * block_rows < rows ? (b + 1) * block_rows : rows;
                   for (std::int64_t r = b * block_rows; r < last; ++r) {
                     const RowMoments<C> moments{rms ? C(0) : means[r], rstds[r]};
                     const T* const xr = x + r * cols;
                     const T* const dyr = dy + r * cols;
                     if (dx) layer_norm_grad_row<rms>(g, cols, moments, xr, weight, dyr, dx + r * cols);
                     if (sums) {
                       g.each(cols, [=](std::int64_t i) {
                         const C slope = load(dyr[i]);
                         dweight[i] += slope * ((load(xr[i]) - moments.mean) * moments.rstd);
                         dbias[i] += slope;
                       });
                     }
                   }
                 }
               });

  if (!sums) return;
  C* const total = partials + 2 * blocks * cols;
  clear(total);
  parallel_for(2 * cols, grain_elements / (blocks + 1) + 1, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t b = 0; b < blocks; ++b) {
      const C* const part = partials + 2 * b * cols + begin;
      g.each(end - begin, [=, to = total + begin](std::int64_t i) { to[i] += part[i]; });
    }
  });
  auto* dweight = static_cast<T*>(a.dweight);
  auto* dbias = static_cast<T*>(a.dbias);
  if (dweight) g.each(cols, [=](std::int64_t i) { dweight[i] = store<T>(total[i]); });
  if (dbias) g.each(cols, [=](std::int64_t i) { dbias[i] = store<T>(total[cols + i]); });
}

}  // namespace

template <>
void run(const Softmax& a) {
  visit_floating(a.dtype, [&]<class T>() {
    const LaneGroup g;
    const auto* x = static_cast<const T*>(a.x);
    auto* y = static_cast<T*>(a.y);
    for_rows(a.rows, a.cols, [=, log = a.log, cols = a.cols](std::int64_t r) {
      if (log) softmax_row<true>(g, cols, x + r * cols, y + r * cols);
      else softmax_row<false>(g, cols, x + r * cols, y + r * cols);
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
    const LaneGroup g;
    const auto* x = static_cast<const T*>(a.x);
    auto* loss = static_cast<T*>(a.loss);
    auto* lse = static_cast<Compute<T>*>(a.lse);
    for_rows(a.rows, a.cols, [=, targets = a.targets, cols = a.cols](std::int64_t r) {
      const auto row = cross_entropy_row(g, cols, x + r * cols, row_target<T>(targets, r, cols));
      loss[r] = store<T>(row.loss);
      lse[r] = row.lse;
    });
  });
}

template <>
void run(const CrossEntropyGrad& a) {
  visit_floating(a.dtype, [&]<class T>() {
    using C = Compute<T>;
    const LaneGroup g;
    const auto* x = static_cast<const T*>(a.x);
    const auto* lse = static_cast<const C*>(a.lse);
    const auto* dloss = static_cast<const T*>(a.dloss);
    auto* dx = static_cast<T*>(a.dx);
    for_rows(a.rows, a.cols, [=, &a, cols = a.cols, scale = static_cast<C>(a.scale)](std::int64_t r) {
      const C slope = scale * load(dloss[a.shared_dloss ? 0 : r]);
      cross_entropy_grad_row(g, cols, x + r * cols, row_target<T>(a.targets, r, cols), lse[r], slope, dx + r * cols);
    });
  });
}

template <>
void run(const LayerNorm& a) {
  visit_floating(a.dtype, [&]<class T>() {
    using C = Compute<T>;
    const LaneGroup g;
    const auto* x = static_cast<const T*>(a.x);
    const auto* weight = static_cast<const T*>(a.weight);
    const auto* bias = static_cast<const T*>(a.bias);
    auto* y = static_cast<T*>(a.y);
    auto* mean = static_cast<C*>(a.mean);
    auto* rstd = static_cast<C*>(a.rstd);
    const auto eps = static_cast<C>(a.eps);
    for_rows(a.rows, a.cols, [=, rms = a.rms, cols = a.cols](std::int64_t r) {
      const auto moments = rms ? layer_norm_row<true>(g, cols, eps, x + r * cols, weight, bias, y + r * cols)
                               : layer_norm_row<false>(g, cols, eps, x + r * cols, weight, bias, y + r * cols);
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
