// Convolutions with kernels of one pixel and no padding: each image is a matrix [channels, pixels], and the weight
// another. With a stride they are of every stride-th pixel alone, which is copied out of the images or into them, some
// images at a time.
#include "anneal/kernels/cpu/conv_forms.h"
#include "anneal/kernels/cpu/gemm.h"
#include "anneal/kernels/cpu/pack.h"
#include "anneal/kernels/cpu/simd.h"
#include "anneal/kernels/cpu/windows.h"
#include "anneal/kernels/parallel.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu::ANNEAL_LEVEL {
namespace {

/// Fewer pixels than this fill no panels of a product.
constexpr std::int64_t least_pixels = 48;

bool is_pointwise(const ConvShape& s) {
  return s.kernel_h == 1 && s.kernel_w == 1 && s.padding_h == 0 && s.padding_w == 0 && s.groups == 1 && s.n > 0 &&
         s.c_in > 0 && s.c_out > 0 && s.out_h() * s.out_w() >= least_pixels;
}

bool is_strided(const ConvShape& s) { return s.stride_h * s.stride_w > 1; }

/// So many strided images take at most 4 MB of numbers; as many each time.
std::int64_t images_at_once(const ConvShape& s) {
  if (!is_strided(s)) return s.n;
  const std::int64_t room = (std::int64_t{1} << 20) / (s.c_in * s.out_h() * s.out_w()), most = room < 1 ? 1 : room;
  const std::int64_t times = (s.n + most - 1) / most;
  return (s.n + times - 1) / times;
}

/// Calls f(p) for each of so many planes, on as many threads as they are worth.
template <class F>
void for_planes(std::int64_t count, const ConvShape& s, const F& f) {
  parallel_for(count, grain_of(count, 4.0 * static_cast<double>(count * s.h * s.w)),
               [&](std::int64_t begin, std::int64_t end) {
                 for (; begin < end; ++begin) f(begin);
               });
}

/// to[j] = from[2 j] for j below n.
template <class T>
void take_every_second(const T* from, std::int64_t n, T* to) {
  if constexpr (sizeof(T) == 2) {  // as the lower halves of words, which vectors can cut off
    for (std::int64_t j = 0; j + 1 < n; ++j) {
      std::uint32_t two;
      __builtin_memcpy(&two, from + 2 * j, 4);
      const auto low = static_cast<std::uint16_t>(two);
      __builtin_memcpy(to + j, &low, 2);
    }
    if (n > 0) to[n - 1] = from[2 * (n - 1)];
  } else {
    for (std::int64_t j = 0; j < n; ++j) to[j] = from[2 * j];
  }
}

/// The pixels of `images` images that windows begin at; without a stride, the images.
template <class T>
const T* gather(const ConvShape& s, const T* x, std::int64_t images) {
  if (!is_strided(s)) return x;
  const std::int64_t h = s.out_h(), w = s.out_w(), planes = images * s.c_in;
  T* const to = scratch<T>(Scratch::image, planes * h * w);
  for_planes(planes, s, [&](std::int64_t p) {
    T* row = to + p * h * w;
    for (std::int64_t i = 0; i < h; ++i, row += w) {
      const T* from = x + (p * s.h + i * s.stride_h) * s.w;
      // The rows that follow lie too far apart for the processor to see.
      const T* const later = from + 16 * s.stride_h * s.w;
      for (std::int64_t j = 0; j < s.w; j += 64 / static_cast<std::int64_t>(sizeof(T))) __builtin_prefetch(later + j);
      if (s.stride_w == 2) {
        take_every_second(from, w, row);
      } else {
        for (std::int64_t j = 0; j < w; ++j) row[j] = from[j * s.stride_w];
      }
    }
  });
  return to;
}

/// The transpose of `from`, which is [rows, columns].
template <class T>
T* transposed(const T* from, std::int64_t rows, std::int64_t columns) {
  T* const to = scratch<T>(Scratch::weight, rows * columns);
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < columns; ++j) to[j * rows + i] = from[i * columns + j];
  }
  return to;
}

/// The other way: zero where no window begins.
template <class T>
void scatter(const ConvShape& s, const T* from, std::int64_t images, T* x) {
  const std::int64_t h = s.out_h(), w = s.out_w();
  for_planes(images * s.c_in, s, [&](std::int64_t p) {
    T* plane = x + p * s.h * s.w;
    __builtin_memset(plane, 0, static_cast<std::size_t>(s.h * s.w) * sizeof(T));
    const T* row = from + p * h * w;
    for (std::int64_t i = 0; i < h; ++i, row += w) copy_apart(w, row, plane + i * s.stride_h * s.w, s.stride_w);
  });
}

/// Of each image: to[rows, pixels] = activation(weight[rows, depth] from[depth, pixels]).
void multiply_images(DType dtype, std::int64_t images, std::int64_t rows, std::int64_t depth, std::int64_t pixels,
                     const void* weight, const void* from, void* to, Activation activation) {
  run(Gemm{.dtype = dtype,
           .out = dtype,
           .trans_a = false,
           .trans_b = false,
           .m = rows,
           .n = pixels,
           .k = depth,
           .lda = depth,
           .ldb = pixels,
           .ldc = pixels,
           .batch = images,
           .stride_a = 0,
           .stride_b = depth * pixels,
           .stride_c = rows * pixels,
           .a = weight,
           .b = from,
           .c = to,
           .bias = nullptr,
           .activation = activation,
           .accumulate = false});
}

/// Calls `f(first, images)` for as many images at a time as fit.
template <class F>
void for_images(const ConvShape& s, const F& f) {
  const std::int64_t at_once = images_at_once(s);
  for (std::int64_t first = 0; first < s.n; first += at_once) f(first, s.n - first < at_once ? s.n - first : at_once);
}

}  // namespace

bool run_pointwise(const Conv2d& a) {
  const ConvShape& s = a.shape;
  if (!is_pointwise(s) || a.bias) return false;
  const std::int64_t pixels = s.out_h() * s.out_w();
  visit_floating(a.dtype, [&]<class T>() {
    for_images(s, [&](std::int64_t first, std::int64_t images) {
      const T* const x = gather(s, static_cast<const T*>(a.x) + first * s.c_in * s.h * s.w, images);
      multiply_images(a.dtype, images, s.c_out, s.c_in, pixels, a.weight, x,
                      static_cast<T*>(a.y) + first * s.c_out * pixels, a.activation);
    });
  });
  return true;
}

bool run_pointwise(const Conv2dInputGrad& a) {
  const ConvShape& s = a.shape;
  if (!is_pointwise(s)) return false;
  const std::int64_t pixels = s.out_h() * s.out_w();
  visit_floating(a.dtype, [&]<class T>() {
    const T* const weight = transposed(static_cast<const T*>(a.weight), s.c_out, s.c_in);
    for_images(s, [&](std::int64_t first, std::int64_t images) {
      T* const dx = static_cast<T*>(a.dx) + first * s.c_in * s.h * s.w;
      T* const product = is_strided(s) ? scratch<T>(Scratch::image, images * s.c_in * pixels) : dx;
      multiply_images(a.dtype, images, s.c_in, s.c_out, pixels, weight,
                      static_cast<const T*>(a.dy) + first * s.c_out * pixels, product, Activation::none);
      if (is_strided(s)) scatter(s, product, images, dx);
    });
  });
  return true;
}

bool run_pointwise(const Conv2dWeightGrad& a) {
  const ConvShape& s = a.shape;
  if (!is_pointwise(s)) return false;
  const std::int64_t pixels = s.out_h() * s.out_w();
  // The one of fewer channels is copied, transposed, for each image: the rows are those of the other.
  const bool by_input = s.c_in > s.c_out;
  const std::int64_t rows = by_input ? s.c_in : s.c_out, columns = by_input ? s.c_out : s.c_in;
  visit_floating(a.dtype, a.out, [&]<class T, class Out>() {
    using C = Compute<T>;
    const std::int64_t size = rows * columns, parts = image_parts(images_at_once(s), size);
    C* const sum = scratch<C>(Scratch::partial, parts * size);
    for_images(s, [&](std::int64_t first, std::int64_t images) {
      const T* const x = gather(s, static_cast<const T*>(a.x) + first * s.c_in * s.h * s.w, images);
      for (std::int64_t i = 0; i < images; i += parts) {
        const T* const dy = static_cast<const T*>(a.dy) + (first + i) * s.c_out * pixels;
        run(Gemm{.dtype = a.dtype,
                 .out = std::is_same_v<C, double> ? DType::f64 : DType::f32,
                 .trans_a = false,
                 .trans_b = true,
                 .m = rows,
                 .n = columns,
                 .k = pixels,
                 .lda = pixels,
                 .ldb = pixels,
                 .ldc = columns,
                 .batch = images - i < parts ? images - i : parts,
                 .stride_a = rows * pixels,
                 .stride_b = columns * pixels,
                 .stride_c = size,
                 .a = by_input ? x + i * s.c_in * pixels : dy,
                 .b = by_input ? dy : x + i * s.c_in * pixels,
                 .c = sum,
                 .bias = nullptr,
                 .activation = Activation::none,
                 .accumulate = first + i > 0});
      }
    });
    for (std::int64_t part = 1; part < parts; ++part) {
      for (std::int64_t i = 0; i < size; ++i) sum[i] += sum[part * size + i];
    }
    auto* const to = static_cast<Out*>(a.dweight);
    for (std::int64_t o = 0; o < s.c_out; ++o) {
      for (std::int64_t i = 0; i < s.c_in; ++i) {
        Out& at = to[o * s.c_in + i];
        const C value = by_input ? sum[i * columns + o] : sum[o * columns + i];
        at = store<Out>(a.accumulate ? load(at) + value : value);
      }
    }
  });
  return true;
}

}  // namespace kernels::cpu::ANNEAL_LEVEL
}  // namespace v0
}  // namespace anneal
