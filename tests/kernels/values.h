// What kernel tests share: values of any floating dtype, comparisons with double, and numeric gradients.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "anneal/kernels/dtype.h"
#include "anneal/kernels/parallel.h"
#include "anneal/tests/kernels/backend.h"

namespace anneal::testing {

using Doubles = std::vector<double>;
using FloatingTypes = ::testing::Types<float, double, f16, bf16>;

template <class T>
std::vector<T> random_values(std::int64_t n, unsigned seed, double low = -2, double high = 2) {
  std::mt19937 engine(seed);
  std::uniform_real_distribution<double> uniform(low, high);
  std::vector<T> values(static_cast<std::size_t>(n));
  for (T& value : values) value = store<T>(static_cast<Compute<T>>(uniform(engine)));
  return values;
}

template <class T>
Doubles doubles(const std::vector<T>& values) {
  Doubles out;
  for (const T& value : values) out.push_back(static_cast<double>(load(value)));
  return out;
}

/// The relative error that rounding to T and sums in its Compute type may leave.
template <class T>
constexpr double tolerance = sizeof(T) == 8              ? 1e-12
                             : sizeof(T) == 4            ? 4e-6
                             : dtype_of<T> == DType::f16 ? 2e-3
                                                         : 1.2e-2;

template <class T>
void expect_near(const std::vector<T>& got, const Doubles& want, double relative = tolerance<T>) {
  ASSERT_EQ(got.size(), want.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    const auto value = static_cast<double>(load(got[i]));
    if (std::isnan(want[i])) ASSERT_TRUE(std::isnan(value)) << "at " << i;
    else if (std::isinf(want[i])) ASSERT_EQ(value, want[i]) << "at " << i;
    else ASSERT_NEAR(value, want[i], relative * (1 + std::abs(want[i]))) << "at " << i;
  }
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

/// `make()` returns vectors that must have the same bits with 1, 2 and 3 threads; and in the emulation, where every
/// launch has an order of its own, 20 times.
template <class Make>
void expect_thread_independent(const Make& make) {
  set_num_threads(1);
  const auto want = make();
  for (int threads = 2; threads <= (backend::emulated ? 20 : 3); ++threads) {
    set_num_threads(threads);
    const auto got = make();
    ASSERT_EQ(got.size(), want.size());
    for (std::size_t i = 0; i < got.size(); ++i)
      EXPECT_TRUE(same_bits(got[i], want[i])) << "output " << i << ", time " << threads;
  }
  set_num_threads(0);
}

/// d f(x) / dx by central differences.
template <class F>
Doubles numeric_gradient(Doubles x, const F& f) {
  constexpr double step = 1e-5;
  Doubles gradient;
  for (double& value : x) {
    const double centre = value;
    value = centre + step;
    const double above = f(x);
    value = centre - step;
    gradient.push_back((above - f(x)) / (2 * step));
    value = centre;
  }
  return gradient;
}

inline double dot(const Doubles& a, const Doubles& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace anneal::testing
