// Convolutions as matrix products over patches of images, which are never stored as a matrix. A convolution is a
// `Correlation`; its input gradient is several, one for each place that a pixel can have in the grid of the stride, of
// dy and of those taps of the weight that meet the pixel there.
#include "anneal/kernels/cpu/conv_forms.h"
#include "anneal/kernels/cpu/gemm.h"
#include "anneal/kernels/cpu/level.h"
#include "anneal/kernels/parallel.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu::ANNEAL_LEVEL {
namespace {

/// Where images lie in frames of zeros, so that no window needs to look for their edges: source pixel (y, x) is at
/// (top + y, left + x) of its frame, or left out when that is outside.
struct Frame {
  std::int64_t planes, h, w, top, left, height, width;

  std::int64_t size() const { return planes * height * width; }

  /// Writes one image's pixels into a frame that has zeros elsewhere.
  template <class T>
  void fill(const T* image, Compute<T>* frame) const {
    const std::int64_t y0 = top < 0 ? -top : 0, y1 = h < height - top ? h : height - top;
    const std::int64_t x0 = left < 0 ? -left : 0, x1 = w < width - left ? w : width - left;
    if (y0 >= y1 || x0 >= x1) return;
    for (std::int64_t p = 0; p < planes; ++p) {
      copy_matrix(y1 - y0, x1 - x0, image + (p * h + y0) * w + x0, w,
                  frame + (p * height + top + y0) * width + left + x0, width);
    }
  }
};

/// The windows over framed images, numbered over the pixels of y, image after image.
struct Windows {
  Frame frame;
  std::int64_t kernel_h, kernel_w, dilation_h, dilation_w, stride_h, stride_w, out_h, out_w;

  std::int64_t pixels() const { return out_h * out_w; }
  std::int64_t taps() const { return frame.planes * kernel_h * kernel_w; }
  /// Images that are worked on at a time: their pixels fill panels even where each image has few.
  std::int64_t at_once(std::int64_t images) const {
    const std::int64_t wanted = (511 + pixels()) / pixels();
    return wanted < images ? wanted : images;
  }

  std::int64_t tap_offset(std::int64_t tap) const {
    const std::int64_t s = tap % kernel_w, r = tap / kernel_w % kernel_h, plane = tap / kernel_w / kernel_h;
    return (plane * frame.height + r * dilation_h) * frame.width + s * dilation_w;
  }
  std::int64_t pixel_offset(std::int64_t pixel) const {
    const std::int64_t x = pixel % out_w, y = pixel / out_w % out_h, image = pixel / pixels();
    return image * frame.size() + y * stride_h * frame.width + x * stride_w;
  }
  double flops(std::int64_t images, std::int64_t planes_out) const {
    return 2.0 * static_cast<double>(images * pixels()) * static_cast<double>(taps() * planes_out);
  }

  /// This thread's memory for the frames of so many images, all zero; whole vectors may be read past any pixel.
  template <class C>
  C* frames(std::int64_t images) const {
    const std::int64_t n = images * frame.size() + 2 * lanes<C>;
    C* memory = scratch<C>(Scratch::image, n);
    __builtin_memset(memory, 0, static_cast<std::size_t>(n) * sizeof(C));
    return memory;
  }
};

Windows windows_of(const ConvShape& s) {
  const Frame frame{s.c_in / s.groups,    s.h, s.w, s.padding_h, s.padding_w, s.h + 2 * s.padding_h,
                    s.w + 2 * s.padding_w};
  return {frame, s.kernel_h, s.kernel_w, s.dilation_h, s.dilation_w, s.stride_h, s.stride_w, s.out_h(), s.out_w()};
}

/// The patches of a panel's pixels, as the matrix B [taps, pixels] of a product.
template <class C>
struct Patches {
  /// Pixels side by side in y's row.
  struct Run {
    std::int64_t from;
    int to, length;
  };
  const Windows& windows;
  const C* frames;
  int runs = 0;
  Run run[tile_columns<C>];

  Patches(const Windows& over, const C* at, std::int64_t pixel, int columns) : windows(over), frames(at) {
    for (int to = 0; to < columns;) {
      const std::int64_t left = windows.out_w - (pixel + to) % windows.out_w;
      const int length = left < columns - to ? static_cast<int>(left) : columns - to;
      run[runs++] = {windows.pixel_offset(pixel + to), to, length};
      to += length;
    }
  }

  Panel<C> operator()(std::int64_t tap, std::int64_t depth, std::int64_t, int columns, std::int64_t) const {
    const int width = (columns + lanes<C> - 1) / lanes<C> * lanes<C>;
    C* panel = scratch<C>(Scratch::panel, depth * width + lanes<C>);
    if (windows.stride_w == 1) pack<1>(tap, depth, panel, width);
    else if (windows.stride_w == 2) pack<2>(tap, depth, panel, width);
    else pack<0>(tap, depth, panel, width);
    return {panel, width};
  }

  /// Whole vectors are written: what is too much is overwritten by the next run.
  template <int Stride>
  void pack(std::int64_t tap, std::int64_t depth, C* to, int width) const {
    constexpr int n = lanes<C>;
    if (depth == 0) return;
    std::int64_t s = tap % windows.kernel_w;
    for (const std::int64_t end = tap + depth; tap < end; ++tap, to += width) {
      const C* at = frames + windows.tap_offset(tap - s) + s * windows.dilation_w;
      for (int i = 0; i < runs; ++i) {
        const C* from = at + run[i].from;
        C* into = to + run[i].to;
        if constexpr (Stride == 0) {
          for (int x = 0; x < run[i].length; ++x) into[x] = from[x * windows.stride_w];
        } else {
          for (int x = 0; x < run[i].length; x += n) {
            if constexpr (Stride == 1) {
              store_vector(into + x, load_vector(from + x));
            } else {
              store_vector(into + x, every_other<C>(load_vector(from + 2 * x), load_vector(from + 2 * x + n)));
            }
          }
        }
      }
      if (++s == windows.kernel_w) s = 0;
    }
  }
};

/// Calls `f(part, begin, end)` for the pieces of [begin, end) that lie in one part of `size` each.
template <class F>
ANNEAL_HD void for_parts(std::int64_t begin, std::int64_t end, std::int64_t size, const F& f) {
  while (begin < end) {
    const std::int64_t part = begin / size, stop = (part + 1) * size < end ? (part + 1) * size : end;
    f(part, begin - part * size, stop - part * size);
    begin = stop;
  }
}

/// Where y's pixel (i, j) is in its plane: begin + i * row + j * column.
struct Grid {
  std::int64_t begin, row, column, plane;
};

/// y = weight * patches + bias, in groups; weight is [groups, planes, taps], bias (or null) has a number per plane of
/// y.
template <class T>
struct Correlation {
  using C = Compute<T>;
  Windows windows;
  Grid grid;
  std::int64_t images, groups, planes;
  const T* x;
  T* y;
  const C *weight, *bias;
  bool relu;

  void run() const {
    if (images * groups * planes * windows.pixels() == 0) return;
    const std::int64_t at_once = windows.at_once(images), chunks = (images + at_once - 1) / at_once;
    const std::int64_t vectors = (at_once * windows.pixels() + lanes<C> - 1) / lanes<C>,
                       count = groups * chunks * vectors;
    const double flops = windows.flops(images, planes * groups);
    parallel_for(count, grain_of(count, flops), [&](std::int64_t begin, std::int64_t end) {
      C* frames = windows.template frames<C>(at_once);
      for_parts(begin, end, vectors, [&](std::int64_t part, std::int64_t from, std::int64_t to) {
        const std::int64_t group = part / chunks, image = part % chunks * at_once;
        const std::int64_t some = images - image < at_once ? images - image : at_once;
        const std::int64_t all = some * windows.pixels();
        run_part(frames, group, image, from * lanes<C>, to * lanes<C> < all ? to * lanes<C> : all);
      });
    });
  }

  /// The pixels [from, to), counted from image `first`'s on.
  void run_part(C* frames, std::int64_t group, std::int64_t first, std::int64_t from, std::int64_t to) const {
    if (from >= to) return;
    const Frame& frame = windows.frame;
    const std::int64_t pixels = windows.pixels(), taps = windows.taps();
    for (std::int64_t i = from / pixels; i <= (to - 1) / pixels; ++i) {
      frame.fill(x + ((first + i) * groups + group) * frame.planes * frame.h * frame.w, frames + i * frame.size());
    }
    const C* w = weight + group * planes * taps;
    const auto rows = [&](std::int64_t i, std::int64_t, std::int64_t k, std::int64_t) {
      return Panel<C>{w + i * taps + k, taps};
    };
    const Epilogue<C> epilogue{false, bias ? bias + group * planes : nullptr, nullptr, relu};
    const bool dense = std::is_same_v<T, C> && grid.column == 1 && grid.row == windows.out_w;
    for (int columns; from < to; from += columns) {
      columns = next_panel<C>(to - from);
      const Patches<C> patches(windows, frames, from, columns);
      if constexpr (std::is_same_v<T, C>) {
        if (dense && from % pixels + columns <= pixels) {
          multiply(planes, columns, taps, planes, rows, patches, at(group, first, from), grid.plane, epilogue);
          continue;
        }
      }
      C* product = scratch<C>(Scratch::product, planes * tile_columns<C>);
      multiply(planes, columns, taps, planes, rows, patches, product, tile_columns<C>, epilogue);
      for_parts(from, from + columns, windows.out_w, [&](std::int64_t row, std::int64_t begin, std::int64_t end) {
        const std::int64_t pixel = row * windows.out_w + begin;
        spread(end - begin, product + pixel - from, at(group, first, pixel));
      });
    }
  }

  /// y's part of a row, in all planes.
  void spread(std::int64_t n, const C* from, T* to) const {
    if (grid.column == 1) return copy_matrix(planes, n, from, tile_columns<C>, to, grid.plane);
    for (std::int64_t p = 0; p < planes; ++p, from += tile_columns<C>, to += grid.plane) {
      for (std::int64_t i = 0; i < n; ++i) to[i * grid.column] = store<T>(from[i]);
    }
  }

  T* at(std::int64_t group, std::int64_t first, std::int64_t pixel) const {
    const std::int64_t j = pixel % windows.out_w, i = pixel / windows.out_w % windows.out_h;
    const std::int64_t image = first + pixel / windows.pixels();
    return y + (image * groups + group) * planes * grid.plane + grid.begin + i * grid.row + j * grid.column;
  }
};

/// The gradient of the weight as its transpose [taps, planes], of the patches, whose rows are read where they lie in
/// the frames, and of dy, transposed. Images are summed in a few parts that depend on the shape alone.
template <class T, class Out>
struct WeightGrad {
  using C = Compute<T>;
  static constexpr std::int64_t depth_at_once = 512;
  Windows windows;
  std::int64_t images, groups, planes;
  const T *dy, *x;
  Out* dweight;
  bool accumulate;

  std::int64_t parts() const {
    const std::int64_t room = (std::int64_t{1} << 18) / (groups * planes * windows.taps());
    const std::int64_t most = room < 8 ? room : 8, some = images < most ? images : most;
    return some < 1 ? 1 : some;
  }

  void run() const {
    const std::int64_t taps = windows.taps(), size = taps * planes;
    if (groups * size == 0) return;
    const std::int64_t n = parts(), strips_each = (taps + tile_rows - 1) / tile_rows, count = groups * n * strips_each;
    C* sums = scratch<C>(Scratch::partial, groups * n * size);
    if (images * windows.pixels() == 0) {
      for (std::int64_t i = 0; i < groups * n * size; ++i) sums[i] = 0;
    } else {
      parallel_for(
          count, grain_of(count, windows.flops(images, planes * groups)), [&](std::int64_t begin, std::int64_t end) {
            const Chunk chunk(*this);
            for_parts(begin, end, strips_each, [&](std::int64_t i, std::int64_t from, std::int64_t to) {
              const std::int64_t row = from * tile_rows, rows = (to * tile_rows < taps ? to * tile_rows : taps) - row;
              add_part(chunk, i / n, images * (i % n) / n, images * (i % n + 1) / n, row, rows,
                       sums + i * size + row * planes);
            });
          });
    }
    parallel_for(groups * taps, grain_of(groups * taps, 4.0 * static_cast<double>(n * groups * size)),
                 [&](std::int64_t begin, std::int64_t end) {
                   for_parts(begin, end, taps, [&](std::int64_t group, std::int64_t from, std::int64_t to) {
                     finish(sums + group * n * size + from * planes, n, to - from, dweight + group * size + from);
                   });
                 });
  }

  /// A thread's memory for the images that it works on at a time.
  struct Chunk {
    std::int64_t images;
    C* frames;
    std::int32_t* pixel_offset;

    explicit Chunk(const WeightGrad& g)
        : images(g.windows.at_once(g.images)),
          frames(g.windows.template frames<C>(images)),
          pixel_offset(scratch<std::int32_t>(Scratch::table, images * g.windows.pixels())) {
      for (std::int64_t i = 0; i < images * g.windows.pixels(); ++i) {
        pixel_offset[i] = static_cast<std::int32_t>(g.windows.pixel_offset(i));
      }
    }
  };

  /// sum[rows, planes] = the sum over images [first, end), for the taps from `row` on.
  void add_part(const Chunk& chunk, std::int64_t group, std::int64_t first, std::int64_t end, std::int64_t row,
                std::int64_t rows, C* sum) const {
    const Frame& frame = windows.frame;
    const std::int64_t pixels = windows.pixels();
    bool add = false;
    for (; first < end; first += chunk.images) {
      const std::int64_t some = end - first < chunk.images ? end - first : chunk.images;
      for (std::int64_t i = 0; i < some; ++i) {
        frame.fill(x + ((first + i) * groups + group) * frame.planes * frame.h * frame.w,
                   chunk.frames + i * frame.size());
      }
      for (std::int64_t p = 0; p < some * pixels; p += depth_at_once, add = true) {
        const std::int64_t depth = some * pixels - p < depth_at_once ? some * pixels - p : depth_at_once;
        for (std::int64_t j = 0; j < planes;) {
          const int columns = next_panel<C>(planes - j);
          strips(
              rows, columns, depth, [&](std::int64_t i) { return chunk.frames + windows.tap_offset(row + i); },
              Table32{chunk.pixel_offset + p}, panel(group, first, p, depth, j, columns), sum + j, planes,
              Epilogue<C>{add});
          j += columns;
        }
      }
    }
  }

  /// dy of pixels [p, p + depth), counted from image `first`'s on, transposed: [pixels, planes j and on].
  Panel<C> panel(std::int64_t group, std::int64_t first, std::int64_t p, std::int64_t depth, std::int64_t j,
                 int columns) const {
    const std::int64_t pixels = windows.pixels(), width = (columns + lanes<C> - 1) / lanes<C> * lanes<C>;
    C* to = scratch<C>(Scratch::panel, depth * width);
    for_parts(p, p + depth, pixels, [&](std::int64_t image, std::int64_t begin, std::int64_t end) {
      const T* from = dy + (((first + image) * groups + group) * planes + j) * pixels + begin;
      transpose_matrix(columns, end - begin, from, pixels, to + (image * pixels + begin - p) * width, width);
    });
    return {to, width};
  }

  /// Adds the parts up, in order, and transposes them into the weight's gradient.
  void finish(C* sum, std::int64_t n, std::int64_t rows, Out* to) const {
    const std::int64_t taps = windows.taps(), size = taps * planes;
    for (std::int64_t part = 1; part < n; ++part) {
      for (std::int64_t i = 0; i < rows * planes; ++i) sum[i] += sum[part * size + i];
    }
    if (accumulate) {
      C* old = scratch<C>(Scratch::product, rows * planes);
      transpose_matrix(planes, rows, to, taps, old, planes);
      for (std::int64_t i = 0; i < rows * planes; ++i) sum[i] += old[i];
    }
    transpose_matrix(rows, planes, sum, planes, to, taps);
  }
};

/// n elements as numbers of C.
template <class T>
const Compute<T>* as_numbers(const T* from, std::int64_t n, Scratch purpose) {
  if constexpr (std::is_same_v<T, Compute<T>>) {
    return from;
  } else {
    auto* to = scratch<Compute<T>>(purpose, n);
    copy_matrix(1, n, from, 0, to, 0);
    return to;
  }
}

/// In one dimension, what the gradients of the pixels `at`, at + stride, at + 2 stride, ... are made of: taps `last`,
/// last - step, ... of the kernel, over pixels of dy that begin `top` before the first and lie `dilation` apart.
struct Phase {
  std::int64_t taps = 0, last = 0, step = 1, top = 0, dilation = 1, size;

  Phase(std::int64_t at, std::int64_t count, std::int64_t kernel, std::int64_t stride, std::int64_t padding,
        std::int64_t spacing)
      : size((count - at + stride - 1) / stride) {
    for (std::int64_t tap = 0; tap < kernel; ++tap) {
      if ((at + padding - tap * spacing) % stride != 0) continue;
      if (taps > 0) step = tap - last;
      last = tap;
      ++taps;
    }
    if (taps == 0) return;
    top = -(at + padding - last * spacing) / stride;
    if (taps > 1) dilation = step * spacing / stride;
  }

  /// The size of a frame for `size` windows.
  std::int64_t frame() const { return taps == 0 ? size : size + (taps - 1) * dilation; }
};

/// The weight [groups, c_out, c_in, kernel] as [groups, c_in, c_out, taps of the phase].
template <class T>
const Compute<T>* flipped(const ConvShape& s, const Phase& h, const Phase& w, const T* weight) {
  const std::int64_t c_in = s.c_in / s.groups, c_out = s.c_out / s.groups, kernel = s.kernel_h * s.kernel_w;
  const std::int64_t taps = h.taps * w.taps, count = s.groups * c_in;
  auto* to = scratch<Compute<T>>(Scratch::weight, count * c_out * taps);
  parallel_for(count, grain_of(count, 4.0 * static_cast<double>(count * c_out * taps)),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t i = begin; i < end; ++i) {
                   const T* from = weight + (i / c_in * c_out * c_in + i % c_in) * kernel;
                   auto* row = to + i * c_out * taps;
                   for (std::int64_t o = 0; o < c_out; ++o, from += c_in * kernel) {
                     for (std::int64_t r = 0; r < h.taps; ++r) {
                       const T* line = from + (h.last - r * h.step) * s.kernel_w + w.last;
                       for (std::int64_t q = 0; q < w.taps; ++q) *row++ = load(line[-q * w.step]);
                     }
                   }
                 }
               });
  return to;
}

}  // namespace

template <>
void run(const Conv2d& a) {
  if (run_winograd(a)) return;
  visit_floating(a.dtype, [&]<class T>() {
    const ConvShape& s = a.shape;
    const Windows windows = windows_of(s);
    const auto* bias = static_cast<const T*>(a.bias);
    const Grid grid{0, windows.out_w, 1, windows.pixels()};
    Correlation<T>{windows,
                   grid,
                   s.n,
                   s.groups,
                   s.c_out / s.groups,
                   static_cast<const T*>(a.x),
                   static_cast<T*>(a.y),
                   as_numbers(static_cast<const T*>(a.weight), s.c_out * windows.taps(), Scratch::weight),
                   bias ? as_numbers(bias, s.c_out, Scratch::bias) : nullptr,
                   a.activation == Activation::relu}
        .run();
  });
}

template <>
void run(const Conv2dInputGrad& a) {
  if (run_winograd(a)) return;
  visit_floating(a.dtype, [&]<class T>() {
    const ConvShape& s = a.shape;
    for (std::int64_t i = 0; i < s.stride_h && i < s.h; ++i) {
      for (std::int64_t j = 0; j < s.stride_w && j < s.w; ++j) {
        const Phase h(i, s.h, s.kernel_h, s.stride_h, s.padding_h, s.dilation_h);
        const Phase w(j, s.w, s.kernel_w, s.stride_w, s.padding_w, s.dilation_w);
        const Frame frame{s.c_out / s.groups, s.out_h(), s.out_w(), h.top, w.top, h.frame(), w.frame()};
        const Windows windows{frame, h.taps, w.taps, h.dilation, w.dilation, 1, 1, h.size, w.size};
        const Grid grid{i * s.w + j, s.stride_h * s.w, s.stride_w, s.h * s.w};
        Correlation<T>{windows,
                       grid,
                       s.n,
                       s.groups,
                       s.c_in / s.groups,
                       static_cast<const T*>(a.dy),
                       static_cast<T*>(a.dx),
                       flipped(s, h, w, static_cast<const T*>(a.weight)),
                       nullptr,
                       false}
            .run();
      }
    }
  });
}

template <>
void run(const Conv2dWeightGrad& a) {
  if (run_winograd(a)) return;
  visit_floating(a.dtype, a.out, [&]<class T, class Out>() {
    const ConvShape& s = a.shape;
    WeightGrad<T, Out>{windows_of(s),
                       s.n,
                       s.groups,
                       s.c_out / s.groups,
                       static_cast<const T*>(a.dy),
                       static_cast<const T*>(a.x),
                       static_cast<Out*>(a.dweight),
                       a.accumulate}
        .run();
  });
}

}  // namespace kernels::cpu::ANNEAL_LEVEL
}  // namespace v0
}  // namespace anneal
