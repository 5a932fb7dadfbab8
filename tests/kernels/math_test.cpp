#include "anneal/kernels/math.h"

#include <limits>

#include "anneal/kernels/kernels.h"
#include "anneal/tests/kernels/values.h"

namespace anneal::testing {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();

/// The distance from `got` to the true value, in units of the last place of a float there.
double ulps(float got, double want) {
  const auto rounded = static_cast<float>(want);
  if (std::isinf(rounded) || std::isinf(got)) return rounded == got ? 0 : HUGE_VAL;
  if (std::isnan(want) || std::isnan(got)) return std::isnan(want) && std::isnan(got) ? 0 : HUGE_VAL;
  const double unit = static_cast<double>(std::nextafter(std::abs(rounded), infinity)) - std::abs(rounded);
  return std::abs(got - want) / unit;
}

/// The largest error over floats of every exponent and both signs.
template <class F, class Reference>
void expect_ulps(double bound, F f, Reference reference) {
  double worst = 0;
  float where = 0;
  for (std::uint64_t bits = 0; bits <= 0xffffffffu; bits += 1009) {
    const auto x = std::bit_cast<float>(static_cast<std::uint32_t>(bits));
    if (const double error = ulps(f(x), reference(static_cast<double>(x))); error > worst) worst = error, where = x;
  }
  for (const float x : {0.0f, 1.0f, -1.0f, infinity, -infinity, nan}) {
    EXPECT_LE(ulps(f(x), reference(static_cast<double>(x))), bound) << "at " << x;
  }
  EXPECT_LE(worst, bound) << "at " << where;
}

TEST(Math, Exp) {
  expect_ulps(
      1, [](float x) { return math::exp(x); }, [](double x) { return std::exp(x); });
}
TEST(Math, Log) {
  expect_ulps(
      1, [](float x) { return math::log(x); }, [](double x) { return std::log(x); });
}
TEST(Math, Log1p) {
  expect_ulps(
      2, [](float x) { return math::log1p(x); }, [](double x) { return std::log1p(x); });
}
TEST(Math, Tanh) {
  expect_ulps(
      2, [](float x) { return math::tanh(x); }, [](double x) { return std::tanh(x); });
}
TEST(Math, Erf) {
  expect_ulps(
      2, [](float x) { return math::erf(x); }, [](double x) { return std::erf(x); });
}

TEST(Math, SinCosOfATurn) {
  for (int i = 0; i <= 1 << 16; ++i) {
    const double u = i / 65536.0;
    const auto narrow = math::sincos_2pi(static_cast<float>(u));
    const auto wide = math::sincos_2pi(u);
    ASSERT_NEAR(narrow.sin, std::sin(2 * M_PI * u), 1.2e-7);
    ASSERT_NEAR(narrow.cos, std::cos(2 * M_PI * u), 1.2e-7);
    ASSERT_NEAR(wide.sin, std::sin(2 * M_PI * u), 1e-15);
    ASSERT_NEAR(wide.cos, std::cos(2 * M_PI * u), 1e-15);
  }
}

// ---- conversions of 16-bit types, against arithmetic on exponents and mantissas ----

/// A 16-bit float's value, from its fields.
double value_of(unsigned bits, int exponent_bits) {
  const int mantissa_bits = 15 - exponent_bits;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = static_cast<int>(bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const int mantissa = static_cast<int>(bits) & ((1 << mantissa_bits) - 1);
  const double sign = bits & 0x8000u ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1) return mantissa ? std::nan("") : sign * HUGE_VAL;
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}

template <class T>
constexpr int exponent_bits = std::is_same_v<T, f16> ? 5 : 8;

template <class T>
class Half : public ::testing::Test {};
using Halves = ::testing::Types<f16, bf16>;
TYPED_TEST_SUITE(Half, Halves);

TYPED_TEST(Half, EveryPatternLoadsAndStores) {
  for (unsigned bits = 0; bits < 0x10000; ++bits) {
    const float got = load(TypeParam{static_cast<std::uint16_t>(bits)});
    const double want = value_of(bits, exponent_bits<TypeParam>);
    if (std::isnan(want)) {
      ASSERT_TRUE(std::isnan(got)) << bits;
      ASSERT_TRUE(std::isnan(load(store<TypeParam>(got)))) << bits;
    } else {
      ASSERT_EQ(got, want) << bits;
      ASSERT_EQ(std::signbit(got), std::signbit(want)) << bits;
      ASSERT_EQ(store<TypeParam>(got).bits, bits);
    }
  }
}

TYPED_TEST(Half, StoringRoundsToNearestEven) {
  const unsigned largest = std::is_same_v<TypeParam, f16> ? 0x7bffu : 0x7f7fu;
  for (unsigned bits = 0; bits <= largest; ++bits) {
    const double low = value_of(bits, exponent_bits<TypeParam>);
    // Past the largest number the next one would be as far again; from half way on it is infinity.
    const double high = bits < largest ? value_of(bits + 1, exponent_bits<TypeParam>)
                                       : 2 * low - value_of(bits - 1, exponent_bits<TypeParam>);
    const auto middle = static_cast<float>((low + high) / 2);
    ASSERT_EQ(store<TypeParam>(middle).bits, bits + (bits & 1)) << bits;
    ASSERT_EQ(store<TypeParam>(std::nextafter(middle, 0.0f)).bits, bits) << bits;
    ASSERT_EQ(store<TypeParam>(std::nextafter(middle, infinity)).bits, bits + 1) << bits;
    ASSERT_EQ(store<TypeParam>(-middle).bits, (bits + (bits & 1)) | 0x8000u) << bits;
  }
  EXPECT_TRUE(std::isinf(load(store<TypeParam>(infinity))));
}

// Kernels flush subnormal floats to zero, but an f16's subnormals are no subnormal floats.
TEST(Half, SubnormalsPassThroughKernels) {
  std::vector<f16> x;
  for (unsigned bits = 0; bits < 0x0800u; ++bits) x.push_back({static_cast<std::uint16_t>(bits)});
  std::vector<float> wide(x.size());
  std::vector<f16> back(x.size());
  const auto n = static_cast<std::int64_t>(x.size());
  const kernels::Space<2> space{1, {n}, {{1}, {1}}};
  kernels::cpu::run(kernels::Copy{DType::f16, DType::f32, space, x.data(), wide.data()});
  kernels::cpu::run(kernels::Copy{DType::f32, DType::f16, space, wide.data(), back.data()});
  for (std::size_t i = 0; i < x.size(); ++i) ASSERT_EQ(wide[i], value_of(x[i].bits, 5)) << i;
  EXPECT_TRUE(same_bits(x, back));
}

}  // namespace
}  // namespace anneal::testing
