#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "anneal/kernels/kernels.h"
#include "anneal/kernels/parallel.h"

namespace anneal {
namespace {

using kernels::Activation;
using kernels::ConvShape;
using Floating = TypeList<float, double, f16, bf16>;

template <class T>
std::vector<T> random_values(std::int64_t n, unsigned seed) {
  std::mt19937 engine(seed);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<T> values(static_cast<std::size_t>(n));
  for (T& value : values) value = store<T>(uniform(engine));
  return values;
}

/// The distance of 1 and the next number.
template <class T>
constexpr double epsilon = std::is_same_v<T, f16>      ? 0x1p-10
                           : std::is_same_v<T, bf16>   ? 0x1p-7
                           : std::is_same_v<T, double> ? 0x1p-52
                                                       : 0x1p-23;

/// `summands`: how many products make up one element. `share` of the largest element may be lost besides.
template <class T>
void expect_near(const std::vector<T>& got, const std::vector<double>& want, std::int64_t summands, double share) {
  ASSERT_EQ(got.size(), want.size());
  double largest = 0;
  for (const double value : want) largest = std::max(largest, std::abs(value));
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double tolerance =
        epsilon<T> * (1 + std::abs(want[i])) + epsilon<Compute<T>> * static_cast<double>(summands) + share * largest;
    ASSERT_NEAR(static_cast<double>(load(got[i])), want[i], tolerance) << "at " << i;
  }
}

/// The gradient of the weight is Out's.
template <class T, class Out = T>
struct Case {
  ConvShape s;
  std::int64_t c_in = s.c_in / s.groups, c_out = s.c_out / s.groups;
  std::vector<T> x = random_values<T>(s.n * s.c_in * s.h * s.w, 1),
                 weight = random_values<T>(s.c_out * c_in * s.kernel_h * s.kernel_w, 2),
                 bias = random_values<T>(s.c_out, 3), dy = random_values<T>(s.n * s.c_out * s.out_h() * s.out_w(), 4);
  std::vector<Out> old = random_values<Out>(s.c_out * c_in * s.kernel_h * s.kernel_w, 5);

  /// Calls `f(y, x, weight)` with the positions of every product that y is a sum of.
  template <class F>
  void for_products(const F& f) const {
    for (std::int64_t n = 0; n < s.n; ++n) {
      for (std::int64_t o = 0; o < s.c_out; ++o) {
        for (std::int64_t i = 0; i < s.out_h(); ++i) {
          for (std::int64_t j = 0; j < s.out_w(); ++j) {
            for (std::int64_t c = 0; c < c_in; ++c) {
              for (std::int64_t r = 0; r < s.kernel_h; ++r) {
                for (std::int64_t q = 0; q < s.kernel_w; ++q) {
                  const std::int64_t h = i * s.stride_h + r * s.dilation_h - s.padding_h;
                  const std::int64_t w = j * s.stride_w + q * s.dilation_w - s.padding_w;
                  if (h < 0 || h >= s.h || w < 0 || w >= s.w) continue;
                  f(((n * s.c_out + o) * s.out_h() + i) * s.out_w() + j,
                    ((n * s.c_in + o / c_out * c_in + c) * s.h + h) * s.w + w,
                    ((o * c_in + c) * s.kernel_h + r) * s.kernel_w + q);
                }
              }
            }
          }
        }
      }
    }
  }

  struct Results {
    std::vector<T> y, plain_y, dx;
    std::vector<Out> dweight, sum;
    bool operator==(const Results& other) const {
      return same(y, other.y) && same(plain_y, other.plain_y) && same(dx, other.dx) && same(dweight, other.dweight) &&
             same(sum, other.sum);
    }
    template <class V>
    static bool same(const V& a, const V& b) {
      return a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof a[0]) == 0;
    }
  };
  Results run(int threads) const {
    Results r{dy, dy, x, old, old};  // of the right sizes, and not what is to be found there
    set_num_threads(threads);
    constexpr DType dtype = dtype_of<T>;
    kernels::cpu::run(kernels::Conv2d{dtype, s, x.data(), weight.data(), bias.data(), r.y.data(), Activation::relu});
    kernels::cpu::run(kernels::Conv2d{dtype, s, x.data(), weight.data(), nullptr, r.plain_y.data(), Activation::none});
    kernels::cpu::run(kernels::Conv2dInputGrad{dtype, s, dy.data(), weight.data(), r.dx.data()});
    kernels::cpu::run(kernels::Conv2dWeightGrad{dtype, dtype_of<Out>, s, dy.data(), x.data(), r.dweight.data(), false});
    kernels::cpu::run(kernels::Conv2dWeightGrad{dtype, dtype_of<Out>, s, dy.data(), x.data(), r.sum.data(), true});
    set_num_threads(0);
    return r;
  }

  void check() const {
    std::vector<double> y(dy.size()), dx(x.size()), dweight(weight.size());
    for_products([&](std::int64_t at_y, std::int64_t at_x, std::int64_t at_weight) {
      const double value = load(x[at_x]), factor = load(weight[at_weight]), gradient = load(dy[at_y]);
      y[at_y] += value * factor;
      dx[at_x] += gradient * factor;
      dweight[at_weight] += gradient * value;
    });
    const std::int64_t kernel = s.kernel_h * s.kernel_w, pixels = s.n * s.out_h() * s.out_w();
    // Winograd's form is further from the sums than plain sums are.
    const bool winograd = s.kernel_h == 3 && s.kernel_w == 3 && s.stride_h * s.stride_w == 1 && c_in >= 16;
    const double share = winograd && std::is_same_v<Compute<T>, float> ? 5e-6 : 0;
    const Results got = run(1);
    expect_near(got.plain_y, y, c_in * kernel, share);
    for (std::size_t i = 0; i < y.size(); ++i) {
      const std::size_t plane = i / static_cast<std::size_t>(s.out_h() * s.out_w()) % static_cast<std::size_t>(s.c_out);
      y[i] = std::max(y[i] + load(bias[plane]), 0.0);
    }
    expect_near(got.y, y, c_in * kernel, share);
    expect_near(got.dx, dx, c_out * kernel, share);
    expect_near(got.dweight, dweight, pixels, share);
    for (std::size_t i = 0; i < dweight.size(); ++i) dweight[i] += load(old[i]);
    expect_near(got.sum, dweight, pixels, share);
    EXPECT_TRUE(got == run(2)) << "2 threads";
    EXPECT_TRUE(got == run(3)) << "3 threads";
  }
};

class ConvShapes : public testing::TestWithParam<ConvShape> {};

TEST_P(ConvShapes, EqualPlainLoops) {
  for_each_type(Floating{}, [&]<class T>() {
    SCOPED_TRACE(name_of(dtype_of<T>));
    Case<T>{GetParam()}.check();
    if constexpr (sizeof(T) == 2) Case<T, float>{GetParam()}.check();
  });
}

// n, c_in, h, w, c_out, kernel, stride, padding, dilation, groups
INSTANTIATE_TEST_SUITE_P(
    Kernels, ConvShapes,
    testing::Values(ConvShape{3, 20, 9, 10, 30, 3, 3, 1, 1, 1, 1, 1, 1, 1},    // Winograd's form
                    ConvShape{2, 17, 6, 37, 16, 3, 3, 1, 1, 0, 2, 1, 1, 1},    // no padding, more
                    ConvShape{5, 16, 4, 3, 70, 3, 3, 1, 1, 4, 3, 1, 1, 1},     // a window beside x
                    ConvShape{24, 16, 8, 8, 32, 3, 3, 1, 1, 1, 1, 1, 1, 1},    // many panels
                    ConvShape{2, 3, 7, 9, 5, 3, 3, 1, 1, 1, 1, 1, 1, 1},       // odd everything
                    ConvShape{3, 4, 8, 8, 6, 1, 1, 1, 1, 0, 0, 1, 1, 1},       // pointwise
                    ConvShape{2, 9, 17, 15, 5, 1, 1, 2, 2, 0, 0, 1, 1, 1},     // of every other pixel
                    ConvShape{2, 7, 20, 29, 8, 1, 1, 1, 3, 0, 0, 1, 1, 1},     // of every third
                    ConvShape{40, 512, 16, 16, 4, 1, 1, 2, 2, 0, 0, 1, 1, 1},  // in pieces
                    ConvShape{1, 2, 1, 1, 3, 1, 1, 1, 1, 0, 0, 1, 1, 1},       // one pixel
                    ConvShape{0, 2, 4, 4, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1},       // no images
                    ConvShape{2, 4, 11, 10, 6, 3, 3, 2, 2, 1, 1, 1, 1, 2},     // stride 2, groups
                    ConvShape{2, 3, 12, 40, 9, 3, 3, 3, 4, 1, 1, 1, 1, 1},     // stride above kernel
                    ConvShape{2, 3, 6, 7, 3, 1, 1, 2, 3, 0, 0, 1, 1, 1},       // pixels never read
                    ConvShape{2, 6, 13, 17, 70, 5, 4, 3, 2, 2, 3, 1, 2, 1},    // stride and dilation
                    ConvShape{2, 3, 9, 9, 4, 3, 2, 2, 2, 2, 1, 2, 3, 1},       // both ways, both 2
                    ConvShape{2, 3, 6, 6, 3, 3, 3, 1, 1, 4, 3, 1, 1, 1},       // padding above kernel
                    ConvShape{1, 8, 9, 9, 8, 3, 3, 1, 1, 1, 1, 1, 1, 8},       // depthwise
                    ConvShape{2, 4, 10, 11, 8, 5, 3, 2, 2, 2, 1, 1, 1, 4},     // 2 outputs a plane
                    ConvShape{2, 4, 9, 9, 4, 3, 3, 1, 2, 1, 1, 1, 1, 4},       // strided in one direction
                    ConvShape{2, 6, 9, 8, 6, 7, 7, 1, 1, 3, 3, 1, 1, 6},       // a wide window
                    ConvShape{3, 6, 5, 7, 1, 3, 3, 1, 1, 1, 1, 2, 1, 1},       // one output
                    ConvShape{2, 16, 1, 40, 20, 1, 3, 1, 2, 0, 1, 1, 1, 1},    // one row
                    ConvShape{2, 4, 10, 10, 12, 3, 3, 2, 2, 1, 1, 1, 1, 4},    // 3 outputs a plane
                    ConvShape{40, 2, 3, 3, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1},      // many small images
                    ConvShape{9, 3, 5, 5, 4, 2, 2, 1, 2, 0, 1, 2, 1, 1},       // even kernel
                    ConvShape{11, 6, 9, 9, 10, 1, 1, 1, 1, 0, 0, 1, 1, 1},     // images summed in parts
                    ConvShape{10, 5, 17, 15, 12, 1, 1, 2, 2, 0, 0, 1, 1, 1},   // the same of every other pixel
                    ConvShape{5, 1, 28, 28, 32, 3, 3, 1, 1, 1, 1, 1, 1, 1},    // a first layer
                    ConvShape{3, 1, 12, 31, 7, 3, 3, 2, 1, 1, 0, 1, 1, 1},     // one of every other row
                    ConvShape{2, 4, 5, 48, 14, 2, 2, 1, 1, 1, 1, 3, 2, 2},     // two planes, dilated, in groups
                    ConvShape{2, 3, 3, 16, 15, 1, 5, 1, 1, 0, 2, 1, 1, 3},     // five taps of one row
                    ConvShape{4, 1, 2, 13, 6, 2, 3, 1, 1, 1, 1, 1, 1, 1},      // six
                    ConvShape{2, 7, 4, 14, 5, 1, 1, 1, 1, 0, 0, 1, 1, 1},      // seven of one pixel
                    ConvShape{3, 3, 14, 13, 7, 3, 3, 1, 1, 1, 1, 1, 1, 1},     // 27 taps
                    ConvShape{9, 1, 20, 19, 6, 5, 5, 1, 1, 2, 2, 1, 1, 1},     // 25 of one plane
                    ConvShape{3, 70, 14, 14, 20, 3, 3, 1, 1, 1, 1, 1, 1, 1},   // a sum in blocks
                    ConvShape{5, 30, 64, 65, 6, 3, 3, 2, 2, 1, 1, 1, 1, 1},    // gradients of some images at a time
                    ConvShape{1, 3, 40, 50, 8, 4, 4, 4, 4, 0, 0, 1, 1, 1}));   // cut into patches

}  // namespace
}  // namespace anneal
