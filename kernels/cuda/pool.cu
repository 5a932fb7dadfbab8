// Pooling: a thread an element of the result. Gradients are gathered: a pixel adds up what the windows that it is in
// send it, in their order. Padding is at most half a kernel, so every window has a pixel.
#include "anneal/kernels/cuda/model.h"

namespace anneal {
inline namespace v0 {
namespace kernels::ANNEAL_GPU {
namespace {

/// Positions [begin, end) in one dimension.
struct Range {
  std::int64_t begin, end;
  ANNEAL_HD std::int64_t size() const { return end - begin; }
};
/// The pixels of a window.
ANNEAL_HD Range window(std::int64_t at, std::int64_t stride, std::int64_t padding, std::int64_t kernel,
                       std::int64_t size) {
  const std::int64_t begin = at * stride - padding, end = begin + kernel;
  return {begin < 0 ? 0 : begin, end < size ? end : size};
}
/// The windows of a pixel.
ANNEAL_HD Range windows(std::int64_t at, std::int64_t stride, std::int64_t padding, std::int64_t kernel,
                        std::int64_t count) {
  const std::int64_t first = at + padding - kernel;  // the last window start that does not reach the pixel
  const std::int64_t begin = first < 0 ? 0 : first / stride + 1, end = (at + padding) / stride + 1;
  return {begin, end < count ? end : count};
}

/// An element of [planes, height, width].
struct Place {
  std::int64_t plane, row, column;
};
ANNEAL_DEVICE Place place(std::int64_t i, std::int64_t height, std::int64_t width) {
  const Division line = divide(i, width), plane = divide(line.quotient, height);
  return {plane.quotient, plane.rest, line.rest};
}

/// What the gradient of a mean is divided by.
ANNEAL_DEVICE std::int64_t divisor(const PoolShape& s, bool count_include_pad, const Range& rows,
                                   const Range& columns) {
  return count_include_pad ? s.kernel_h * s.kernel_w : rows.size() * columns.size();
}

struct PoolKernel {
  static constexpr int threads = 256;
  PoolShape s;

  ANNEAL_HD std::int64_t pixels() const { return s.planes * s.h * s.w; }
  ANNEAL_HD std::int64_t outputs() const { return s.planes * s.out_h() * s.out_w(); }
  ANNEAL_HD Range rows(std::int64_t i) const { return window(i, s.stride_h, s.padding_h, s.kernel_h, s.h); }
  ANNEAL_HD Range columns(std::int64_t j) const { return window(j, s.stride_w, s.padding_w, s.kernel_w, s.w); }

  /// Calls f(i, rows, columns) with the pixels of each element of the output.
  template <class F>
  ANNEAL_DEVICE void each_output(const Block& block, const F& f) const {
    for_each(block, outputs(), [&](std::int64_t i) {
      const Place at = place(i, s.out_h(), s.out_w());
      f(i, at.plane * s.h * s.w, rows(at.row), columns(at.column));
    });
  }
  /// dx = the sum of f(output, position of the pixel in its plane, window's row, window's column) over windows.
  template <class T, class F>
  ANNEAL_DEVICE void gather(const Block& block, T* dx, const F& f) const {
    for_each(block, pixels(), [&](std::int64_t i) {
      const Place at = place(i, s.h, s.w);
      const Range down = windows(at.row, s.stride_h, s.padding_h, s.kernel_h, s.out_h());
      const Range across = windows(at.column, s.stride_w, s.padding_w, s.kernel_w, s.out_w());
      Compute<T> sum = 0;
      for (std::int64_t r = down.begin; r < down.end; ++r) {
        for (std::int64_t c = across.begin; c < across.end; ++c) {
          sum += f((at.plane * s.out_h() + r) * s.out_w() + c, at.row * s.w + at.column, r, c);
        }
      }
      dx[i] = store<T>(sum);
    });
  }
};

template <class T>
struct MaxPool : PoolKernel {
  const T* x;
  T* y;
  std::int32_t* index;

  ANNEAL_DEVICE void operator()(Block& block) const {
    each_output(block, [&](std::int64_t i, std::int64_t plane, const Range& rows, const Range& columns) {
      std::int64_t best = rows.begin * s.w + columns.begin;
      Compute<T> most = load(x[plane + best]);
      for (std::int64_t r = rows.begin; r < rows.end; ++r) {
        for (std::int64_t c = columns.begin; c < columns.end; ++c) {
          const Compute<T> pixel = load(x[plane + r * s.w + c]);
          const bool larger = (pixel > most) | math::is_nan(pixel);
          most = larger ? pixel : most;
          best = larger ? r * s.w + c : best;
        }
      }
      y[i] = store<T>(most);
      if (index) index[i] = static_cast<std::int32_t>(best);
    });
  }
};

template <class T>
struct MaxPoolGrad : PoolKernel {
  const T* dy;
  const std::int32_t* index;
  T* dx;

  ANNEAL_DEVICE void operator()(Block& block) const {
    gather(block, dx, [&](std::int64_t output, std::int64_t pixel, std::int64_t, std::int64_t) {
      return index[output] == pixel ? load(dy[output]) : Compute<T>(0);
    });
  }
};

template <class T>
struct AvgPool : PoolKernel {
  bool count_include_pad;
  const T* x;
  T* y;

  ANNEAL_DEVICE void operator()(Block& block) const {
    each_output(block, [&](std::int64_t i, std::int64_t plane, const Range& rows, const Range& columns) {
      Compute<T> sum = 0;
      for (std::int64_t r = rows.begin; r < rows.end; ++r) {
        for (std::int64_t c = columns.begin; c < columns.end; ++c) sum += load(x[plane + r * s.w + c]);
      }
      y[i] = store<T>(sum / static_cast<Compute<T>>(divisor(s, count_include_pad, rows, columns)));
    });
  }
};

template <class T>
struct AvgPoolGrad : PoolKernel {
  bool count_include_pad;
  const T* dy;
  T* dx;

  ANNEAL_DEVICE void operator()(Block& block) const {
    gather(block, dx, [&](std::int64_t output, std::int64_t, std::int64_t r, std::int64_t c) {
      return load(dy[output]) / static_cast<Compute<T>>(divisor(s, count_include_pad, rows(r), columns(c)));
    });
  }
};

}  // namespace

template <>
void run(const MaxPool2d& a, Stream stream) {
  visit_floating(a.dtype, [&]<class T> {
    const MaxPool<T> kernel{{a.shape}, static_cast<const T*>(a.x), static_cast<T*>(a.y), a.index};
    launch(stream, blocks_for(kernel.outputs(), kernel.threads), kernel);
  });
}

template <>
void run(const MaxPool2dGrad& a, Stream stream) {
  visit_floating(a.dtype, [&]<class T> {
    const MaxPoolGrad<T> kernel{{a.shape}, static_cast<const T*>(a.dy), a.index, static_cast<T*>(a.dx)};
    launch(stream, blocks_for(kernel.pixels(), kernel.threads), kernel);
  });
}

template <>
void run(const AvgPool2d& a, Stream stream) {
  visit_floating(a.dtype, [&]<class T> {
    const AvgPool<T> kernel{{a.shape}, a.count_include_pad, static_cast<const T*>(a.x), static_cast<T*>(a.y)};
    launch(stream, blocks_for(kernel.outputs(), kernel.threads), kernel);
  });
}

template <>
void run(const AvgPool2dGrad& a, Stream stream) {
  visit_floating(a.dtype, [&]<class T> {
    const AvgPoolGrad<T> kernel{{a.shape}, a.count_include_pad, static_cast<const T*>(a.dy), static_cast<T*>(a.dx)};
    launch(stream, blocks_for(kernel.pixels(), kernel.threads), kernel);
  });
}

}  // namespace kernels::ANNEAL_GPU
}  // namespace v0
}  // namespace anneal
