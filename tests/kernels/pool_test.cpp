#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "anneal/kernels/kernels.h"
#include "anneal/kernels/parallel.h"
#include "anneal/tests/kernels/backend.h"

namespace anneal::testing {
namespace {

using kernels::PoolShape;
using Floating = TypeList<float, double, f16, bf16>;

/// Whole numbers of a small range, so that equal maxima occur.
template <class T>
std::vector<T> random_values(std::int64_t n, unsigned seed) {
  std::mt19937 engine(seed);
  std::uniform_int_distribution<int> uniform(-20, 20);
  std::vector<T> values(static_cast<std::size_t>(n));
  for (T& value : values) value = store<T>(static_cast<float>(uniform(engine)));
  return values;
}

template <class T>
void expect_near(const std::vector<T>& got, const std::vector<double>& want) {
  constexpr double tolerance = sizeof(T) == 2 ? 0x1p-8 : 1e-6;
  ASSERT_EQ(got.size(), want.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    ASSERT_NEAR(static_cast<double>(load(got[i])), want[i], tolerance * (1 + std::abs(want[i]))) << "at " << i;
  }
}

template <class T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

class PoolShapes : public ::testing::TestWithParam<PoolShape> {
 protected:
  const PoolShape s = GetParam();
  const std::int64_t in = s.planes * s.h * s.w, out = s.planes * s.out_h() * s.out_w();

  /// Calls `f(window, pixel, position)` for each pixel of each window; the position counts within a plane.
  template <class F>
  void for_pixels(const F& f) const {
    std::int64_t window = 0;
    for (std::int64_t p = 0; p < s.planes; ++p) {
      for (std::int64_t i = 0; i < s.out_h(); ++i) {
        for (std::int64_t j = 0; j < s.out_w(); ++j, ++window) {
          for (std::int64_t r = 0; r < s.kernel_h; ++r) {
            for (std::int64_t q = 0; q < s.kernel_w; ++q) {
              const std::int64_t h = i * s.stride_h + r - s.padding_h, w = j * s.stride_w + q - s.padding_w;
              if (h >= 0 && h < s.h && w >= 0 && w < s.w) f(window, (p * s.h + h) * s.w + w, h * s.w + w);
            }
          }
        }
      }
    }
  }
};

TEST_P(PoolShapes, Maximum) {
  for_each_type(Floating{}, [&]<class T>() {
    SCOPED_TRACE(name_of(dtype_of<T>));
    const std::vector<T> x = random_values<T>(in, 1), dy = random_values<T>(out, 2);
    std::vector<double> y(out, -std::numeric_limits<double>::infinity()), dx(in);
    std::vector<std::int32_t> index(out, -1);
    std::vector<std::int64_t> source(out);
    for_pixels([&](std::int64_t window, std::int64_t pixel, std::int64_t position) {
      if (load(x[pixel]) <= y[window]) return;
      y[window] = load(x[pixel]);
      index[window] = static_cast<std::int32_t>(position);
      source[window] = pixel;
    });
    for (std::int64_t i = 0; i < out; ++i) dx[source[i]] += load(dy[i]);
    for (int threads : {1, 2, 3}) {
      set_num_threads(threads);
      std::vector<T> got(out), without_index(out), gradient = x;
      std::vector<std::int32_t> got_index(out, -1);
      backend::run(kernels::MaxPool2d{dtype_of<T>, s, x.data(), got.data(), got_index.data()});
      backend::run(kernels::MaxPool2d{dtype_of<T>, s, x.data(), without_index.data(), nullptr});
      backend::run(kernels::MaxPool2dGrad{dtype_of<T>, s, dy.data(), got_index.data(), gradient.data()});
      set_num_threads(0);
      expect_near(got, y);
      EXPECT_TRUE(same(got, without_index));
      EXPECT_EQ(got_index, index);
      expect_near(gradient, dx);
    }
  });
}

TEST_P(PoolShapes, Mean) {
  for_each_type(Floating{}, [&]<class T>() {
    for (bool count_include_pad : {false, true}) {
      SCOPED_TRACE(::testing::Message() << name_of(dtype_of<T>) << ", count_include_pad " << count_include_pad);
      const std::vector<T> x = random_values<T>(in, 1), dy = random_values<T>(out, 2);
      std::vector<double> y(out), dx(in), count(out);
      for_pixels([&](std::int64_t window, std::int64_t, std::int64_t) { ++count[window]; });
      if (count_include_pad) std::fill(count.begin(), count.end(), static_cast<double>(s.kernel_h * s.kernel_w));
      for_pixels([&](std::int64_t window, std::int64_t pixel, std::int64_t) {
        y[window] += load(x[pixel]) / count[window];
        dx[pixel] += load(dy[window]) / count[window];
      });
      std::vector<T> first_y, first_dx;
      for (int threads : {1, 2, 3}) {
        set_num_threads(threads);
        std::vector<T> got(out), gradient = x;
        backend::run(kernels::AvgPool2d{dtype_of<T>, s, count_include_pad, x.data(), got.data()});
        backend::run(kernels::AvgPool2dGrad{dtype_of<T>, s, count_include_pad, dy.data(), gradient.data()});
        set_num_threads(0);
        if (threads == 1) {
          first_y = got;
          first_dx = gradient;
        }
        expect_near(got, y);
        expect_near(gradient, dx);
        EXPECT_TRUE(same(got, first_y) && same(gradient, first_dx)) << threads << " threads";
      }
    }
  });
}

// planes, h, w, kernel, stride, padding
INSTANTIATE_TEST_SUITE_P(
    Kernels, PoolShapes,
    ::testing::Values(PoolShape{6, 28, 28, 2, 2, 2, 2, 0, 0}, PoolShape{3, 7, 67, 2, 2, 2, 2, 0, 0},
                      PoolShape{2, 2, 2, 2, 2, 2, 2, 0, 0}, PoolShape{0, 4, 4, 2, 2, 2, 2, 0, 0},
                      PoolShape{40, 33, 31, 3, 3, 2, 2, 1, 1}, PoolShape{3, 9, 8, 3, 2, 1, 3, 1, 0},
                      PoolShape{2, 1, 1, 1, 1, 1, 1, 0, 0}, PoolShape{64, 4, 4, 4, 4, 4, 4, 0, 0},
                      PoolShape{2, 10, 10, 2, 2, 3, 4, 1, 1}, PoolShape{200, 32, 32, 2, 2, 2, 2, 0, 0}));

TEST(MaxPool2d, FindsNaN) {
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  for (std::int64_t padding : {0, 1}) {
    const PoolShape s{1, 4, 4, 2, 2, 2, 2, padding, padding};
    for (std::int32_t at = 0; at < 16; ++at) {
      std::vector<float> x(16), y(s.out_h() * s.out_w());
      for (int i = 0; i < 16; ++i) x[i] = static_cast<float>(i);
      x[at] = nan;
      std::vector<std::int32_t> index(y.size());
      backend::run(kernels::MaxPool2d{DType::f32, s, x.data(), y.data(), index.data()});
      EXPECT_EQ(std::count_if(y.begin(), y.end(), [](float v) { return std::isnan(v); }), 1);
      EXPECT_NE(std::find(index.begin(), index.end(), at), index.end()) << "padding " << padding << ", NaN at " << at;
    }
  }
}

}  // namespace
}  // namespace anneal::testing
