// Matrix products, blocked for registers and caches, for gemm.cpp and conv.cpp. Three levels: `tile` keeps a block of C
// in registers, `strips` cuts rows into tiles, `multiply` cuts everything else and asks its operands for pieces of
// themselves, so that an operand may be a matrix of any layout and type or the patches of images.
#pragma once

#include <cstdint>

#include "anneal/kernels/cpu/pack.h"
#include "anneal/kernels/cpu/scratch.h"
#include "anneal/kernels/cpu/tile.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu::ANNEAL_LEVEL {

/// C[0..m)[0..columns) for one panel; `row(i)` is where A's row i begins.
template <class E, class Walk, class Row>
ANNEAL_HD void strips(std::int64_t m, int columns, std::int64_t k, const Row& row, Walk walk, Panel<E> b, Sum<E>* c,
                      std::int64_t ldc, Epilogue<Sum<E>> epilogue) {
  const int vectors = (columns + lanes<E> - 1) / lanes<E>;
  const int last = columns - (vectors - 1) * lanes<E>;
  for (std::int64_t i = 0; i < m;) {
    const int r = next_tile(m - i, rows_beside(vectors));
    const E* rows[2 * tile_rows];
    for (int s = 0; s < r; ++s) rows[s] = row(i + s);
    tile_of<E, Walk>(r, vectors)(rows, walk, k, b, c + i * ldc, ldc, last, epilogue);
    if (epilogue.row_bias) epilogue.row_bias += r;
    i += r;
  }
}

/// Cuts a sum over k into even blocks whose panels stay in the second-level cache, with `parts` - 1 others of their
/// size.
template <class C>
ANNEAL_HD std::int64_t block_of_k(std::int64_t k, int parts = 1) {
  const std::int64_t most = (vector_bytes == 64 ? 512 : 256) / parts;
  if (k <= most) return k;
  const std::int64_t blocks = (k + most - 1) / most;
  return ((k + blocks - 1) / blocks + lanes<C> - 1) / lanes<C> * lanes<C>;
}

/// C[m, n] = A B of elements E, then `epilogue`. `a(i, rows, k, depth)` and `b(k, depth, j, columns, rows)` are Panels
/// of A's rows and of B's columns, for at most `block_rows` rows.
template <class E, class A, class B>
ANNEAL_HD void multiply(std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t block_rows, const A& a, const B& b,
                        Sum<E>* c, std::int64_t ldc, const Epilogue<Sum<E>>& epilogue) {
  const std::int64_t block_k = block_of_k<E>(k);
  for (std::int64_t i = 0; i < m; i += block_rows) {
    const std::int64_t rows = m - i < block_rows ? m - i : block_rows;
    std::int64_t p = 0;
    do {
      const std::int64_t depth = k - p < block_k ? k - p : block_k;
      const bool is_last = p + depth == k;
      const Panel<E> from = a(i, rows, p, depth);
      for (std::int64_t j = 0; j < n;) {
        const int columns = next_panel<E>(n - j);
        const Epilogue<Sum<E>> e{epilogue.add || p > 0, is_last && epilogue.row_bias ? epilogue.row_bias + i : nullptr,
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

/// The smallest piece, of `count` that make up `flops`, that is worth a thread of its own.
ANNEAL_HD std::int64_t grain_of(std::int64_t count, double flops) {
  if (flops < 2e5) return count;
  const auto grain = static_cast<std::int64_t>(1e5 * static_cast<double>(count) / flops);
  return grain < 1 ? 1 : grain;
}

}  // namespace kernels::cpu::ANNEAL_LEVEL
}  // namespace v0
}  // namespace anneal
