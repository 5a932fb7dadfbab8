// Winograd's form of 3x3 windows, F(4x4, 3x3): the sum over a window costs 36 products for 16 pixels instead of 144. A
// tile is 4x4 pixels of y and the patch of 6x6 pixels of x that they see. All are transformed in vectors whose lanes
// are tiles or channels, into 36 planes that are multiplied like matrices.
#pragma once

#include "anneal/kernels/cpu/gemm.h"
#include "anneal/kernels/cpu/level.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu::ANNEAL_LEVEL {

inline constexpr int wino_planes = 36;

/// The transforms evaluate polynomials at 0, +-a, +-b and infinity. These a and b are exact in few bits, as are their
/// powers here, and lose a third of what the usual 1 and 2 do.
inline constexpr float wino_a = 0.625f, wino_b = 1.5f, wino_aa = wino_a * wino_a, wino_bb = wino_b * wino_b;
inline constexpr float wino_weight_0 = 1 / (wino_aa * wino_bb), wino_weight_a = 1 / (2 * wino_aa * (wino_aa - wino_bb)),
                       wino_weight_b = 1 / (2 * wino_bb * (wino_bb - wino_aa));

/// The one-dimensional transforms, of numbers `step` apart to numbers `to_step` apart: of a patch (6 to 6), ...
struct PatchTransform {
  static constexpr int rows = 6;
  template <class V>
  ANNEAL_HD static void run(const V* d, int step, V* to, int to_step) {
    const V d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step], d5 = d[5 * step];
    const V even_a = d4 - wino_bb * d2, odd_a = d3 - wino_bb * d1, even_b = d4 - wino_aa * d2,
            odd_b = d3 - wino_aa * d1;
    to[0] = wino_aa * wino_bb * d0 - (wino_aa + wino_bb) * d2 + d4;
    to[to_step] = even_a + wino_a * odd_a;
    to[2 * to_step] = even_a - wino_a * odd_a;
    to[3 * to_step] = even_b + wino_b * odd_b;
    to[4 * to_step] = even_b - wino_b * odd_b;
    to[5 * to_step] = wino_aa * wino_bb * d1 - (wino_aa + wino_bb) * d3 + d5;
  }
};
/// ... of a window's weights (3 to 6), ...
template <class V>
ANNEAL_HD void wino_weights(const V* d, int step, V* to, int to_step) {
  const V d0 = d[0], d1 = d[step], d2 = d[2 * step];
  const V even_a = wino_weight_a * (d0 + wino_aa * d2), odd_a = wino_weight_a * wino_a * d1;
  const V even_b = wino_weight_b * (d0 + wino_bb * d2), odd_b = wino_weight_b * wino_b * d1;
  to[0] = wino_weight_0 * d0;
  to[to_step] = even_a + odd_a;
  to[2 * to_step] = even_a - odd_a;
  to[3 * to_step] = even_b + odd_b;
  to[4 * to_step] = even_b - odd_b;
  to[5 * to_step] = d2;
}
/// ... of the products to pixels (6 to 4), ...
template <class V>
ANNEAL_HD void wino_pixels(const V* d, int step, V* to, int to_step) {
  const V even_a = d[step] + d[2 * step], odd_a = d[step] - d[2 * step];
  const V even_b = d[3 * step] + d[4 * step], odd_b = d[3 * step] - d[4 * step];
  to[0] = d[0] + even_a + even_b;
  to[to_step] = wino_a * odd_a + wino_b * odd_b;
  to[2 * to_step] = wino_aa * even_a + wino_bb * even_b;
  to[3 * to_step] = wino_aa * wino_a * odd_a + wino_bb * wino_b * odd_b + d[5 * step];
}
/// ... and the transposes of the last two: of the gradients of pixels (4 to 6) and of products to weights (6 to 3).
struct GradTransform {
  static constexpr int rows = 4;
  template <class V>
  ANNEAL_HD static void run(const V* d, int step, V* to, int to_step) {
    const V d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step];
    const V even_a = d0 + wino_aa * d2, odd_a = wino_a * (d1 + wino_aa * d3);
    const V even_b = d0 + wino_bb * d2, odd_b = wino_b * (d1 + wino_bb * d3);
    to[0] = d0;
    to[to_step] = even_a + odd_a;
    to[2 * to_step] = even_a - odd_a;
    to[3 * to_step] = even_b + odd_b;
    to[4 * to_step] = even_b - odd_b;
    to[5 * to_step] = d3;
  }
};
template <class V>
ANNEAL_HD void wino_weights_grad(const V* d, int step, V* to, int to_step) {
  const V even_a = wino_weight_a * (d[step] + d[2 * step]), odd_a = wino_weight_a * (d[step] - d[2 * step]);
  const V even_b = wino_weight_b * (d[3 * step] + d[4 * step]), odd_b = wino_weight_b * (d[3 * step] - d[4 * step]);
  to[0] = wino_weight_0 * d[0] + even_a + even_b;
  to[to_step] = wino_a * odd_a + wino_b * odd_b;
  to[2 * to_step] = wino_aa * even_a + wino_bb * even_b + d[5 * step];
}

/// Whether this form is the faster: for channels that fill vectors, and images that do not leave most of a tile empty.
ANNEAL_HD bool suits_winograd(const ConvShape& s) {
  const bool plain = s.kernel_h == 3 && s.kernel_w == 3 && s.stride_h == 1 && s.stride_w == 1 && s.dilation_h == 1 &&
                     s.dilation_w == 1 && s.groups == 1;
  const std::int64_t tiles = ((s.out_h() + 3) / 4) * ((s.out_w() + 3) / 4);
  return plain && s.n > 0 && s.c_in >= 16 && s.c_out >= 16 && s.out_h() * s.out_w() >= 6 * tiles;
}

/// Images cut into tiles, numbered along their rows. The patch of tile (i, j) begins at pixel (4 i - top, 4 j - left)
/// of its image, which has h x w pixels.
struct TileGrid {
  std::int64_t images, h, w, top, left, rows, columns;

  std::int64_t tiles() const { return images * rows * columns; }
  /// A tile row's patches as a strip of pixels, whose rows are so long that whole pieces of 8 can be read.
  std::int64_t strip_width() const { return 4 * columns + 4; }

  /// Calls `f(image, at, pixels, to)` for each row of pixels under the tile rows [first, end), cut into strips of so
  /// many rows: pixels from `at` on belong at `to`. What is left over in the strips lies outside of images.
  template <int Rows, class F>
  ANNEAL_HD void for_pixels(std::int64_t first, std::int64_t end, const F& f) const {
    const std::int64_t width = strip_width();
    const std::int64_t x0 = left < 0 ? -left : 0, x1 = w < width - left ? w : width - left;
    if (x0 >= x1) return;
    for (std::int64_t to = left + x0; first < end; ++first, to += Rows * width) {
      const std::int64_t y = first % rows * 4 - top, y1 = h < y + Rows ? h : y + Rows;
      for (std::int64_t i = y < 0 ? 0 : y; i < y1; ++i) f(first / rows, i * w + x0, x1 - x0, to + (i - y) * width);
    }
  }

  /// One channel's strips. Nothing is written outside of images: zeros there stay. The next channel is on its way to
  /// the cache meanwhile.
  template <int Rows, class T>
  void stage(const T* channel, std::int64_t image_size, std::int64_t first, std::int64_t end, float* to) const {
    for_pixels<Rows>(first, end, [&](std::int64_t image, std::int64_t at, std::int64_t pixels, std::int64_t into) {
      const T* from = channel + image * image_size + at;
      for (std::int64_t i = 0; i < pixels; i += 64 / static_cast<int>(sizeof(T))) __builtin_prefetch(from + h * w + i);
      copy_matrix(1, pixels, from, 0, to + into, 0);
    });
  }
};

/// This thread's memory for strips, all zero; whole vectors may be read past any pixel.
ANNEAL_HD float* zero_strips(std::int64_t size) {
  constexpr int n = lanes<float>;
  float* strips = scratch<float>(Scratch::image, size + n);
  __builtin_memset(strips, 0, static_cast<std::size_t>(size + n) * sizeof(float));
  return strips;
}

/// Four vectors as 4x4 blocks, each transposed: lane 4 b + i of vector k becomes lane 4 b + k of vector i. Of the
/// results the first `Wanted` are made.
template <int Wanted = 4, int... I>
ANNEAL_HD void transpose_blocks(Vector<float>* v, std::integer_sequence<int, I...>) {
  using V = Vector<float>;
  constexpr int n = lanes<float>;
  const V a = __builtin_shufflevector(v[0], v[1], (I / 4 * 4 + I % 4 / 2 + I % 2 * n)...);
  const V b = __builtin_shufflevector(v[2], v[3], (I / 4 * 4 + I % 4 / 2 + I % 2 * n)...);
  if constexpr (Wanted > 2) {
    const V c = __builtin_shufflevector(v[0], v[1], (I / 4 * 4 + 2 + I % 4 / 2 + I % 2 * n)...);
    const V d = __builtin_shufflevector(v[2], v[3], (I / 4 * 4 + 2 + I % 4 / 2 + I % 2 * n)...);
    v[2] = __builtin_shufflevector(c, d, (I / 4 * 4 + I % 2 + I % 4 / 2 * n)...);
    v[3] = __builtin_shufflevector(c, d, (I / 4 * 4 + 2 + I % 2 + I % 4 / 2 * n)...);
  }
  v[0] = __builtin_shufflevector(a, b, (I / 4 * 4 + I % 2 + I % 4 / 2 * n)...);
  v[1] = __builtin_shufflevector(a, b, (I / 4 * 4 + 2 + I % 2 + I % 4 / 2 * n)...);
}
template <int Wanted = 4>
ANNEAL_HD void transpose_blocks(Vector<float>* v) {
  transpose_blocks<Wanted>(v, std::make_integer_sequence<int, lanes<float>>{});
}

/// A vector of 4 numbers each, at from + offset[0], from + offset[4], ..., which lie side by side if `dense`.
template <int Size = lanes<float>>
ANNEAL_HD auto load_blocks(const float* from, const std::int32_t* offset, bool dense) {
  typedef float Part __attribute__((vector_size(4 * Size)));
  if (Size == 4 || dense) {
    Part v;
    __builtin_memcpy(&v, from + offset[0], sizeof v);
    return v;
  }
  if constexpr (Size > 4) {
    const auto a = load_blocks<Size / 2>(from, offset, false),
               b = load_blocks<Size / 2>(from, offset + Size / 2, false);
    return [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
      return __builtin_shufflevector(a, b, I...);
    }
    (std::make_integer_sequence<int, Size>{});
  }
}

/// Where tile `lane` of a vector of tiles is among them, in an order that makes blocks of neighbours: the four vectors
/// of a row's pixels, transposed in blocks, are those of the tiles in order.
ANNEAL_HD int tile_of_lane(int lane) { return lane % 4 * (lanes<float> / 4) + lane / 4; }

/// A vector of patches is transformed in both directions: `load(y, pixels)` gives row y. Plane p's vector goes to
/// `to + p * plane`.
template <class Transform, class Load>
ANNEAL_HD void transform_patches(const Load& load, float* to, std::int64_t plane) {
  using V = Vector<float>;
  V half[Transform::rows * 6];
#pragma GCC unroll 6
  for (int y = 0; y < Transform::rows; ++y) {
    V pixel[8];
    load(y, pixel);
    Transform::run(pixel, 1, half + y * 6, 1);
  }
#pragma GCC unroll 6
  for (int x = 0; x < 6; ++x) {
    V all[6];
    Transform::run(half + x, 6, all, 1);
#pragma GCC unroll 6
    for (int y = 0; y < 6; ++y) store_vector(to + (y * 6 + x) * plane, all[y]);
  }
}

/// The staged patches of a vector of tiles, `Columns` wide.
template <int Columns>
struct TilePatches {
  const float* strips;
  const std::int32_t* offset;  // per lane
  std::int64_t width;
  bool dense;

  ANNEAL_HD void operator()(int y, Vector<float>* pixel) const {
    const float* from = strips + y * width;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) pixel[i] = load_blocks(from, offset + i, dense);
    transpose_blocks(pixel);
    if constexpr (Columns > 4) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) pixel[4 + i] = load_blocks(from + 4, offset + i, dense);
      transpose_blocks<2>(pixel + 4);
    }
  }
};

/// The offsets of a run of tiles in strips of so many rows, lane by lane; lanes beyond the last tile repeat it.
struct TileOffsets {
  static constexpr int most = 128;
  std::int32_t offset[most];
  bool dense = true;

  TileOffsets(const TileGrid& grid, int rows, std::int64_t first, std::int64_t tiles) {
    constexpr int n = lanes<float>;
    const std::int64_t strip = first / grid.columns;
    for (int i = 0; i < (tiles + n - 1) / n * n; ++i) {
      const std::int64_t at = i / n * n + tile_of_lane(i % n), tile = first + (at < tiles ? at : tiles - 1);
      offset[i] = static_cast<std::int32_t>((tile / grid.columns - strip) * rows * grid.strip_width() +
                                            tile % grid.columns * 4);
      if (i % n >= 4) dense = dense && offset[i] == offset[i - 4] + 4;
    }
  }
};

/// A run of tiles of one channel, transformed: plane p's go to `to + p * plane`, side by side.
template <class Transform>
ANNEAL_HD void transform_tiles(const float* strips, const TileOffsets& at, std::int64_t width, std::int64_t tiles,
                               float* to, std::int64_t plane) {
  using Patches = TilePatches<Transform::rows>;
  for (std::int64_t i = 0; i < tiles; i += lanes<float>) {
    if (at.dense) transform_patches<Transform>(Patches{strips, at.offset + i, width, true}, to + i, plane);
    else transform_patches<Transform>(Patches{strips, at.offset + i, width, false}, to + i, plane);
  }
}

/// The nine numbers at from, from + step, ... as nine vectors with a lane for each of the first `some`, and back to
/// windows side by side.
template <class T>
ANNEAL_HD void load_windows(const T* from, std::int64_t step, int some, Vector<float>* taps) {
  constexpr int n = lanes<float>;
  if constexpr (n >= 9) {
    Vector<float> window[n];
#pragma GCC unroll 16
    for (int l = 0; l < n; ++l) window[l] = load_first(from + (l < some ? l : some - 1) * step, 9);
    transpose<float>(window);
#pragma GCC unroll 9
    for (int t = 0; t < 9; ++t) taps[t] = window[t];
  } else {
    for (int l = 0; l < n; ++l) {
      for (int t = 0; t < 9; ++t) taps[t][l] = load(from[(l < some ? l : some - 1) * step + t]);
    }
  }
}
ANNEAL_HD void store_windows(const Vector<float>* taps, int some, float* to) {
  constexpr int n = lanes<float>;
  if constexpr (n >= 9) {
    Vector<float> window[n] = {};
#pragma GCC unroll 9
    for (int t = 0; t < 9; ++t) window[t] = taps[t];
    transpose<float>(window);
    for (int l = 0; l < some; ++l) store_first(to + l * 9, window[l], 9);
  } else {
    for (int l = 0; l < some; ++l) {
      for (int t = 0; t < 9; ++t) to[l * 9 + t] = taps[t][l];
    }
  }
}

}  // namespace kernels::cpu::ANNEAL_LEVEL
}  // namespace v0
}  // namespace anneal
