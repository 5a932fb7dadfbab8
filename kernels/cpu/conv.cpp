// Convolutions as matrix products over patches of images, which are never stored as a matrix. A convolution is a
// `Correlation`; its input gradient is several, one for each place that a pixel can have in the grid of the stride, of
// dy and of those taps of the weight that meet the pixel there.
#include "anneal/kernels/cpu/conv_forms.h"
#include "anneal/kernels/cpu/narrow.h"
#include "anneal/kernels/cpu/patches.h"
#include "anneal/kernels/cpu/shallow.h"
#include "anneal/kernels/parallel.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu::ANNEAL_LEVEL {
namespace {

/// Where y's pixel (i, j) is in its plane: begin + i * row + j * column.
struct Grid {
  std::int64_t begin, row, column, plane;
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

/// The rows of a weight [rows, taps] as tiles take them.
template <class T>
Panel<Element<T>> lines_of(const T* weight, std::int64_t rows, std::int64_t taps) {
  using E = Element<T>;
  const Operand<T> lines{weight, taps, true, taps};
  if (lines.has_lines()) return lines.in_place(0, 0);
  const std::int64_t depth = lines.depth();
  E* to = scratch<E>(Scratch::weight, rows * depth);
  lines.pack_lines(rows, 0, depth, to, depth);
  return {to, depth};
}

/// y = weight * patches + bias, in groups; weight is [groups, planes, taps], bias (or null) has a number per plane of
/// y.
template <class T>
struct Correlation {
  using C = Compute<T>;
  using E = Element<T>;
  Windows windows;
  Grid grid;
  std::int64_t images, groups, planes;
  const T* x;
  T* y;
  const T *weight, *bias;
  bool relu;

  void run() const {
    const std::int64_t rows = groups * planes, taps = windows.taps();
    if (images * rows * windows.pixels() == 0) return;
    const C* const add = bias ? as_numbers(bias, rows, Scratch::bias) : nullptr;
    if (is_narrow(windows, planes)) return run_narrow(as_numbers(weight, rows * taps, Scratch::weight), add);
    auto* tap_offset = scratch<std::int32_t>(Scratch::table, taps);
    for (std::int64_t i = 0; i < taps; ++i) tap_offset[i] = static_cast<std::int32_t>(windows.tap_offset(i));
    if (is_shallow<C>(windows) && grid.column == 1)
      return run_shallow(tap_offset, as_numbers(weight, rows * taps, Scratch::weight), add);
    const Factors factors{lines_of(weight, rows, taps), add, tap_offset};
    const std::int64_t at_once = windows.at_once(images), chunks = (images + at_once - 1) / at_once;
    const std::int64_t vectors = (at_once * windows.pixels() + lanes<C> - 1) / lanes<C>,
                       count = groups * chunks * vectors;
    parallel_for(count, grain_of(count, windows.flops(images, rows)), [&](std::int64_t begin, std::int64_t end) {
      auto* frames = windows.template frames<Part<T>>(at_once);
      for_parts(begin, end, vectors, [&](std::int64_t part, std::int64_t from, std::int64_t to) {
        const std::int64_t group = part / chunks, image = part % chunks * at_once;
        const std::int64_t some = images - image < at_once ? images - image : at_once;
        const std::int64_t all = some * windows.pixels();
        run_part(factors, frames, group, image, from * lanes<C>, to * lanes<C> < all ? to * lanes<C> : all);
      });
    });
  }

  void run_shallow(const std::int32_t* tap_offset, const C* numbers, const C* add) const {
    const auto correlate = correlate_row_of<T, C>(windows.taps());
    const Frame& frame = windows.frame;
    const std::int64_t count = images * groups * windows.out_h;
    parallel_for(
        count, grain_of(count, windows.flops(images, groups * planes)), [&](std::int64_t begin, std::int64_t end) {
          C* from = windows.template frames<C>(1);
          for_parts(begin, end, windows.out_h, [&](std::int64_t part, std::int64_t i, std::int64_t stop) {
            frame.fill(x + part * frame.planes * frame.h * frame.w, from);
            const std::int64_t first = part % groups * planes;
            for (T* to = y + part * planes * grid.plane + grid.begin; i < stop; ++i) {
              correlate(from + i * windows.stride_h * frame.width, tap_offset, numbers + first * windows.taps(),
                        add ? add + first : nullptr, relu, planes, windows.out_w, to + i * grid.row, grid.plane);
            }
          });
        });
  }

  void run_narrow(const C* numbers, const C* add) const {
    correlate_narrow(windows, images, groups, planes, x, numbers, add,
                     [&](std::int64_t image, std::int64_t plane, std::int64_t i, C* row) {
                       constexpr int n = lanes<C>;
                       T* to = y + (image * groups * planes + plane) * grid.plane + grid.begin + i * grid.row;
                       if (windows.stride_w == 2) {
                         for (std::int64_t j = 0; j < windows.out_w; j += n) {
                           const Vector<C> a = load_vector(row + 2 * j), b = load_vector(row + 2 * j + n);
                           const std::int64_t left = windows.out_w - j;  // the next row may begin right after
                           store_first(row + j, every_other<C>(a, b), left < n ? static_cast<int>(left) : n);
                         }
                       } else if (windows.stride_w > 2) {
                         for (std::int64_t j = 1; j < windows.out_w; ++j) row[j] = row[j * windows.stride_w];
                       }
                       for (std::int64_t j = 0; relu && j < windows.out_w; j += n) {
                         store_vector(row + j, cpu::ANNEAL_LEVEL::relu<C>(load_vector(row + j)));
                       }
                       copy_apart(windows.out_w, row, to, grid.column);
                     });
  }

  /// What patches are multiplied by, and what is added.
  struct Factors {
    Panel<E> weight;
    const C* bias;
    const std::int32_t* tap_offset;
  };

  /// The pixels [from, to), counted from image `first`'s on.
  void run_part(const Factors& factors, Part<T>* frames, std::int64_t group, std::int64_t first, std::int64_t from,
                std::int64_t to) const {
    if (from >= to) return;
    const Frame& frame = windows.frame;
    const std::int64_t pixels = windows.pixels(), depth = (windows.taps() + steps<T> - 1) / steps<T>;
    for (std::int64_t i = from / pixels; i <= (to - 1) / pixels; ++i) {
      frame.fill(x + ((first + i) * groups + group) * frame.planes * frame.h * frame.w, frames + i * frame.size());
    }
    const Panel<E> w{factors.weight.data + group * planes * factors.weight.ld, factors.weight.ld};
    const auto rows = [&](std::int64_t i, std::int64_t, std::int64_t k, std::int64_t) {
      return Panel<E>{w.data + i * w.ld + k, w.ld};
    };
    const Epilogue<C> epilogue{false, factors.bias ? factors.bias + group * planes : nullptr, nullptr, relu};
    const bool dense = std::is_same_v<T, C> && grid.column == 1 && grid.row == windows.out_w;
    for (int columns; from < to; from += columns) {
      columns = next_panel<C>(to - from);
      const Patches<T> patches(windows, factors.tap_offset, frames, from, columns);
      if constexpr (std::is_same_v<T, C>) {
        if (dense && from % pixels + columns <= pixels) {
          multiply<E>(planes, columns, depth, planes, rows, patches, at(group, first, from), grid.plane, epilogue);
          continue;
        }
      }
      C* product = scratch<C>(Scratch::product, planes * tile_columns<C>);
      multiply<E>(planes, columns, depth, planes, rows, patches, product, tile_columns<C>, epilogue);
      spread(patches, product, group, first, from);
    }
  }

  /// A panel of pixels, in all planes.
  void spread(const Patches<T>& patches, const C* from, std::int64_t group, std::int64_t first,
              std::int64_t pixel) const {
    T* to[tile_columns<C>];
    for (int r = 0; r < patches.runs; ++r) to[r] = at(group, first, pixel + patches.run[r].to);
    for (std::int64_t p = 0; p < planes; ++p, from += tile_columns<C>) {
      for (int r = 0; r < patches.runs; ++r) {
        const C* run = from + patches.run[r].to;
        T* row = to[r] + p * grid.plane;
        const int length = patches.run[r].length;
        copy_apart(length, run, row, grid.column);
      }
    }
  }

  T* at(std::int64_t group, std::int64_t first, std::int64_t pixel) const {
    const std::int64_t j = pixel % windows.out_w, i = pixel / windows.out_w % windows.out_h;
    const std::int64_t image = first + pixel / windows.pixels();
    return y + (image * groups + group) * planes * grid.plane + grid.begin + i * grid.row + j * grid.column;
  }
};

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
void flip(const ConvShape& s, const Phase& h, const Phase& w, const T* weight, T* to) {
  const std::int64_t c_in = s.c_in / s.groups, c_out = s.c_out / s.groups, kernel = s.kernel_h * s.kernel_w;
  const std::int64_t taps = h.taps * w.taps, count = s.groups * c_in;
  parallel_for(count, grain_of(count, 4.0 * static_cast<double>(count * c_out * taps)),
               [&](std::int64_t begin, std::int64_t end) {
                 // A few output channels at a time: their weights for the next input are in lines already read.
                 constexpr std::int64_t at_once = 16;
                 for (std::int64_t o = 0; o < c_out; o += at_once) {
                   const std::int64_t some = c_out - o < at_once ? c_out - o : at_once;
                   for (std::int64_t i = begin; i < end; ++i) {
                     const T* from = weight + ((i / c_in * c_out + o) * c_in + i % c_in) * kernel;
                     T* row = to + (i * c_out + o) * taps;
                     for (std::int64_t k = 0; k < some; ++k, from += c_in * kernel) {
                       for (std::int64_t r = 0; r < h.taps; ++r) {
                         const T* line = from + (h.last - r * h.step) * s.kernel_w + w.last;
                         for (std::int64_t q = 0; q < w.taps; ++q) *row++ = line[-q * w.step];
                       }
                     }
                   }
                 }
               });
}

/// The input gradient, some images at a time: each phase writes some pixels of every line, which wait in a cache for
/// the others.
template <class T>
struct InputGrad {
  ConvShape s;
  const T *dy, *weight;
  T* dx;
  // One pass over a depthwise dx is worth products with the zeros between dy's pixels.
  bool spread = s.groups == s.c_in && s.c_out == s.c_in && s.stride_h * s.stride_w <= 4;
  std::int64_t step_h = spread ? s.stride_h : 1, step_w = spread ? s.stride_w : 1;
  std::int64_t stride_h = s.stride_h / step_h, stride_w = s.stride_w / step_w;

  void run() const {
    const std::int64_t planes = s.c_in * (s.c_out / s.groups), size = s.c_in * s.h * s.w;
    T* const flipped = scratch<T>(Scratch::partial, planes * s.kernel_h * s.kernel_w);
    T* to = flipped;
    for_phases([&](std::int64_t, std::int64_t, const Phase& h, const Phase& w) {
      flip(s, h, w, weight, to);
      to += planes * h.taps * w.taps;
    });
    const std::int64_t room = size > 0 ? (std::int64_t{1} << 18) / size : 0, some = room < 1 ? 1 : room;
    const std::int64_t at_once = stride_h * stride_w > 1 && some < s.n ? some : s.n;
    for (std::int64_t first = 0; first < s.n; first += at_once) {
      const T* from = flipped;
      for_phases([&](std::int64_t i, std::int64_t j, const Phase& h, const Phase& w) {
        run_phase(i, j, h, w, from, first, s.n - first < at_once ? s.n - first : at_once);
        from += planes * h.taps * w.taps;
      });
    }
  }

  template <class F>
  void for_phases(const F& f) const {
    for (std::int64_t i = 0; i < stride_h && i < s.h; ++i) {
      for (std::int64_t j = 0; j < stride_w && j < s.w; ++j) {
        f(i, j, Phase(i, s.h, s.kernel_h, stride_h, s.padding_h, s.dilation_h),
          Phase(j, s.w, s.kernel_w, stride_w, s.padding_w, s.dilation_w));
      }
    }
  }

  void run_phase(std::int64_t i, std::int64_t j, const Phase& h, const Phase& w, const T* flipped, std::int64_t first,
                 std::int64_t images) const {
    const Frame frame{s.c_out / s.groups, s.out_h(), s.out_w(), h.top, w.top, h.frame(), w.frame(), step_h, step_w};
    Correlation<T>{Windows{frame, h.taps, w.taps, h.dilation, w.dilation, 1, 1, h.size, w.size},
                   Grid{i * s.w + j, stride_h * s.w, stride_w, s.h * s.w},
                   images,
                   s.groups,
                   s.c_in / s.groups,
                   dy + first * s.c_out * frame.h * frame.w,
                   dx + first * s.c_in * s.h * s.w,
                   flipped,
                   nullptr,
                   false}
        .run();
  }
};

}  // namespace

template <>
void run(const Conv2d& a) {
  if (run_winograd(a) || run_pointwise(a)) return;
  visit_floating(a.dtype, [&]<class T>() {
    const ConvShape& s = a.shape;
    const Windows windows = windows_of(s);
    const Grid grid{0, windows.out_w, 1, windows.pixels()};
    Correlation<T>{windows,
                   grid,
                   s.n,
                   s.groups,
                   s.c_out / s.groups,
                   static_cast<const T*>(a.x),
                   static_cast<T*>(a.y),
                   static_cast<const T*>(a.weight),
                   static_cast<const T*>(a.bias),
                   a.activation == Activation::relu}
        .run();
  });
}

template <>
void run(const Conv2dInputGrad& a) {
  if (run_winograd(a) || run_pointwise(a)) return;
  visit_floating(a.dtype, [&]<class T>() {
    InputGrad<T>{a.shape, static_cast<const T*>(a.dy), static_cast<const T*>(a.weight), static_cast<T*>(a.dx)}.run();
  });
}

}  // namespace kernels::cpu::ANNEAL_LEVEL
}  // namespace v0
}  // namespace anneal
