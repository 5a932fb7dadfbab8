// Matrix products, blocked for registers and caches, for gemm.cpp and conv.cpp. Three levels: `tile` keeps a block of C
// in registers, `strips` cuts rows into tiles, `multiply` cuts everything else and asks its operands for pieces of
// themselves, so that an operand may be a matrix of any layout and type or the patches of images.
#pragma once

#include <cstdint>

#include "anneal/kernels/cpu/scratch.h"
#include "anneal/kernels/cpu/simd.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu::ANNEAL_LEVEL {

/// A tile of C: up to 6 rows by 4 vectors in 32 registers, by 2 in 16.
inline constexpr int tile_rows = 6;
inline constexpr int tile_vectors = vector_registers == 32 ? 4 : 2;
template <class C>
inline constexpr int tile_columns = tile_vectors* lanes<C>;

/// How many of the `left` rows (or vectors) the next tile takes: a full tile, unless the last two are better evened
/// out.
constexpr int next_tile(std::int64_t left, int full) {
  return static_cast<int>(left <= full ? left : left < 2 * full ? (left + 1) / 2 : full);
}

/// What happens to a sum before it is stored: C's value added, a bias of its row or of its column (or null), ReLU.
template <class C>
struct Epilogue {
  bool add = false;
  const C* row_bias = nullptr;
  const C* column_bias = nullptr;
  bool relu = false;
};

/// Where a row's element k lies: side by side, or as a table says.
struct Dense {
  ANNEAL_HD std::int64_t operator()(std::int64_t k) const { return k; }
};
struct Table32 {
  const std::int32_t* offset;
  ANNEAL_HD std::int64_t operator()(std::int64_t k) const { return offset[k]; }
};

/// k rows of B that a tile's columns need, `ld` apart.
template <class C>
struct Panel {
  const C* data;
  std::int64_t ld;
};

/// C's rows [0, Rows) = the sum over k of rows[i][walk(k)] * b[k]. The last vector has `last` columns.
template <class C, int Rows, int Vectors, class Walk>
[[gnu::noinline]] void tile(const C* const* rows, Walk walk, std::int64_t k, Panel<C> b, C* c, std::int64_t ldc,
                            int last, const Epilogue<C>& epilogue) {
  constexpr int n = lanes<C>;
  const C* a[Rows];
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) a[i] = rows[i];
  Vector<C> sum[Rows][Vectors] = {};
#pragma GCC unroll 1
  for (std::int64_t p = 0; p < k; ++p) {
    const std::int64_t at = walk(p);
    Vector<C> row[Vectors];
#pragma GCC unroll 8
    for (int j = 0; j < Vectors; ++j) row[j] = load_vector(b.data + j * n);
    b.data += b.ld;
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
      const C x = a[i][at];
#pragma GCC unroll 8
      for (int j = 0; j < Vectors; ++j) sum[i][j] += row[j] * x;
    }
  }
  const auto update = [&](auto&& f) __attribute__((always_inline)) {
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < Vectors; ++j) sum[i][j] = f(sum[i][j], i, j * n, j == Vectors - 1 ? last : n);
    }
  };
  using V = Vector<C>;
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
template <class C, class Walk, int Rows = tile_rows, int Vectors = tile_vectors>
ANNEAL_HD auto* tile_of(int r, int v) {
  if constexpr (Rows > 1) {
    if (r < Rows) return tile_of<C, Walk, Rows - 1, Vectors>(r, v);
  }
  if constexpr (Vectors > 1) {
    if (v < Vectors) return tile_of<C, Walk, Rows, Vectors - 1>(r, v);
  }
  return &tile<C, Rows, Vectors, Walk>;
}

/// C[0..m)[0..columns) for one panel; `row(i)` is where A's row i begins.
template <class C, class Walk, class Row>
ANNEAL_HD void strips(std::int64_t m, int columns, std::int64_t k, const Row& row, Walk walk, Panel<C> b, C* c,
                      std::int64_t ldc, Epilogue<C> epilogue) {
  const int vectors = (columns + lanes<C> - 1) / lanes<C>;
  const int last = columns - (vectors - 1) * lanes<C>;
  for (std::int64_t i = 0; i < m;) {
    const int r = next_tile(m - i, tile_rows);
    const C* rows[tile_rows];
    for (int s = 0; s < r; ++s) rows[s] = row(i + s);
    tile_of<C, Walk>(r, vectors)(rows, walk, k, b, c + i * ldc, ldc, last, epilogue);
    if (epilogue.row_bias) epilogue.row_bias += r;
    i += r;
  }
}

/// The width of the next panel of `left` columns.
template <class C>
ANNEAL_HD int next_panel(std::int64_t left) {
  const std::int64_t width = next_tile((left + lanes<C> - 1) / lanes<C>, tile_vectors) * lanes<C>;
  return static_cast<int>(left < width ? left : width);
}

/// Cuts a sum over k into even blocks whose panels stay in the second-level cache.
template <class C>
ANNEAL_HD std::int64_t block_of_k(std::int64_t k) {
  constexpr std::int64_t most = vector_bytes == 64 ? 512 : 256;
  const std::int64_t blocks = (k + most - 1) / most;
  return blocks <= 1 ? k : ((k + blocks - 1) / blocks + lanes<C> - 1) / lanes<C> * lanes<C>;
}

/// C[m, n] = A B, then `epilogue`. `a(i, rows, k, depth)` and `b(k, depth, j, columns, rows)` are Panels of A's rows
/// and of B's columns, for at most `block_rows` rows.
template <class C, class A, class B>
ANNEAL_HD void multiply(std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t block_rows, const A& a, const B& b,
                        C* c, std::int64_t ldc, const Epilogue<C>& epilogue) {
  const std::int64_t block_k = block_of_k<C>(k);
  for (std::int64_t i = 0; i < m; i += block_rows) {
    const std::int64_t rows = m - i < block_rows ? m - i : block_rows;
    std::int64_t p = 0;
    do {
      const std::int64_t depth = k - p < block_k ? k - p : block_k;
      const bool is_last = p + depth == k;
      const Panel<C> from = a(i, rows, p, depth);
      for (std::int64_t j = 0; j < n;) {
        const int columns = next_panel<C>(n - j);
        const Epilogue<C> e{epilogue.add || p > 0, is_last && epilogue.row_bias ? epilogue.row_bias + i : nullptr,
                            is_last && epilogue.column_bias ? epilogue.column_bias + j : nullptr,
                            is_last && epilogue.relu};
        strips(
            rows, columns, depth, [&](std::int64_t r) { return from.data + r * from.ld; }, Dense{},
            b(p, depth, j, columns, rows), c + i * ldc + j, ldc, e);
        j += columns;
      }
      p += depth;
    } while (p < k);
  }
}

/// to[i][j] = from[i][j], converted.
template <class To, class From>
void copy_matrix(std::int64_t rows, std::int64_t columns, const From* from, std::int64_t ld_from, To* to,
                 std::int64_t ld_to) {
  constexpr int n = lanes<Compute<From>>;
  for (std::int64_t i = 0; i < rows; ++i, from += ld_from, to += ld_to) {
    std::int64_t j = 0;
    for (; j + n <= columns; j += n) store_vector(to + j, load_vector(from + j));
    if (j < columns)
      store_first(to + j, load_first(from + j, static_cast<int>(columns - j)), static_cast<int>(columns - j));
  }
}

/// to[j][i] = from[i][j], converted.
template <class To, class From>
void transpose_matrix(std::int64_t rows, std::int64_t columns, const From* from, std::int64_t ld_from, To* to,
                      std::int64_t ld_to) {
  using C = Compute<From>;
  constexpr int n = lanes<C>;
  for (std::int64_t i = 0; i < rows; i += n) {
    const int r = rows - i < n ? static_cast<int>(rows - i) : n;
    for (std::int64_t j = 0; j < columns; j += n) {
      const int s = columns - j < n ? static_cast<int>(columns - j) : n;
      const From* f = from + i * ld_from + j;
      To* t = to + j * ld_to + i;
      Vector<C> v[n];
      if (r == n && s == n) {
#pragma GCC unroll 16
        for (int x = 0; x < n; ++x) v[x] = load_vector(f + x * ld_from);
        transpose<C>(v);
#pragma GCC unroll 16
        for (int x = 0; x < n; ++x) store_vector(t + x * ld_to, v[x]);
      } else {
        for (int x = 0; x < n; ++x) v[x] = x < r ? load_first(f + x * ld_from, s) : Vector<C>{};
        transpose<C>(v);
        for (int x = 0; x < s; ++x) store_first(t + x * ld_to, v[x], r);
      }
    }
  }
}

/// The smallest piece, of `count` that make up `flops`, that is worth a thread of its own.
ANNEAL_HD std::int64_t grain_of(std::int64_t count, double flops) {
  if (flops < 2e5) return count;
  const auto grain = static_cast<std::int64_t>(1e5 * static_cast<double>(count) / flops);
  return grain < 1 ? 1 : grain;
}

}  // namespace kernels::cpu::ANNEAL_LEVEL
}  // namespace v0
}  // namespace anneal
