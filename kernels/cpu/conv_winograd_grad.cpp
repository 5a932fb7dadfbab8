// The gradient of a convolution's weight by Winograd's form: the sum over tiles of the products of x's and dy's
// transforms is 36 matrix products, whose result is transformed back once. Long sums are cut into parts.
#include "anneal/kernels/cpu/conv_forms.h"
#include "anneal/kernels/cpu/winograd.h"
#include "anneal/kernels/parallel.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu::ANNEAL_LEVEL {
namespace {

using V = Vector<float>;
constexpr int n = lanes<float>, panel_width = tile_columns<float>;

ANNEAL_HD std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

template <class T, class Out>
struct WinogradWeightGrad {
  TileGrid of_x, of_dy;
  std::int64_t c_in, c_out;
  const T *x, *dy;
  Out* dweight;
  bool accumulate;

  // One part's tiles are one chunk, so that x is transformed once however many blocks of channels there are, or many.
  static constexpr std::int64_t part_tiles = TileOffsets::most, chunk_tiles = 64, most_parts = 8;
  std::int64_t tiles() const { return of_x.tiles(); }
  std::int64_t parts() const {
    const std::int64_t wanted = ceil_div(tiles(), part_tiles);
    return wanted < most_parts ? wanted : most_parts;
  }
  std::int64_t chunk() const {
    if (parts() == 1) return tiles();
    const std::int64_t most = ceil_div(tiles(), parts());
    return most < chunk_tiles ? most : chunk_tiles;
  }
  /// Output channels at a time.
  std::int64_t block_rows() const {
    const std::int64_t room = parts() == 1 ? 24 : (1200 << 10) / wino_planes / sum_ld() / 6 * 6;
    const std::int64_t rows = room < 24 ? 24 : room;
    return rows < c_out ? rows : c_out;
  }
  std::int64_t blocks() const { return ceil_div(c_out, block_rows()); }

  // Planes at multiples of 4 KB would share few cache sets.
  std::int64_t dy_ld() const { return ceil_div(chunk(), n) * n + n; }
  std::int64_t dy_plane() const { return block_rows() * dy_ld() + n; }
  std::int64_t panel_size() const { return ceil_div(chunk(), n) * n * panel_width; }
  std::int64_t x_plane() const { return ceil_div(c_in, panel_width) * panel_size() + n; }
  std::int64_t sum_ld() const { return ceil_div(c_in, n) * n; }
  std::int64_t sum_plane() const { return block_rows() * sum_ld() + n; }

  void run() const {
    const std::int64_t size = c_out * c_in * 9, count = parts() * blocks();
    const double flops = 2.0 * wino_planes * static_cast<double>(tiles()) * static_cast<double>(c_in * c_out);
    float* partial = parts() > 1 ? scratch<float>(Scratch::partial, parts() * size) : nullptr;
    float* const shared = parts() > 1 ? nullptr : x_panels();
    if (shared) {
      const std::int64_t vectors = ceil_div(c_in, n);
      parallel_for(vectors, grain_of(vectors, 200.0 * static_cast<double>(tiles() * c_in)),
                   [&](std::int64_t begin, std::int64_t end) {
                     transform_x(0, tiles(), begin * n, end * n < c_in ? end * n : c_in, shared);
                   });
    }
    parallel_for(count, grain_of(count, flops), [&](std::int64_t begin, std::int64_t end) {
      for (; begin < end; ++begin) {
        const std::int64_t part = begin / blocks(), block = begin % blocks();
        const std::int64_t first = tiles() * part / parts(), last = tiles() * (part + 1) / parts();
        for (std::int64_t at = first; at < last; at += chunk()) {
          const std::int64_t some = last - at < chunk() ? last - at : chunk();
          const float* panels = shared ? shared : transform_x(at, some, 0, c_in, x_panels());
          add_products(panels, transform_dy(block, at, some), rows_of(block), some, at > first);
        }
        finish(block, partial ? partial + part * size : nullptr);
      }
    });
    if (!partial) return;
    parallel_for(c_out, grain_of(c_out, static_cast<double>(size * parts())),
                 [&](std::int64_t begin, std::int64_t end) {
                   for (; begin < end; ++begin) {
                     float* sum = partial + begin * c_in * 9;
                     for (std::int64_t part = 1; part < parts(); ++part) {
                       for (std::int64_t i = 0; i < c_in * 9; ++i) sum[i] += sum[part * size + i];
                     }
                     write(begin, sum);
                   }
                 });
  }

  std::int64_t rows_of(std::int64_t block) const {
    const std::int64_t left = c_out - block * block_rows();
    return left < block_rows() ? left : block_rows();
  }

  /// dy's transform, [planes, rows, tiles].
  const float* transform_dy(std::int64_t block, std::int64_t first, std::int64_t some) const {
    const std::int64_t strip = first / of_dy.columns, end = (first + some - 1) / of_dy.columns + 1;
    const std::int64_t size = of_dy.h * of_dy.w;
    float* strips = zero_strips((end - strip) * 4 * of_dy.strip_width());
    const TileOffsets at(of_dy, 4, first, some);
    float* to = scratch<float>(Scratch::rows, wino_planes * dy_plane());
    for (std::int64_t r = 0; r < rows_of(block); ++r) {
      of_dy.template stage<4>(dy + (block * block_rows() + r) * size, c_out * size, strip, end, strips);
      transform_tiles<GradTransform>(strips, at, of_dy.strip_width(), some, to + r * dy_ld(), dy_plane());
    }
    return to;
  }

  float* x_panels() const { return scratch<float>(Scratch::panel, wino_planes * x_plane()); }

  /// The transform of x's channels [c, c_end) in panels, [planes, panels, tiles, panel_width], of tiles in dy's order
  /// and zeros beyond them. Returns `panels`.
  const float* transform_x(std::int64_t first, std::int64_t some, std::int64_t c, std::int64_t c_end,
                           float* panels) const {
    const std::int64_t strip = first / of_x.columns, end = (first + some - 1) / of_x.columns + 1;
    const std::int64_t width = of_x.strip_width();
    float* strips = zero_strips((end - strip) * 6 * width * n);
    for (; c < c_end; c += n) {
      stage_channels(c, strip, end, strips);
      float* to = panels + c / panel_width * panel_size() + c % panel_width;
      for (std::int64_t i = 0; i < ceil_div(some, n) * n; ++i, to += panel_width) {
        const std::int64_t at = i / n * n + tile_of_lane(static_cast<int>(i % n)), tile = first + at;
        if (at < some) {
          const float* from = strips + ((tile / of_x.columns - strip) * 6 * width + tile % of_x.columns * 4) * n;
          transform_patches<PatchTransform>(
              [&](int y, V* pixel) __attribute__((always_inline)) {
                for (int j = 0; j < 6; ++j) pixel[j] = load_vector(from + (y * width + j) * n);
              },
              to, x_plane());
        } else {
          for (int p = 0; p < wino_planes; ++p) store_vector(to + p * x_plane(), V{});
        }
      }
    }
    return panels;
  }

  /// A vector of channels' pixels under the tile rows [strip, end), a vector for each pixel.
  void stage_channels(std::int64_t c, std::int64_t strip, std::int64_t end, float* to) const {
    const std::int64_t some = c_in - c < n ? c_in - c : n, size = of_x.h * of_x.w;
    of_x.template for_pixels<6>(
        strip, end, [&](std::int64_t image, std::int64_t at, std::int64_t pixels, std::int64_t into) {
          transpose_matrix(some, pixels, x + (image * c_in + c) * size + at, size, to + into * n, n);
        });
  }

  float* sums() const { return scratch<float>(Scratch::product, wino_planes * sum_plane()); }

  void add_products(const float* panels, const float* dys, std::int64_t rows, std::int64_t some, bool add) const {
    float* sum = sums();
    for (int p = 0; p < wino_planes; ++p) {
      for (std::int64_t c = 0; c < c_in; c += panel_width) {
        const int columns = c_in - c < panel_width ? static_cast<int>(c_in - c) : panel_width;
        strips(
            rows, columns, ceil_div(some, n) * n, [&](std::int64_t i) { return dys + p * dy_plane() + i * dy_ld(); },
            Dense{}, Panel<float>{panels + p * x_plane() + c / panel_width * panel_size(), panel_width},
            sum + p * sum_plane() + c, sum_ld(), Epilogue<float>{add});
      }
    }
  }

  /// The sums, transformed back, to where their part is gathered or, if that is null, to the gradient.
  void finish(std::int64_t block, float* part) const {
    const float* sum = sums();
    for (std::int64_t r = 0; r < rows_of(block); ++r) {
      const std::int64_t row = block * block_rows() + r;
      float* to = part ? part + row * c_in * 9 : scratch<float>(Scratch::bias, c_in * 9);
      for (std::int64_t c = 0; c < c_in; c += n) {
        const float* from = sum + r * sum_ld() + c;
        V half[18], taps[9];
#pragma GCC unroll 6
        for (int j = 0; j < 6; ++j) {
          V column[6];
#pragma GCC unroll 6
          for (int i = 0; i < 6; ++i) column[i] = load_vector(from + (i * 6 + j) * sum_plane());
          wino_weights_grad(column, 1, half + j, 6);
        }
#pragma GCC unroll 3
        for (int i = 0; i < 3; ++i) wino_weights_grad(half + i * 6, 1, taps + i * 3, 1);
        store_windows(taps, c_in - c < n ? static_cast<int>(c_in - c) : n, to + c * 9);
      }
      if (!part) write(row, to);
    }
  }

  void write(std::int64_t row, const float* from) const {
    Out* to = dweight + row * c_in * 9;
    for (std::int64_t i = 0; i < c_in * 9; i += n) {
      const int some = c_in * 9 - i < n ? static_cast<int>(c_in * 9 - i) : n;
      const V sum = load_first(from + i, some);
      store_first(to + i, accumulate ? sum + load_first(to + i, some) : sum, some);
    }
  }
};

}  // namespace

bool run_winograd(const Conv2dWeightGrad& a) {
  const ConvShape& s = a.shape;
  if (!suits_winograd(s) || a.dtype == DType::f64) return false;
  visit_floating(a.dtype, a.out, [&]<class T, class Out>() {
    if constexpr (std::is_same_v<Compute<T>, float>) {
      const std::int64_t rows = (s.out_h() + 3) / 4, columns = (s.out_w() + 3) / 4;
      WinogradWeightGrad<T, Out>{{s.n, s.h, s.w, s.padding_h, s.padding_w, rows, columns},
                                 {s.n, s.out_h(), s.out_w(), 0, 0, rows, columns},
                                 s.c_in,
                                 s.c_out,
                                 static_cast<const T*>(a.x),
                                 static_cast<const T*>(a.dy),
                                 static_cast<Out*>(a.dweight),
                                 a.accumulate}
          .run();
    }
  });
  return true;
}

}  // namespace kernels::cpu::ANNEAL_LEVEL
}  // namespace v0
}  // namespace anneal
