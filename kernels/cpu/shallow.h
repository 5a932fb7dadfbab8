// Convolutions of few taps to many planes, such as the first layers of networks for grey images. As matrix products
// they would spend their time on copies of patches (the weight's gradient on transposing dy): here registers hold all
// taps of some pixels while every plane is made of them, or the sums of some planes with some taps.
#pragma once

#include "anneal/kernels/cpu/windows.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu::ANNEAL_LEVEL {

constexpr int shallow_taps = 9;

/// Whether registers hold the taps, and rows fill most of their vectors.
template <class C>
ANNEAL_HD bool is_shallow(const Windows& w) {
  const std::int64_t vectors = (w.out_w + lanes<C> - 1) / lanes<C>;
  return w.taps() >= 5 && w.taps() <= shallow_taps && w.stride_w == 1 && 4 * w.out_w >= 3 * vectors * lanes<C>;
}

/// One row of y, in planes `plane` elements apart: y = bias (or 0) + the sum over taps of weight[plane][tap] *
/// from[x + distance[tap]].
template <int Taps, class T, class C>
void correlate_row(const C* from, const std::int32_t* distance, const C* weight, const C* bias, bool with_relu,
                   std::int64_t planes, std::int64_t width, T* y, std::int64_t plane) {
  constexpr int n = lanes<C>, at_once = 4;
  for (std::int64_t j = 0; j < width; j += n) {
    const int some = width - j < n ? static_cast<int>(width - j) : n;
    Vector<C> x[Taps];
#pragma GCC unroll 9
    for (int t = 0; t < Taps; ++t) x[t] = load_vector(from + j + distance[t]);
    const auto make = [&]<int Planes>(std::int64_t p) __attribute__((always_inline)) {
      Vector<C> sum[Planes];
#pragma GCC unroll 4
      for (int q = 0; q < Planes; ++q) sum[q] = splat(bias ? bias[p + q] : C(0));
#pragma GCC unroll 9
      for (int t = 0; t < Taps; ++t) {
#pragma GCC unroll 4
        for (int q = 0; q < Planes; ++q) sum[q] += x[t] * weight[(p + q) * Taps + t];
      }
#pragma GCC unroll 4
      for (int q = 0; q < Planes; ++q) store_first(y + (p + q) * plane + j, with_relu ? relu<C>(sum[q]) : sum[q], some);
    };
    std::int64_t p = 0;
    for (; p + at_once <= planes; p += at_once) make.template operator()<at_once>(p);
    for (; p < planes; ++p) make.template operator()<1>(p);
  }
}

/// correlate_row for as many taps as there are.
template <class T, class C, int Taps = 5>
auto* correlate_row_of(std::int64_t taps) {
  if constexpr (Taps < shallow_taps) {
    if (taps > Taps) return correlate_row_of<T, C, Taps + 1>(taps);
  }
  return &correlate_row<Taps, T, C>;
}

/// Whether images, copied for each tap of a line, take little memory and time, and sums run over enough pixels.
ANNEAL_HD bool has_shallow_grad(const Windows& w) {
  return w.stride_h * w.stride_w == 1 && w.taps() <= 4 * shallow_taps && w.pixels() >= 6 * w.taps() &&
         w.kernel_w * w.frame.size() <= std::int64_t{1} << 17;
}

/// An image without the margins of its frame, once for each tap of a line: windows lie side by side, line after line,
/// as dy's pixels do, and `distance` is where those of a tap begin.
template <class C>
struct Shifts {
  const Windows& windows;
  std::int64_t rows;
  C *frame, *copies;
  std::int32_t* distance;

  explicit Shifts(const Windows& w)
      : windows(w),
        rows(w.frame.planes * w.frame.height),
        frame(w.template frames<C>(1)),
        copies(scratch<C>(Scratch::panel, w.kernel_w * rows * w.out_w + lanes<C>)),
        distance(scratch<std::int32_t>(Scratch::table, w.taps())) {
    for (std::int64_t i = 0; i < w.taps(); ++i) {
      const auto [plane, row, column] = w.tap(i);
      distance[i] = static_cast<std::int32_t>((column * rows + plane * w.frame.height + row * w.dilation_h) * w.out_w);
    }
  }

  template <class T>
  void copy(const T* image) const {
    windows.frame.fill(image, frame);
    C* to = copies;
    for (std::int64_t s = 0; s < windows.kernel_w; ++s) {
      const C* from = frame + s * windows.dilation_w;
      for (std::int64_t i = 0; i < rows; ++i, from += windows.frame.width, to += windows.out_w) {
        for (std::int64_t j = 0; j < windows.out_w; j += lanes<C>) store_vector(to + j, load_vector(from + j));
      }
    }
  }
};

/// sum[row][tap], a vector of parts each and rows `ld` apart, += the products of dy's row, of n pixels, and of x at the
/// tap's distance.
template <int Taps, int Rows, class T, class C>
ANNEAL_HD void dot_rows(const T* dy, const C* x, const std::int32_t* distance, std::int64_t n, C* sum,
                        std::int64_t ld) {
  constexpr int width = lanes<C>;
  Vector<C> parts[Rows][Taps];
#pragma GCC unroll 3
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 9
    for (int t = 0; t < Taps; ++t) parts[r][t] = load_vector(sum + r * ld + t * width);
  }
  const auto add = [&](std::int64_t i, int some) __attribute__((always_inline)) {
    Vector<C> y[Rows];
#pragma GCC unroll 3
    for (int r = 0; r < Rows; ++r) {
      y[r] = load_first(dy + r * n + i, some);
      __builtin_prefetch(dy + (r + Rows) * n + i);
    }
#pragma GCC unroll 9
    for (int t = 0; t < Taps; ++t) {
      const Vector<C> v = load_first(x + distance[t] + i, some);
#pragma GCC unroll 3
      for (int r = 0; r < Rows; ++r) parts[r][t] += y[r] * v;
    }
  };
  std::int64_t i = 0;
  for (; i + width <= n; i += width) add(i, width);
  if (i < n) add(i, static_cast<int>(n - i));
#pragma GCC unroll 3
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 9
    for (int t = 0; t < Taps; ++t) store_vector(sum + r * ld + t * width, parts[r][t]);
  }
}

/// dot_rows for as many rows as there are.
template <int Taps, class T, class C, int Rows = vector_registers == 32 ? 3 : 1>
void dot_all_rows(std::int64_t rows, const T* dy, const C* x, const std::int32_t* distance, std::int64_t n, C* sum,
                  std::int64_t ld) {
  for (; rows >= Rows; rows -= Rows, dy += Rows * n, sum += Rows * ld)
    dot_rows<Taps, Rows>(dy, x, distance, n, sum, ld);
  if constexpr (Rows > 1) dot_all_rows<Taps, T, C, Rows - 1>(rows, dy, x, distance, n, sum, ld);
}

/// dot_all_rows for as many taps as there are.
template <class T, class C, int Taps = 1>
auto* dot_all_rows_of(std::int64_t taps) {
  if constexpr (Taps < shallow_taps) {
    if (taps > Taps) return dot_all_rows_of<T, C, Taps + 1>(taps);
  }
  return &dot_all_rows<Taps, T, C>;
}

}  // namespace kernels::cpu::ANNEAL_LEVEL
}  // namespace v0
}  // namespace anneal
