// Pooling, a plane at a time. Padding is at most half a kernel, so every window has a pixel.
#include "anneal/kernels/cpu/gemm.h"
#include "anneal/kernels/cpu/level.h"
#include "anneal/kernels/parallel.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu::ANNEAL_LEVEL {
namespace {

/// A window's pixels [begin, end) in one dimension.
struct Range {
  std::int64_t begin, end;
};
ANNEAL_HD Range window(std::int64_t at, std::int64_t stride, std::int64_t padding, std::int64_t kernel,
                       std::int64_t size) {
  const std::int64_t begin = at * stride - padding, end = begin + kernel;
  return {begin < 0 ? 0 : begin, end < size ? end : size};
}

/// Calls `f(plane)` for every plane, on as many threads as they are worth.
template <class F>
void for_planes(const PoolShape& s, const F& f) {
  const double work =
      4.0 * static_cast<double>(s.planes * (s.out_h() * s.out_w() * s.kernel_h * s.kernel_w + s.h * s.w));
  parallel_for(s.planes, grain_of(s.planes, work), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t plane = begin; plane < end; ++plane) f(plane);
  });
}

/// The larger of a maximum so far and the next pixel: the first of equal ones, and NaN above all.
template <class C>
ANNEAL_HD void take(C& most, std::int32_t& index, C x, std::int32_t at) {
  const bool larger = (x > most) | (x != x);
  most = larger ? x : most;
  index = larger ? at : index;
}

/// A row of 2x2 windows side by side; `row` is the position of their first pixel, `w` the distance of their rows.
template <class T>
void max_pool_pairs(const T* top, std::int64_t w, std::int64_t n, std::int64_t row, T* y, std::int32_t* index) {
  using C = Compute<T>;
  using Position = std::conditional_t<sizeof(C) == 4, std::int32_t, std::int64_t>;
  Vector<Position> twice{};
  for (int i = 0; i < lanes<C>; ++i) twice[i] = 2 * i;
  for (std::int64_t i = 0; i < n; i += lanes<C>) {
    const int some = n - i < lanes<C> ? static_cast<int>(n - i) : lanes<C>;
    const int first = 2 * some < lanes<C> ? 2 * some : lanes<C>, second = 2 * some - first;
    const T *above = top + 2 * i, *below = above + w;
    const Vector<C> a0 = load_first(above, first), a1 = load_first(above + first, second);
    const Vector<C> b0 = load_first(below, first), b1 = load_first(below + first, second);
    const Vector<Position> corner = twice + static_cast<Position>(row + 2 * i);
    Vector<C> most = every_other<C>(a0, a1);
    Vector<Position> at = corner;
    const auto take_all = [&](Vector<C> x, std::int64_t distance) {
      const auto larger = __builtin_bit_cast(Vector<Position>, (x > most) | (x != x));
      most = __builtin_bit_cast(Vector<C>, (__builtin_bit_cast(Vector<Position>, x) & larger) |
                                               (__builtin_bit_cast(Vector<Position>, most) & ~larger));
      at = ((corner + static_cast<Position>(distance)) & larger) | (at & ~larger);
    };
    take_all(every_other<C, 1>(a0, a1), 1);
    take_all(every_other<C>(b0, b1), w);
    take_all(every_other<C, 1>(b0, b1), w + 1);
    store_first(y + i, most, some);
    if (!index) continue;
    if constexpr (sizeof(C) == 4) {
      store_first(index + i, at, some);
    } else {
      for (int j = 0; j < some; ++j) index[i + j] = static_cast<std::int32_t>(at[j]);
    }
  }
}

template <class T>
void max_pool(const PoolShape& s, const T* x, T* y, std::int32_t* index) {
  const std::int64_t out_w = s.out_w();
  const bool pairs =
      s.kernel_h == 2 && s.kernel_w == 2 && s.stride_h == 2 && s.stride_w == 2 && s.padding_h == 0 && s.padding_w == 0;
  for (std::int64_t i = 0; i < s.out_h(); ++i, y += out_w, index += index ? out_w : 0) {
    if (pairs) {
      max_pool_pairs(x + 2 * i * s.w, s.w, out_w, 2 * i * s.w, y, index);
      continue;
    }
    const Range rows = window(i, s.stride_h, s.padding_h, s.kernel_h, s.h);
    for (std::int64_t j = 0; j < out_w; ++j) {
      const Range columns = window(j, s.stride_w, s.padding_w, s.kernel_w, s.w);
      auto at = static_cast<std::int32_t>(rows.begin * s.w + columns.begin);
      auto most = load(x[at]);
      for (std::int64_t r = rows.begin; r < rows.end; ++r) {
        for (std::int64_t c = columns.begin; c < columns.end; ++c) {
          take(most, at, load(x[r * s.w + c]), static_cast<std::int32_t>(r * s.w + c));
        }
      }
      y[j] = store<T>(most);
      if (index) index[j] = at;
    }
  }
}

template <class T>
void avg_pool(const PoolShape& s, bool count_include_pad, const T* x, T* y) {
  using C = Compute<T>;
  for (std::int64_t i = 0; i < s.out_h(); ++i) {
    const Range rows = window(i, s.stride_h, s.padding_h, s.kernel_h, s.h);
    for (std::int64_t j = 0; j < s.out_w(); ++j) {
      const Range columns = window(j, s.stride_w, s.padding_w, s.kernel_w, s.w);
      C sum = 0;
      for (std::int64_t r = rows.begin; r < rows.end; ++r) {
        for (std::int64_t c = columns.begin; c < columns.end; ++c) sum += load(x[r * s.w + c]);
      }
      const std::int64_t count =
          count_include_pad ? s.kernel_h * s.kernel_w : (rows.end - rows.begin) * (columns.end - columns.begin);
      *y++ = store<T>(sum / static_cast<C>(count));
    }
  }
}

template <class C, class T>
void add_avg_pool_grad(const PoolShape& s, bool count_include_pad, const T* dy, C* dx) {
  for (std::int64_t i = 0; i < s.out_h(); ++i) {
    const Range rows = window(i, s.stride_h, s.padding_h, s.kernel_h, s.h);
    for (std::int64_t j = 0; j < s.out_w(); ++j) {
      const Range columns = window(j, s.stride_w, s.padding_w, s.kernel_w, s.w);
      const std::int64_t count =
          count_include_pad ? s.kernel_h * s.kernel_w : (rows.end - rows.begin) * (columns.end - columns.begin);
      const C share = load(*dy++) / static_cast<C>(count);
      for (std::int64_t r = rows.begin; r < rows.end; ++r) {
        for (std::int64_t c = columns.begin; c < columns.end; ++c) dx[r * s.w + c] += share;
      }
    }
  }
}

/// Calls `add(plane, dx)` with zeros to add a plane's gradient to, as numbers of C, and leaves the sums in `dx`.
template <class T, class F>
void for_gradient_planes(const PoolShape& s, void* dx, const F& add) {
  using C = Compute<T>;
  const std::int64_t size = s.h * s.w;
  for_planes(s, [&](std::int64_t plane) {
    T* to = static_cast<T*>(dx) + plane * size;
    C* sum;
    if constexpr (std::is_same_v<T, C>) sum = to;
    else sum = scratch<C>(Scratch::image, size);
    for (std::int64_t i = 0; i < size; ++i) sum[i] = 0;
    add(plane, sum);
    if constexpr (!std::is_same_v<T, C>) copy_matrix(1, size, sum, 0, to, 0);
  });
}

}  // namespace

template <>
void run(const MaxPool2d& a) {
  visit_floating(a.dtype, [&]<class T>() {
    const std::int64_t in = a.shape.h * a.shape.w, out = a.shape.out_h() * a.shape.out_w();
    for_planes(a.shape, [&](std::int64_t plane) {
      max_pool(a.shape, static_cast<const T*>(a.x) + plane * in, static_cast<T*>(a.y) + plane * out,
               a.index ? a.index + plane * out : nullptr);
    });
  });
}

template <>
void run(const MaxPool2dGrad& a) {
  visit_floating(a.dtype, [&]<class T>() {
    const std::int64_t out = a.shape.out_h() * a.shape.out_w();
    for_gradient_planes<T>(a.shape, a.dx, [&](std::int64_t plane, Compute<T>* dx) {
      const T* dy = static_cast<const T*>(a.dy) + plane * out;
      const std::int32_t* index = a.index + plane * out;
      for (std::int64_t i = 0; i < out; ++i) dx[index[i]] += load(dy[i]);
    });
  });
}

template <>
void run(const AvgPool2d& a) {
  visit_floating(a.dtype, [&]<class T>() {
    const std::int64_t in = a.shape.h * a.shape.w, out = a.shape.out_h() * a.shape.out_w();
    for_planes(a.shape, [&](std::int64_t plane) {
      avg_pool(a.shape, a.count_include_pad, static_cast<const T*>(a.x) + plane * in,
               static_cast<T*>(a.y) + plane * out);
    });
  });
}

template <>
void run(const AvgPool2dGrad& a) {
  visit_floating(a.dtype, [&]<class T>() {
    const std::int64_t out = a.shape.out_h() * a.shape.out_w();
    for_gradient_planes<T>(a.shape, a.dx, [&](std::int64_t plane, Compute<T>* dx) {
      add_avg_pool_grad(a.shape, a.count_include_pad, static_cast<const T*>(a.dy) + plane * out, dx);
    });
  });
}

}  // namespace kernels::cpu::ANNEAL_LEVEL
}  // namespace v0
}  // namespace anneal
