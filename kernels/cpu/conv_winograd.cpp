// Convolution and its input gradient, which is one of dy, by Winograd's form. For a panel of tiles at a time, x is
// transformed, multiplied by the weights' transform for a block of output channels, and transformed back.
#include "anneal/kernels/cpu/conv_forms.h"
#include "anneal/kernels/cpu/winograd.h"
#include "anneal/kernels/parallel.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu::ANNEAL_LEVEL {
namespace {

using V = Vector<float>;
constexpr int n = lanes<float>;

template <class T>
struct Winograd {
  TileGrid grid;
  std::int64_t c_in, c_out, out_h, out_w;
  const T* x;
  T* y;
  /// The weight of output o, input i and tap t is weight[o * stride_out + i * stride_in + t], or 8 - t if flipped.
  const T* weight;
  std::int64_t stride_out, stride_in;
  bool flipped;
  const T* bias;
  bool with_relu;

  std::int64_t vectors() const { return (grid.tiles() + n - 1) / n; }
  std::int64_t panels() const { return (vectors() + tile_vectors - 1) / tile_vectors; }
  /// Output channels at a time: fewer where their weights would leave no room in the second-level cache.
  std::int64_t block_rows() const { return c_in <= 256 ? 24 : 12; }
  std::int64_t panel_tiles() const { return (panels() > 1 ? tile_vectors : vectors()) * n; }
  std::int64_t blocks() const { return (c_out + block_rows() - 1) / block_rows(); }
  std::int64_t weight_ld() const { return (c_in + n - 1) / n * n; }
  // Planes at multiples of 4 KB would share few cache sets.
  std::int64_t weight_plane() const { return block_rows() * weight_ld() + n; }
  std::int64_t input_plane() const { return c_in * panel_tiles() + n; }
  std::int64_t product_plane() const { return block_rows() * panel_tiles() + n; }

  void run() const {
    const std::int64_t block_size = wino_planes * weight_plane(), count = panels() * blocks();
    const double flops = 2.0 * wino_planes * static_cast<double>(grid.tiles()) * static_cast<double>(c_in * c_out);
    // Weights that are met once, or would not stay in a cache, are transformed as they are met: fetching their
    // transform, which is four times as large, takes longer than making it. From 16 panels on that is level.
    const std::int64_t most = std::int64_t{panels() < 16 ? 1 : 4} << 20;
    const bool ahead = panels() > 1 && blocks() * block_size <= most;
    float* weights = ahead ? scratch<float>(Scratch::weight, blocks() * block_size) : nullptr;
    if (ahead) {
      parallel_for(blocks(), grain_of(blocks(), 16.0 * static_cast<double>(wino_planes * c_in * c_out)),
                   [&](std::int64_t begin, std::int64_t end) {
                     for (; begin < end; ++begin) transform_weights(begin, weights + begin * block_size);
                   });
    }
    parallel_for(count, grain_of(count, flops), [&](std::int64_t begin, std::int64_t end) {
      float* own = ahead ? nullptr : scratch<float>(Scratch::weight, block_size);
      Input input;
      for (; begin < end; ++begin) {
        const std::int64_t block = begin % blocks();
        if (input.index != begin / blocks()) input = transform_input(begin / blocks());
        if (!ahead) transform_weights(block, own);
        multiply(input, block, ahead ? weights + block * block_size : own);
      }
    });
  }

  /// A panel's tiles and their transform, [planes, c_in, tiles].
  struct Input {
    std::int64_t index = -1, first = 0, tiles = 0;
    const float* data = nullptr;
  };

  Input transform_input(std::int64_t index) const {
    const std::int64_t first = vectors() * index / panels() * n, end = vectors() * (index + 1) / panels() * n;
    const std::int64_t tiles = (end < grid.tiles() ? end : grid.tiles()) - first;
    const std::int64_t strip = first / grid.columns, last_strip = (first + tiles - 1) / grid.columns;
    float* strips = zero_strips((last_strip + 1 - strip) * 6 * grid.strip_width());
    const TileOffsets at(grid, 6, first, tiles);
    float* data = scratch<float>(Scratch::panel, wino_planes * input_plane());
    for (std::int64_t c = 0; c < c_in; ++c) {
      grid.template stage<6>(x + c * grid.h * grid.w, c_in * grid.h * grid.w, strip, last_strip + 1, strips);
      transform_tiles<PatchTransform>(strips, at, grid.strip_width(), tiles, data + c * panel_tiles(), input_plane());
    }
    return {index, first, tiles, data};
  }

  /// A block's weights as [planes, rows, c_in].
  void transform_weights(std::int64_t block, float* to) const {
    const std::int64_t row = block * block_rows(), rows = c_out - row < block_rows() ? c_out - row : block_rows();
    for (std::int64_t c = 0; c < c_in; c += n) {
      const int some = c_in - c < n ? static_cast<int>(c_in - c) : n;
      for (std::int64_t r = 0; r < rows; ++r) {
        const T* from = weight + (row + r) * stride_out + c * stride_in;
        V taps[9], g[9], half[18];
        if (c + 2 * n <= c_in) {  // they come from memory, and lie too far apart for the processor to see
          for (int l = n; l < 2 * n; ++l) {
            __builtin_prefetch(from + l * stride_in);
            if (flipped) __builtin_prefetch(from + l * stride_in + 8);
          }
        }
        load_windows(from, stride_in, some, taps);
        for (int t = 0; t < 9; ++t) g[flipped ? 8 - t : t] = taps[t];
        for (int j = 0; j < 3; ++j) wino_weights(g + j, 3, half + j, 3);
        for (int i = 0; i < 6; ++i) {
          V all[6];
          wino_weights(half + i * 3, 1, all, 1);
          for (int j = 0; j < 6; ++j) store_vector(to + (i * 6 + j) * weight_plane() + r * weight_ld() + c, all[j]);
        }
      }
    }
  }

  void multiply(const Input& input, std::int64_t block, const float* weights) const {
    const std::int64_t row = block * block_rows(), rows = c_out - row < block_rows() ? c_out - row : block_rows();
    const int columns = static_cast<int>((input.tiles + n - 1) / n * n);
    float* product = scratch<float>(Scratch::product, wino_planes * product_plane());
    for (int p = 0; p < wino_planes; ++p) {
      const float* u = weights + p * weight_plane();
      strips(
          rows, columns, c_in, [&](std::int64_t i) { return u + i * weight_ld(); }, Dense{},
          Panel<float>{input.data + p * input_plane(), panel_tiles()}, product + p * product_plane(), panel_tiles(),
          Epilogue<float>{});
    }
    for (std::int64_t i = 0; i < input.tiles; i += n) {
      const int some = input.tiles - i < n ? static_cast<int>(input.tiles - i) : n;
      const TilePositions at(*this, input.first + i, some);
      for (std::int64_t r = 0; r < rows; ++r) {
        transform_output(product + r * panel_tiles() + i, bias ? load(bias[row + r]) : 0.0f, at, some,
                         y + (row + r) * out_h * out_w);
      }
    }
  }

  /// Where tiles lie in the first channel of y, and how many of their pixels there are.
  struct TilePositions {
    std::int64_t offset[n];
    int rows[n], columns[n];
    /// Pixels side by side of the tiles of a vector of pixels, 0 if they are not.
    int run[4] = {};

    TilePositions(const Winograd& w, std::int64_t first, int some) {
      for (int l = 0; l < some; ++l) {
        const std::int64_t tile = first + l, j = tile % w.grid.columns * 4, row = tile / w.grid.columns;
        const std::int64_t i = row % w.grid.rows * 4;
        offset[l] = (row / w.grid.rows * w.c_out * w.out_h + i) * w.out_w + j;
        rows[l] = static_cast<int>(w.out_h - i < 4 ? w.out_h - i : 4);
        columns[l] = static_cast<int>(w.out_w - j < 4 ? w.out_w - j : 4);
        const int begin = l / (n / 4) * (n / 4), before = (l - begin) * 4;
        if (l == begin || (run[l / (n / 4)] == before && offset[l] == offset[begin] + before)) {
          run[l / (n / 4)] = before + columns[l];
        } else {
          run[l / (n / 4)] = 0;
        }
      }
    }
  };

  void transform_output(const float* from, float add, const TilePositions& at, int some, T* channel) const {
    const std::int64_t plane = product_plane();
    V half[24];
#pragma GCC unroll 6
    for (int j = 0; j < 6; ++j) {
      V column[6];
#pragma GCC unroll 6
      for (int i = 0; i < 6; ++i) column[i] = load_vector(from + (i * 6 + j) * plane);
      wino_pixels(column, 1, half + j, 6);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      V pixel[4];
      wino_pixels(half + i * 6, 1, pixel, 1);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        pixel[j] += add;
        if (with_relu) pixel[j] = relu<float>(pixel[j]);
      }
      transpose_blocks(pixel);
      for (int j = 0; j < 4; ++j) {
        const int tile = j * (n / 4);
        if (at.run[j] > 0) {
          if (i < at.rows[tile]) store_first(channel + at.offset[tile] + i * out_w, pixel[j], at.run[j]);
        } else if (tile < some) {
          T part[n];
          store_vector(part, pixel[j]);
          for (int l = tile; l < tile + n / 4 && l < some; ++l) {
            if (i < at.rows[l]) put(at.columns[l], part + (l - tile) * 4, channel + at.offset[l] + i * out_w);
          }
        }
      }
    }
  }

  ANNEAL_HD static void put(int columns, const T* from, T* to) {
    if (columns == 4) __builtin_memcpy(to, from, 4 * sizeof(T));
    else
      for (int j = 0; j < columns; ++j) to[j] = from[j];
  }
};

}  // namespace

bool run_winograd(const Conv2d& a) {
  const ConvShape& s = a.shape;
  if (!suits_winograd(s) || a.dtype == DType::f64) return false;
  visit_floating(a.dtype, [&]<class T>() {
    if constexpr (std::is_same_v<Compute<T>, float>) {
      const TileGrid grid{s.n, s.h, s.w, s.padding_h, s.padding_w, (s.out_h() + 3) / 4, (s.out_w() + 3) / 4};
      Winograd<T>{grid,
                  s.c_in,
                  s.c_out,
                  s.out_h(),
                  s.out_w(),
                  static_cast<const T*>(a.x),
                  static_cast<T*>(a.y),
                  static_cast<const T*>(a.weight),
                  s.c_in * 9,
                  9,
                  false,
                  static_cast<const T*>(a.bias),
                  a.activation == Activation::relu}
          .run();
    }
  });
  return true;
}

bool run_winograd(const Conv2dInputGrad& a) {
  const ConvShape& s = a.shape;
  if (!suits_winograd(s) || a.dtype == DType::f64) return false;
  visit_floating(a.dtype, [&]<class T>() {
    if constexpr (std::is_same_v<Compute<T>, float>) {
      const TileGrid grid{s.n, s.out_h(), s.out_w(), 2 - s.padding_h, 2 - s.padding_w, (s.h + 3) / 4, (s.w + 3) / 4};
      Winograd<T>{grid,
                  s.c_out,
                  s.c_in,
                  s.h,
                  s.w,
                  static_cast<const T*>(a.dy),
                  static_cast<T*>(a.dx),
                  static_cast<const T*>(a.weight),
                  9,
                  s.c_in * 9,
                  true,
                  nullptr,
                  false}
          .run();
    }
  });
  return true;
}

}  // namespace kernels::cpu::ANNEAL_LEVEL
}  // namespace v0
}  // namespace anneal
