// What attention and its gradient share. Scores are kept in units of log 2, so that their exponentials are powers of
// two: the packed queries carry the factor.
#pragma once

#include <cstdint>

#include "anneal/kernels/cpu/draw.h"
#include "anneal/kernels/cpu/gemm.h"
#include "anneal/kernels/kernels.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu::ANNEAL_LEVEL {

template <class C>
inline constexpr C log2_of_e = static_cast<C>(1.442695040888963407);
template <class C>
inline constexpr C log_of_2 = static_cast<C>(0.693147180559945309);
template <class C>
inline constexpr C infinity = static_cast<C>(__builtin_huge_val());

ANNEAL_HD std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
ANNEAL_HD std::int64_t rounded_up(std::int64_t n, std::int64_t unit) { return (n + unit - 1) / unit * unit; }

/// 2^x for x <= 0, or NaN, within 4e-7 of it (f32).
ANNEAL_HD Vector<float> exp2(Vector<float> x) {
  using V = Vector<float>;
#if defined(__AVX512F__)
  const __m512 bounded = _mm512_maskz_max_ps(all_lanes, _mm512_set1_ps(-200), __builtin_bit_cast(__m512, x));
  const V n = __builtin_bit_cast(V, _mm512_maskz_roundscale_ps(all_lanes, bounded, 0));
  const V r = __builtin_bit_cast(V, bounded) - n;
#else
  using Bits = Vector<std::int32_t>;
  const Bits small = x < -126.0f;
  const V shifted = x + 0x1.8p23f;  // rounds to an integer, which is left in the low bits
  const V r = x - (shifted - 0x1.8p23f);
#endif
  V y = r * 1.326472716e-3f + 9.671512838e-3f;
  y = y * r + 5.550733745e-2f;
  y = y * r + 2.402224208e-1f;
  y = y * r + 6.931469776e-1f;
  y = y * r + 1.0f;
#if defined(__AVX512F__)
  return __builtin_bit_cast(
      V, _mm512_maskz_scalef_ps(all_lanes, __builtin_bit_cast(__m512, y), __builtin_bit_cast(__m512, n)));
#else
  const Bits scaled = __builtin_bit_cast(Bits, y) + (__builtin_bit_cast(Bits, shifted) << 23);
  const Bits nan = x != x;
  return __builtin_bit_cast(V, (scaled & ~small & ~nan) | (__builtin_bit_cast(Bits, x) & nan));
#endif
}
ANNEAL_HD Vector<double> exp2(Vector<double> x) {
  for (int i = 0; i < lanes<double>; ++i) x[i] = __builtin_exp2(x[i]);
  return x;
}

template <class C, int By, int... I>
ANNEAL_HD Vector<C> crossed(Vector<C> v, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(v, v, (I ^ By)...);
}
/// op over the lanes of a vector, in a fixed tree.
template <class C, int By = lanes<C> / 2, class Op>
ANNEAL_HD C folded(Vector<C> v, const Op& op) {
  v = op(v, crossed<C, By>(v, std::make_integer_sequence<int, lanes<C>>{}));
  if constexpr (By > 1) return folded<C, By / 2>(v, op);
  else return v[0];
}
template <class C>
ANNEAL_HD C sum_of(Vector<C> v) {
  return folded<C>(
      v, [](Vector<C> a, Vector<C> b) __attribute__((always_inline)) { return a + b; });
}

template <class C, class Lane, Lane... I>
ANNEAL_HD Vector<C> first_lanes(Vector<C> v, std::int64_t n, C other, std::integer_sequence<Lane, I...>) {
  using Lanes = Vector<Lane>;
  const Lanes inside = Lanes{I...} < static_cast<Lane>(n);
  return __builtin_bit_cast(
      Vector<C>, (__builtin_bit_cast(Lanes, v) & inside) | (__builtin_bit_cast(Lanes, splat(other)) & ~inside));
}
/// The vector with `other` in the lanes n, n + 1, ...
template <class C>
ANNEAL_HD Vector<C> first_lanes(Vector<C> v, std::int64_t n, C other) {
  using Lane = std::conditional_t<sizeof(C) == 4, std::int32_t, std::int64_t>;
  return first_lanes(v, n < 0 ? 0 : n, other, std::make_integer_sequence<Lane, lanes<C>>{});
}

/// Columns of B, in panels as wide as a tile.
template <class C>
struct Columns {
  const C* data;
  std::int64_t panel, ld;  // distances of panels and of rows
};
/// C[m, n] = A B, or += if `add`; A's row i begins at a + i * lda.
template <class C, class Walk>
ANNEAL_HD void product(std::int64_t m, std::int64_t n, std::int64_t k, const C* a, std::int64_t lda, Walk walk,
                       Columns<C> b, C* c, std::int64_t ldc, bool add) {
  constexpr int width = tile_columns<C>;
  for (std::int64_t j = 0; j < n; j += width, b.data += b.panel) {
    strips(
        m, static_cast<int>(least(n - j, width)), k, [&](std::int64_t i) { return a + i * lda; }, walk,
        Panel<C>{b.data, b.ld}, c + j, ldc, Epilogue<C>{.add = add});
  }
}

/// Asks for a row that will be read soon. Rows of a head lie apart, where processors do not look ahead; and often in
/// the same few sets of the first-level cache, so it is the second that they are brought to.
template <class T>
ANNEAL_HD void prefetch(const T* row, std::int64_t n) {
  for (std::int64_t x = 0; x < n; x += 64 / std::int64_t{sizeof(T)}) __builtin_prefetch(row + x, 0, 2);
}
inline constexpr std::int64_t rows_ahead = 16;

/// Rows of one head, converted and multiplied by a factor: `ld` apart, a multiple of the vector.
template <class C>
struct PackedRows {
  C* data;
  std::int64_t ld;

  static constexpr std::int64_t distance(std::int64_t depth) { return (depth + lanes<C> - 1) / lanes<C> * lanes<C>; }

  template <class T>
  ANNEAL_HD void fill(const T* from, std::int64_t stride, std::int64_t rows, std::int64_t depth, C factor) const {
    for (std::int64_t i = 0; i < rows; ++i) {
      prefetch(from + (i + rows_ahead) * stride, depth);
      for (std::int64_t d = 0; d < depth; d += lanes<C>) {
        const int n = static_cast<int>(least(depth - d, lanes<C>));
        store_vector(data + i * ld + d, load_first(from + i * stride + d, n) * factor);
      }
    }
  }
  ANNEAL_HD C* row(std::int64_t i) const { return data + i * ld; }
  ANNEAL_HD Columns<C> columns(std::int64_t from) const { return {row(from), tile_columns<C>, ld}; }
};

/// Rows of one head transposed: [rows / tile_columns][depth][tile_columns], the last panel filled up with zeros.
template <class C>
struct PackedColumns {
  static constexpr std::int64_t width = tile_columns<C>;
  C* data;
  std::int64_t depth;

  static constexpr std::int64_t size(std::int64_t rows, std::int64_t depth) {
    return (rows + width - 1) / width * width * depth;
  }
  template <class T>
  ANNEAL_HD void fill(const T* from, std::int64_t stride, std::int64_t rows) const {
    constexpr std::int64_t at_once = lanes<C>;
    if (rows % width)
      __builtin_memset(data + rows / width * width * depth, 0, static_cast<std::size_t>(width * depth) * sizeof(C));
    for (std::int64_t j = 0; j < rows; j += at_once) {
      for (std::int64_t ahead = j + at_once; ahead < j + 2 * at_once; ++ahead) prefetch(from + ahead * stride, depth);
      transpose_matrix(least(rows - j, at_once), depth, from + j * stride, stride,
                       data + j / width * width * depth + j % width, width);
    }
  }
  ANNEAL_HD Columns<C> columns(std::int64_t from) const { return {data + from * depth, width * depth, width}; }
};

/// The element at the beginning of a head's row.
template <class T>
ANNEAL_HD T* row_of(T* data, const HeadStrides& strides, std::int64_t b, std::int64_t h, std::int64_t row) {
  return data + b * strides.batch + h * strides.head + row * strides.row;
}

/// Writes packed rows times a factor each.
template <class T, class Factor>
ANNEAL_HD void write_rows(const PackedRows<Compute<T>>& from, std::int64_t rows, std::int64_t depth,
                          const Factor& factor, T* to, std::int64_t stride) {
  using C = Compute<T>;
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t d = 0; d < depth; d += lanes<C>) {
      store_first(to + r * stride + d, load_vector(from.row(r) + d) * factor(r),
                  static_cast<int>(least(depth - d, lanes<C>)));
    }
  }
}

/// Applies the mask to the scores of n keys from `key` on of a query.
template <class T>
ANNEAL_HD void apply_mask(const AttentionInputs& a, std::int64_t b, std::int64_t h, std::int64_t query,
                          std::int64_t key, std::int64_t n, Compute<T>* scores) {
  using C = Compute<T>;
  const std::int64_t step = a.mask_strides[3];
  const std::int64_t at = b * a.mask_strides[0] + h * a.mask_strides[1] + query * a.mask_strides[2] + key * step;
  if (a.mask_dtype == DType::boolean) {
    const auto* const mask = static_cast<const std::uint8_t*>(a.mask) + at;
    for (std::int64_t j = 0; j < n; ++j) scores[j] = mask[j * step] ? scores[j] : -infinity<C>;
  } else {
    const T* const mask = static_cast<const T*>(a.mask) + at;
    for (std::int64_t j = 0; j < n; ++j) scores[j] += load(mask[j * step]) * log2_of_e<C>;
  }
}

/// The words that decide which of n keys from `key` on, a multiple of 4, a query's dropout keeps. Writes whole chunks.
ANNEAL_HD void draw_row(const AttentionInputs& a, std::int64_t b, std::int64_t h, std::int64_t query, std::int64_t key,
                        std::int64_t n, std::uint32_t* words) {
  const std::uint64_t first = (a.position(b, h, query) + static_cast<std::uint64_t>(key)) / 4;
  for (std::int64_t j = 0; j < n; j += chunk_size)
    draw(a.seed, first + static_cast<std::uint64_t>(j / 4), 0, words + j);
}
template <class C>
ANNEAL_HD void drop(const std::uint32_t* words, std::uint32_t threshold, std::int64_t n, C* x) {
  for (std::int64_t j = 0; j < n; ++j) x[j] = philox::keeps(words[j], threshold) ? x[j] : C(0);
}
/// What the kept ones are multiplied by.
template <class C>
ANNEAL_HD C keep_factor(const AttentionInputs& a) {
  return a.dropout < 1 ? static_cast<C>(1 / (1 - a.dropout)) : C(0);
}

/// The i-th of n pieces of a head's queries, in an order in which runs of any length cost about the same though later
/// queries see more keys: 0, n - 1, 1, n - 2, ...
ANNEAL_HD std::int64_t balanced(std::int64_t i, std::int64_t n) { return i % 2 == 0 ? i / 2 : n - 1 - i / 2; }

ANNEAL_HD double flops_of(const AttentionInputs& a) {
  return 2.0 * static_cast<double>(a.batch * a.heads) * static_cast<double>(a.queries) * static_cast<double>(a.keys) *
         static_cast<double>(a.depth + a.value_depth) * (a.causal ? 0.5 : 1.0);
}

}  // namespace kernels::cpu::ANNEAL_LEVEL
}  // namespace v0
}  // namespace anneal
