// Copies of matrices that change type, order or both, for operands that a tile cannot use where they are.
#pragma once

#include <cstdint>
#include <type_traits>

#include "anneal/kernels/cpu/simd.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu::ANNEAL_LEVEL {

/// to[i][j] = load(i, j, n)[0..n), a vector of elements from column j on.
template <class To, class Load>
ANNEAL_HD void copy_loaded(std::int64_t rows, std::int64_t columns, const Load& load, To* to, std::int64_t ld) {
  constexpr int n = lanes<Compute<To>>;
  for (std::int64_t i = 0; i < rows; ++i, to += ld) {
    std::int64_t j = 0;
    for (; j + n <= columns; j += n) store_vector(to + j, load(i, j, n));
    const int rest = static_cast<int>(columns - j);
    if (rest > 0) store_first(to + j, load(i, j, rest), rest);
  }
}

/// to[j][i] = load(i, j, n)[0..n), a vector of elements from column j on.
template <class To, class Load>
ANNEAL_HD void transpose_loaded(std::int64_t rows, std::int64_t columns, const Load& load, To* to, std::int64_t ld) {
  using C = Compute<To>;
  constexpr int n = lanes<C>;
  for (std::int64_t i = 0; i < rows; i += n) {
    const int r = rows - i < n ? static_cast<int>(rows - i) : n;
    for (std::int64_t j = 0; j < columns; j += n) {
      const int s = columns - j < n ? static_cast<int>(columns - j) : n;
      To* t = to + j * ld + i;
      Vector<C> v[n];
      if (r == n && s == n) {
#pragma GCC unroll 16
        for (int x = 0; x < n; ++x) v[x] = load(i + x, j, n);
        transpose<C>(v);
#pragma GCC unroll 16
        for (int x = 0; x < n; ++x) store_vector(t + x * ld, v[x]);
      } else {
        for (int x = 0; x < n; ++x) v[x] = x < r ? load(i + x, j, s) : Vector<C>{};
        transpose<C>(v);
        for (int x = 0; x < s; ++x) store_first(t + x * ld, v[x], r);
      }
    }
  }
}

/// Loads from a matrix as it is, converting.
template <class From>
struct MatrixLoad {
  const From* data;
  std::int64_t ld;
  ANNEAL_HD Vector<Compute<From>> operator()(std::int64_t i, std::int64_t j, int n) const {
    return load_first(data + i * ld + j, n);
  }
};

/// to[i][j] = from[i][j], converted.
template <class To, class From>
void copy_matrix(std::int64_t rows, std::int64_t columns, const From* from, std::int64_t ld_from, To* to,
                 std::int64_t ld_to) {
  copy_loaded(rows, columns, MatrixLoad<From>{from, ld_from}, to, ld_to);
}

/// to[i * step] = from[i] for i below n, converted; nothing between them is touched.
template <class To, class From>
void copy_apart(std::int64_t n, const From* from, To* to, std::int64_t step) {
  constexpr int width = lanes<Compute<To>>;
  if (step == 1) return copy_matrix(1, n, from, 0, to, 0);
  if (step > 2) {
    for (std::int64_t i = 0; i < n; ++i) to[i * step] = store<To>(load(from[i]));
    return;
  }
  for (std::int64_t i = 0; i < n; i += width) {
    const int some = n - i < width ? static_cast<int>(n - i) : width;
    store_every_other(to + 2 * i, load_first(from + i, some), some);
  }
}

/// to[j][i] = from[i][j], converted.
template <class To, class From>
void transpose_matrix(std::int64_t rows, std::int64_t columns, const From* from, std::int64_t ld_from, To* to,
                      std::int64_t ld_to) {
  transpose_loaded(rows, columns, MatrixLoad<From>{from, ld_from}, to, ld_to);
}

}  // namespace kernels::cpu::ANNEAL_LEVEL
}  // namespace v0
}  // namespace anneal
