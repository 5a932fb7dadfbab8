// A block of a matrix product in registers: the innermost loop of matrix products, convolutions and attention.
#pragma once

#include <cstdint>
#include <type_traits>

#include "anneal/kernels/cpu/simd.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu::ANNEAL_LEVEL {

/// Two neighbours along k of a bf16 operand, the first in the lower half: a processor with a dot product multiplies
/// and adds both at once. Elsewhere an operand is made of the numbers that it is computed in.
using Pair = std::uint32_t;
/// What products of elements E add up to.
template <class E>
using Sum = std::conditional_t<std::is_same_v<E, Pair>, float, E>;

/// A tile of C: up to 6 rows by 4 vectors in 32 registers, by 2 in 16.
inline constexpr int tile_rows = 6;
inline constexpr int tile_vectors = vector_registers == 32 ? 4 : 2;
template <class C>
inline constexpr int tile_columns = tile_vectors* lanes<C>;
/// The rows of a tile that is narrower: as many sums, but not more rows than there are registers for their addresses.
constexpr int rows_beside(int vectors) {
  const int rows = tile_rows * tile_vectors / vectors;
  return rows < 2 * tile_rows ? rows : 2 * tile_rows;
}

/// What happens to a sum before it is stored: C's value added, a bias of its row or of its column (or null), ReLU.
/// `partial` (or null), `ld_partial` apart, is what an earlier part of the sum came to.
template <class C>
struct Epilogue {
  bool add = false;
  const C* row_bias = nullptr;
  const C* column_bias = nullptr;
  bool relu = false;
  const C* partial = nullptr;
  std::int64_t ld_partial = 0;
};

/// Where a row's element k lies: side by side, some distance apart, or as a table says.
struct Dense {
  ANNEAL_HD std::int64_t operator()(std::int64_t k) const { return k; }
};
struct Strided {
  std::int64_t step;
  ANNEAL_HD std::int64_t operator()(std::int64_t k) const { return k * step; }
};
struct Table32 {
  const std::int32_t* offset;
  ANNEAL_HD std::int64_t operator()(std::int64_t k) const { return offset[k]; }
};

/// Rows of an operand, `ld` apart: of A, or the k rows of B that a tile's columns need.
template <class E>
struct Panel {
  const E* data;
  std::int64_t ld;

  /// The next row, as vectors.
  template <int Vectors>
  ANNEAL_HD void next(Vector<E> (&row)[Vectors]) {
#pragma GCC unroll 8
    for (int j = 0; j < Vectors; ++j) row[j] = load_vector(data + j * lanes<E>);
    data += ld;
  }
};

/// sum + b * a
template <class C>
ANNEAL_HD Vector<C> multiply_add(Vector<C> sum, Vector<C> b, C a) {
  return sum + b * a;
}
#if defined(__AVX512BF16__)
ANNEAL_HD Vector<float> multiply_add(Vector<float> sum, Vector<Pair> b, Pair a) {
  return __builtin_bit_cast(Vector<float>,
                            _mm512_dpbf16_ps(__builtin_bit_cast(__m512, sum), __builtin_bit_cast(__m512bh, b),
                                             __builtin_bit_cast(__m512bh, splat(a))));
}
#endif

/// C's rows [0, Rows) = the sum over k of rows[i][walk(k)] * b[k]. The last vector has `last` columns. `b.next` gives
/// B's rows one after another: a Panel's, or those of what packs one meanwhile (operand.h).
template <class E, int Rows, int Vectors, class Walk, class Out, class B = Panel<E>>
[[gnu::noinline]] void tile(const E* const* rows, Walk walk, std::int64_t k, B b, Out* c, std::int64_t ldc, int last,
                            const Epilogue<Sum<E>>& epilogue) {
  using C = Sum<E>;
  using V = Vector<C>;
  constexpr int n = lanes<C>;
  const E* a[Rows];
#pragma GCC unroll 12
  for (int i = 0; i < Rows; ++i) a[i] = rows[i];
  if (k >= 48) {  // long enough to fetch C meanwhile
#pragma GCC unroll 12
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < Vectors; ++j) __builtin_prefetch(c + i * ldc + j * n);
    }
  }
  V sum[Rows][Vectors] = {};
#pragma GCC unroll 1
  for (std::int64_t p = 0; p < k; ++p) {
    const std::int64_t at = walk(p);
    Vector<E> row[Vectors];
    b.next(row);
#pragma GCC unroll 12
    for (int i = 0; i < Rows; ++i) {
      E x;
      __builtin_memcpy(&x, a[i] + at, sizeof x);  // a Pair lies in an array of bf16
#pragma GCC unroll 8
      for (int j = 0; j < Vectors; ++j) sum[i][j] = multiply_add(sum[i][j], row[j], x);
    }
  }
  const auto update = [&](auto&& f) __attribute__((always_inline)) {
#pragma GCC unroll 12
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < Vectors; ++j) sum[i][j] = f(sum[i][j], i, j * n, j == Vectors - 1 ? last : n);
    }
  };
  if (epilogue.partial) {
    update([&](V v, int i, int j, int some) {
      return v + load_first(epilogue.partial + i * epilogue.ld_partial + j, some);
    });
  }
  if (epilogue.add) update([&](V v, int i, int j, int some) { return v + load_first(c + i * ldc + j, some); });
  if (epilogue.row_bias) update([&](V v, int i, int, int) { return v + epilogue.row_bias[i]; });
  if (epilogue.column_bias)
    update([&](V v, int, int j, int some) { return v + load_first(epilogue.column_bias + j, some); });
  if (epilogue.relu) update([&](V v, int, int, int) { return relu<C>(v); });
  update([&](V v, int i, int j, int some) {
    store_first(c + i * ldc + j, v, some);
    return v;
  });
}

/// The tile of `r` rows and `v` vectors.
template <class E, class Walk, class Out = Sum<E>, int Vectors = tile_vectors, int Rows = rows_beside(Vectors)>
ANNEAL_HD auto* tile_of(int r, int v) {
  if constexpr (Vectors > 1) {
    if (v < Vectors) return tile_of<E, Walk, Out, Vectors - 1>(r, v);
  }
  if constexpr (Rows > 1) {
    if (r < Rows) return tile_of<E, Walk, Out, Vectors, Rows - 1>(r, v);
  }
  return &tile<E, Rows, Vectors, Walk, Out>;
}

/// How many of the `left` rows (or vectors) the next tile takes: a full tile, unless the last two are better evened
/// out.
constexpr int next_tile(std::int64_t left, int full) {
  return static_cast<int>(left <= full ? left : left < 2 * full ? (left + 1) / 2 : full);
}

/// The width of the next panel of `left` columns.
template <class C>
ANNEAL_HD int next_panel(std::int64_t left) {
  const std::int64_t width = next_tile((left + lanes<C> - 1) / lanes<C>, tile_vectors) * lanes<C>;
  return static_cast<int>(left < width ? left : width);
}

}  // namespace kernels::cpu::ANNEAL_LEVEL
}  // namespace v0
}  // namespace anneal
