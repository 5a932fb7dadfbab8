// A matrix operand of a product: its lines are the rows of op(A) or the columns of op(B), and each runs along k.
#pragma once

#include <cstdint>
#include <type_traits>

#include "anneal/kernels/cpu/pack.h"
#include "anneal/kernels/cpu/tile.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu::ANNEAL_LEVEL {

#if defined(__AVX512BF16__)
/// What a tile takes for numbers of T.
template <class T>
using Element = std::conditional_t<std::is_same_v<T, bf16>, Pair, Compute<T>>;

/// Up to `lanes` 16-bit numbers, and zeros after them.
ANNEAL_HD HalfBits load_halves(const bf16* from, std::int64_t n) {
  return __builtin_bit_cast(HalfBits, _mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << n) - 1), from));
}
#else
template <class T>
using Element = Compute<T>;
#endif
/// How many steps along k an element is; an odd last step is paired with zero.
template <class T>
inline constexpr int steps = std::is_same_v<Element<T>, Pair> ? 2 : 1;

template <class T>
struct Operand {
  using E = Element<T>;

  const T* data;
  std::int64_t ld;
  bool along_k;    ///< k runs along the rows of the matrix as stored, else across them
  std::int64_t k;  ///< in numbers of T

  std::int64_t depth() const { return (k + steps<T> - 1) / steps<T>; }
  Operand from(std::int64_t line) const { return {data + line * (along_k ? ld : 1), ld, along_k, k}; }

  /// Whether `in_place` has the elements of a line side by side.
  bool has_lines() const {
    if constexpr (std::is_same_v<E, T>) return along_k;
    else if constexpr (std::is_same_v<E, Pair>) return along_k && k % 2 == 0 && ld % 2 == 0;
    else return false;
  }
  /// Whether `in_place` has the same element of all lines side by side.
  bool has_columns() const { return std::is_same_v<E, T> && !along_k; }
  /// From element p of `line` on; for those who have asked.
  Panel<E> in_place(std::int64_t line, std::int64_t p) const {
    const T* at = data + (along_k ? line * ld + p * steps<T> : p * ld + line);
    return {reinterpret_cast<const E*>(at), ld / steps<T>};
  }

  /// to[i][p] = element `first` + p of line i; for those whose k runs along.
  void pack_lines(std::int64_t lines, std::int64_t first, std::int64_t depth, E* to, std::int64_t to_ld) const {
    copy_loaded(
        lines, depth, [&](std::int64_t i, std::int64_t p, int n) { return load(i, first + p, n); }, to, to_ld);
  }
  /// Strips of lines, `cut(left)` of the lines left in each: the one that begins at line i lies at to + i * ld, where
  /// the same element of its lines is side by side, at distances `stride_of(lines)`.
  template <class Cut, class StrideOf>
  void pack_strips(std::int64_t lines, std::int64_t first, std::int64_t depth, E* to, std::int64_t ld, const Cut& cut,
                   const StrideOf& stride_of) const {
    if (along_k) {
      for (std::int64_t i = 0; i < lines;) {
        const int some = cut(lines - i);
        transpose_loaded(
            some, depth, [&](std::int64_t s, std::int64_t p, int v) { return load(i + s, first + p, v); }, to + i * ld,
            stride_of(some));
        i += some;
      }
      return;
    }
    for (std::int64_t begin = 0; begin < lines;) {
      std::int64_t end = begin;  // of some strips, each of which is a stream of stores
      while (end < lines && end < begin + 240) end += cut(lines - end);
      for (std::int64_t p = 0; p < depth; ++p) {
        prefetch(first + p + 4, begin, end);
        for (std::int64_t i = begin; i < end;) {
          const int some = cut(lines - i);
          copy_loaded(
              1, some, [&](std::int64_t, std::int64_t s, int v) { return load(first + p, i + s, v); },
              to + i * ld + p * stride_of(some), 0);
          i += some;
        }
      }
      begin = end;
    }
  }

 private:
  /// Rows lie far apart, so that the processor does not see which one comes next.
  ANNEAL_HD void prefetch(std::int64_t row, std::int64_t begin, std::int64_t end) const {
    for (int s = 0; s < steps<T>; ++s) {
      for (const T *at = data + (row * steps<T> + s) * ld + begin, *last = at + (end - begin); at < last;
           at += 64 / sizeof(T))
        __builtin_prefetch(at);
    }
  }

  /// n elements of a row as stored (of two rows, where pairs run across them).
  ANNEAL_HD Vector<E> load(std::int64_t row, std::int64_t column, int n) const {
#if defined(__AVX512BF16__)
    if constexpr (std::is_same_v<E, Pair>) {
      if (along_k) {
        const std::int64_t left = k - 2 * column;
        const __mmask32 some = ~__mmask32{0} >> (32 - (left < 2 * n ? left : 2 * n));
        return __builtin_bit_cast(Vector<E>, _mm512_maskz_loadu_epi16(some, data + row * ld + 2 * column));
      }
      const T* at = data + 2 * row * ld + column;
      const HalfBits first = load_halves(at, n), second = load_halves(at + ld, 2 * row + 1 < k ? n : 0);
      return __builtin_convertvector(first, Vector<E>) | __builtin_convertvector(second, Vector<E>) << 16;
    } else {
      return load_first(data + row * ld + column, n);
    }
#else
    return load_first(data + row * ld + column, n);
#endif
  }
};

}  // namespace kernels::cpu::ANNEAL_LEVEL
}  // namespace v0
}  // namespace anneal
