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

/// The next n of up to 16 numbers as the lower halves of pairs with zero.
ANNEAL_HD Vector<Pair> load_halves(const bf16* from, std::int64_t n) {
  const auto bits = _mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << n) - 1), from);
  return __builtin_bit_cast(Vector<Pair>, _mm512_maskz_cvtepu16_epi32(all_lanes, bits));
}
#else
template <class T>
using Element = Compute<T>;
#endif
/// How many steps along k an element is; an odd last step is paired with zero.
template <class T>
inline constexpr int steps = std::is_same_v<Element<T>, Pair> ? 2 : 1;

/// What elements are made from, where numbers of T are copied first: pairs can be of any two.
template <class T>
using Part = std::conditional_t<std::is_same_v<Element<T>, Pair>, T, Compute<T>>;

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
  /// Panels of `width` lines: the one that begins at line i lies at to + i * ld, where element p of line i + l is
  /// number p * w + l, w being the width rounded up to vectors.
  void pack_panels(std::int64_t lines, std::int64_t first, std::int64_t depth, E* to, std::int64_t ld,
                   std::int64_t width) const {
    const std::int64_t w = (width + lanes<E> - 1) / lanes<E> * lanes<E>;
    const auto each = [=](std::int64_t begin, std::int64_t end, const auto& pack) {
      for (std::int64_t i = begin; i < end; i += width) pack(i, width < end - i ? width : end - i, to + i * ld);
    };
    if (along_k) {
      const Operand from = *this;  // captured by value, so that loops need not read it again
      return each(0, lines, [=](std::int64_t i, std::int64_t some, E* panel) {
        transpose_loaded(
            some, depth, [=](std::int64_t l, std::int64_t p, int n) { return from.load(i + l, first + p, n); }, panel,
            w);
      });
    }
    constexpr std::int64_t panels_at_once = 4, rows_at_once = 8;  // each panel is a stream of stores
    for (std::int64_t begin = 0, end; begin < lines; begin = end) {
      end = lines - begin < panels_at_once * width ? lines : begin + panels_at_once * width;
      for (std::int64_t p = 0; p < depth; p += rows_at_once) {
        const std::int64_t rows = depth - p < rows_at_once ? depth - p : rows_at_once;
        each(begin, end, [&](std::int64_t i, std::int64_t some, E* panel) {
          copy_loaded(
              rows, some, [&](std::int64_t r, std::int64_t l, int n) { return load(first + p + r, i + l, n); },
              panel + p * w, w);
        });
      }
    }
  }

  /// The rows of a panel for a tile that packs them as it goes: its products hide the loads and stores. For those whose
  /// k runs across; the last vector has `last` lines.
  struct Packing {
    Operand from;
    std::int64_t row;
    int last;
    E* to;

    template <int Vectors>
    ANNEAL_HD void next(Vector<E> (&panel)[Vectors]) {
      fetch(row + rows_ahead, Vectors * lanes<E>);
#pragma GCC unroll 8
      for (int j = 0; j < Vectors; ++j) {
        panel[j] = from.load(row, j * lanes<E>, j == Vectors - 1 ? last : lanes<E>);
        store_vector(to + j * lanes<E>, panel[j]);
      }
      ++row;
      to += Vectors * lanes<E>;
    }

   private:
    static constexpr std::int64_t rows_ahead = 8;
    /// Rows lie far apart, so that the processor does not see which ones come next.
    ANNEAL_HD void fetch(std::int64_t later, int width) const {
#pragma GCC unroll 2
      for (std::int64_t r = later * steps<T>; r < (later + 1) * steps<T>; ++r) {
        if (r >= from.k) return;
#pragma GCC unroll 8
        for (int l = 0; l < width; l += 64 / static_cast<int>(sizeof(T)))
          __builtin_prefetch(from.data + r * from.ld + l);
      }
    }
  };

 private:
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
      return load_halves(at, n) | load_halves(at + ld, 2 * row + 1 < k ? n : 0) << 16;
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
