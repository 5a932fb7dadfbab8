// The gradient of a convolution's weight, by products of patches and dy.
#include "anneal/kernels/cpu/conv_forms.h"
#include "anneal/kernels/cpu/narrow.h"
#include "anneal/kernels/cpu/shallow.h"
#include "anneal/kernels/cpu/windows.h"
#include "anneal/kernels/parallel.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu::ANNEAL_LEVEL {
namespace {

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

  void run() const {
    const std::int64_t taps = windows.taps(), size = taps * planes;
    if (groups * size == 0) return;
    if (is_narrow(windows, planes)) return run_narrow();
    const std::int64_t n = image_parts(images, groups * size);
    C* sums = scratch<C>(Scratch::partial, groups * n * size);
    if (images * windows.pixels() == 0) {
      for (std::int64_t i = 0; i < groups * n * size; ++i) sums[i] = 0;
    } else if (has_shallow_grad(windows)) {
      sum_shallow(n, sums);
    } else {
      const std::int64_t strips_each = (taps + tile_rows - 1) / tile_rows, count = groups * n * strips_each;
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

  void run_narrow() const {
    const std::int64_t taps = windows.taps(), pixels = windows.pixels(), rows = groups * planes;
    parallel_for(rows, grain_of(rows, windows.flops(images, rows)), [&](std::int64_t begin, std::int64_t end) {
      if (begin == end) return;
      const Frame& frame = windows.frame;
      const Line<C> line(windows);
      const Frame lined{1,           windows.out_h,    windows.out_w,   0, 0, frame.height,
                        frame.width, windows.stride_h, windows.stride_w};
      C* spread = Line<C>::zeros(Scratch::rows, line.length + lanes<C>);
      C* sum = scratch<C>(Scratch::product, taps + 9);
      for (; begin < end; ++begin) {
        for (std::int64_t i = 0; i < taps + 9; ++i) sum[i] = 0;
        for (std::int64_t image = 0; image < images; ++image) {
          frame.fill(x + (image * groups + begin / planes) * frame.planes * frame.h * frame.w, line.frame);
          lined.fill(dy + (image * rows + begin) * pixels, spread);
          for (std::int64_t i = 0; i < taps; i += 9) dot_lines(spread, line.frame, line.tap + i, line.length, sum + i);
        }
        Out* to = dweight + begin * taps;
        for (std::int64_t i = 0; i < taps; ++i) to[i] = store<Out>(accumulate ? load(to[i]) + sum[i] : sum[i]);
      }
    });
  }

  /// sums[group][part][tap][plane], as dot products of dy's rows where they lie.
  void sum_shallow(std::int64_t n, C* sums) const {
    constexpr int width = lanes<C>;
    const Frame& frame = windows.frame;
    const std::int64_t taps = windows.taps(), pixels = windows.pixels(), count = groups * n * planes;
    parallel_for(count, grain_of(count, windows.flops(images, planes * groups)),
                 [&](std::int64_t begin, std::int64_t end) {
                   const Shifts<C> shifts(windows);
                   C* const parts = scratch<C>(Scratch::product, (taps * planes + width) * width);
                   for_parts(begin, end, planes, [&](std::int64_t i, std::int64_t from, std::int64_t to) {
                     const std::int64_t group = i / n, rows = to - from;
                     for (std::int64_t l = 0; l < rows * taps * width; ++l) parts[l] = 0;
                     for (std::int64_t image = images * (i % n) / n; image < images * (i % n + 1) / n; ++image) {
                       const std::int64_t at = image * groups + group;
                       shifts.copy(x + at * frame.planes * frame.h * frame.w);
                       for (std::int64_t t = 0, some; t < taps; t += some) {
                         some = next_tile(taps - t, shallow_taps);
                         dot_all_rows_of<T, C>(some)(rows, dy + (at * planes + from) * pixels, shifts.copies,
                                                     shifts.distance + t, pixels, parts + t * width, taps * width);
                       }
                     }
                     for (std::int64_t l = 0; l < rows * taps; l += width) {
                       Vector<C> v[width];
                       for (int k = 0; k < width; ++k) v[k] = load_vector(parts + (l + k) * width);
                       store_vector(parts + l, sums_of_lanes<C>(v));
                     }
                     transpose_matrix(rows, taps, parts, taps, sums + i * taps * planes + from, planes);
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

}  // namespace

template <>
void run(const Conv2dWeightGrad& a) {
  if (run_winograd(a) || run_pointwise(a)) return;
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
