// The patches of a convolution as an operand of matrix products.
#pragma once

#include "anneal/kernels/cpu/operand.h"
#include "anneal/kernels/cpu/windows.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu::ANNEAL_LEVEL {

/// The patches of a panel's pixels, as the matrix B [taps, pixels] of a product.
template <class T>
struct Patches {
  using E = Element<T>;
  /// Pixels side by side in y's row.
  struct Run {
    std::int64_t from;
    int to, length;
  };
  const Windows& windows;
  const std::int32_t* tap_offset;
  std::int64_t taps;
  const Part<T>* frames;
  int runs = 0;
  Run run[tile_columns<E>];

  Patches(const Windows& over, const std::int32_t* offset, const Part<T>* at, std::int64_t pixel, int columns)
      : windows(over), tap_offset(offset), taps(over.taps()), frames(at) {
    for (int to = 0; to < columns;) {
      const std::int64_t left = windows.out_w - (pixel + to) % windows.out_w;
      const int length = left < columns - to ? static_cast<int>(left) : columns - to;
      run[runs++] = {windows.pixel_offset(pixel + to), to, length};
      to += length;
    }
  }

  /// `first` and `depth` count elements.
  Panel<E> operator()(std::int64_t first, std::int64_t depth, std::int64_t, int columns, std::int64_t) const {
    const int width = (columns + lanes<E> - 1) / lanes<E> * lanes<E>;
    E* panel = scratch<E>(Scratch::panel, depth * width + lanes<E>);
    if (windows.stride_w == 1) pack<1>(first, depth, panel, width);
    else if (windows.stride_w == 2) pack<2>(first, depth, panel, width);
    else pack<0>(first, depth, panel, width);
    return {panel, width};
  }

  /// Whole vectors are written: what is too much is overwritten by the next run.
  template <int Stride>
  void pack(std::int64_t first, std::int64_t depth, E* to, int width) const {
    for (std::int64_t e = first; e < first + depth; ++e, to += width) {
      for (int i = 0; i < runs; ++i) {
        for (int x = 0; x < run[i].length; x += lanes<E>) {
          store_vector(to + run[i].to + x, load_element<Stride>(e, run[i].from, x, run[i].length));
        }
      }
    }
  }

 private:
  /// Element e of the windows x, x + 1, ... of a run of `length`.
  template <int Stride>
  ANNEAL_HD Vector<E> load_element(std::int64_t e, std::int64_t from, int x, int length) const {
    if constexpr (std::is_same_v<E, Pair>) {
      const Vector<E> low = load_halves<Stride>(frames + tap_offset[2 * e] + from, x, length);
      if (2 * e + 1 == taps) return low;
      return low | load_halves<Stride>(frames + tap_offset[2 * e + 1] + from, x, length) << 16;
    } else {
      const Part<T>* at = frames + tap_offset[e] + from;
      if constexpr (Stride == 1) return load_vector(at + x);
      if constexpr (Stride == 2) return every_other<E>(load_vector(at + 2 * x), load_vector(at + 2 * x + lanes<E>));
      return gather<E>(at, x, length);
    }
  }

  /// The numbers of one tap as the lower halves of pairs with zero.
  template <int Stride>
  ANNEAL_HD Vector<Pair> load_halves(const Part<T>* at, int x, int length) const {
    if constexpr (Stride == 1) {
      HalfBits bits;
      __builtin_memcpy(&bits, at + x, sizeof bits);
      return __builtin_convertvector(bits, Vector<Pair>);
    }
    if constexpr (Stride == 2) {
      Vector<Pair> both;
      __builtin_memcpy(&both, at + 2 * x, sizeof both);
      return both & 0xffffu;
    }
    return gather<Pair>(at, x, length);
  }

  template <class To>
  ANNEAL_HD Vector<To> gather(const Part<T>* at, int x, int length) const {
    To some[lanes<To>] = {};
    for (int l = 0; l < lanes<To> && x + l < length; ++l) {
      const Part<T> value = at[(x + l) * windows.stride_w];
      if constexpr (std::is_same_v<To, Pair>) some[l] = value.bits;
      else some[l] = value;
    }
    return load_vector(some);
  }
};

}  // namespace kernels::cpu::ANNEAL_LEVEL
}  // namespace v0
}  // namespace anneal
