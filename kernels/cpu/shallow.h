// Convolutions of few taps to many planes, such as the first layers of networks for grey images. As matrix products
// they would spend their time on copies of patches: here registers hold all taps of some pixels while every plane is
// made of them.
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

}  // namespace kernels::cpu::ANNEAL_LEVEL
}  // namespace v0
}  // namespace anneal
