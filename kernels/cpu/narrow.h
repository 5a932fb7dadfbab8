// Convolutions with so few outputs a group that a matrix product would have hardly any rows: depthwise ones above all.
// Windows are numbered over the pixels of the frame, rows and their margins in one line, so that a tap is one distance
// for all and vectors need not stop at the end of a row. What is between the windows is not kept.
#pragma once

#include "anneal/kernels/cpu/windows.h"
#include "anneal/kernels/parallel.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu::ANNEAL_LEVEL {

/// Whether few enough outputs share a group's pixels.
ANNEAL_HD bool is_narrow(const Windows& windows, std::int64_t planes) {
  return planes <= 4 && (windows.frame.planes == 1 || windows.stride_w == 1);
}

/// A thread's frame for one image of one group.
template <class C>
struct Line {
  static constexpr int at_once = 8 * lanes<C>;
  std::int64_t length;  // of the windows, from the first to the last
  C* frame;
  std::int32_t* tap;  // their distances; the last one is repeated, for blocks of 9

  explicit Line(const Windows& w)
      : length((w.out_h - 1) * w.stride_h * w.frame.width + (w.out_w - 1) * w.stride_w + 1),
        frame(zeros(Scratch::image, w.frame.size() + at_once)),
        tap(scratch<std::int32_t>(Scratch::table, w.taps() + 9)) {
    for (std::int64_t i = 0; w.taps() > 0 && i < w.taps() + 9; ++i) {
      tap[i] = static_cast<std::int32_t>(w.tap_offset(i < w.taps() ? i : w.taps() - 1));
    }
  }

  static C* zeros(Scratch purpose, std::int64_t n) {
    C* memory = scratch<C>(purpose, n);
    __builtin_memset(memory, 0, static_cast<std::size_t>(n) * sizeof(C));
    return memory;
  }
};

/// to[i] = start + the sum over taps of weight[tap] * from[i + distance[tap]], for a block of vectors.
template <int Vectors, class C>
ANNEAL_HD void correlate_block(const C* from, const std::int32_t* distance, const C* weight, std::int64_t taps, C start,
                               C* to) {
  constexpr int n = lanes<C>;
  Vector<C> sum[Vectors];
#pragma GCC unroll 8
  for (int j = 0; j < Vectors; ++j) sum[j] = splat(start);
#pragma GCC unroll 1
  for (std::int64_t t = 0; t < taps; ++t) {
    const C* at = from + distance[t];
    const C w = weight[t];
#pragma GCC unroll 8
    for (int j = 0; j < Vectors; ++j) sum[j] += load_vector(at + j * n) * w;
  }
#pragma GCC unroll 8
  for (int j = 0; j < Vectors; ++j) store_vector(to + j * n, sum[j]);
}
/// The same for whole blocks that cover [begin, end).
template <class C>
void correlate_line(const C* from, const std::int32_t* distance, const C* weight, std::int64_t taps, C start,
                    std::int64_t begin, std::int64_t end, C* to) {
  constexpr int n = lanes<C>;
  for (; end - begin > 4 * n; begin += 8 * n) {
    correlate_block<8>(from + begin, distance, weight, taps, start, to + begin);
  }
  for (; begin < end; begin += 2 * n) correlate_block<2>(from + begin, distance, weight, taps, start, to + begin);
}

/// The dot products of dy's line with x's at nine distances: to[0..9) += them.
template <class C>
void dot_lines(const C* dy, const C* x, const std::int32_t* distance, std::int64_t length, C* to) {
  constexpr int n = lanes<C>;
  Vector<C> sum[9] = {};
#pragma GCC unroll 1
  for (std::int64_t i = 0; i < length; i += n) {
    const Vector<C> v = load_vector(dy + i);
#pragma GCC unroll 9
    for (int t = 0; t < 9; ++t) sum[t] += load_vector(x + i + distance[t]) * v;
  }
  for (int t = 0; t < 9; ++t) {
    for (int half = n / 2; half > 0; half /= 2) {
      for (int l = 0; l < half; ++l) sum[t][l] += sum[t][l + half];
    }
    to[t] += sum[t][0];
  }
}

/// All planes of y: `put(row of windows, values, image, plane, row)`.
template <class T, class Put>
void correlate_narrow(const Windows& w, std::int64_t images, std::int64_t groups, std::int64_t planes, const T* x,
                      const Compute<T>* weight, const Compute<T>* bias, const Put& put) {
  using C = Compute<T>;
  const std::int64_t count = images * groups, size = w.frame.planes * w.frame.h * w.frame.w;
  parallel_for(count, grain_of(count, w.flops(images, planes * groups)), [&](std::int64_t begin, std::int64_t end) {
    const Line<C> line(w);
    C* values = scratch<C>(Scratch::product, line.length + line.at_once);
    for (; begin < end; ++begin) {
      w.frame.fill(x + begin * size, line.frame);
      for (std::int64_t p = 0; p < planes; ++p) {
        const std::int64_t plane = begin % groups * planes + p, row = w.stride_h * w.frame.width;
        const C* at = weight + plane * w.taps();
        const C start = bias ? bias[plane] : C(0);
        if (w.stride_h == 1) correlate_line(line.frame, line.tap, at, w.taps(), start, 0, line.length, values);
        for (std::int64_t i = 0; i < w.out_h; ++i) {
          if (w.stride_h > 1) {
            correlate_line(line.frame, line.tap, at, w.taps(), start, i * row, i * row + (w.out_w - 1) * w.stride_w + 1,
                           values);
          }
          put(begin / groups, plane, i, values + i * row);
        }
      }
    }
  });
}

}  // namespace kernels::cpu::ANNEAL_LEVEL
}  // namespace v0
}  // namespace anneal
