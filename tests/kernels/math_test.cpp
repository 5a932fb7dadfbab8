#include "anneal/kernels/math.h"

#include <limits>

#include "anneal/kernels/kernels.h"
#include "anneal/kernels/pointwise.h"
#include "anneal/tests/kernels/values.h"

namespace anneal::testing {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();

/// The distance from `got` to the true value, in units of the last place of a float there. Zero is right for what would
/// be subnormal.
double ulps(float got, long double want) {
  const auto rounded = static_cast<float>(want);
  if (std::isinf(rounded) || std::isinf(got)) return rounded == got ? 0 : HUGE_VAL;
  if (std::isnan(rounded) || std::isnan(got)) return std::isnan(rounded) && std::isnan(got) ? 0 : HUGE_VAL;
  if (got == 0 && std::abs(want) < 0x1p-126L) return 0;
  const long double unit = static_cast<long double>(std::nextafter(std::abs(rounded), infinity)) - std::abs(rounded);
  return static_cast<double>(std::abs(static_cast<long double>(got) - want) / unit);
}

/// The largest error over floats of every exponent and both signs, one by one and in vectors; those have no subnormals.
template <class Op, class Reference>
void expect_ulps(double bound, Reference reference) {
  std::vector<float> x{0.0f, 1.0f, -1.0f, infinity, -infinity, nan};
  for (std::uint64_t bits = 0; bits <= 0xffffffffu; bits += 2017) {
    x.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(bits)));
  }
  std::vector<float> y(x.size());
  const kernels::Space<2> space{1, {static_cast<std::int64_t>(x.size())}, {{1}, {1}}};
  kernels::cpu::run(kernels::Unary{kernels::unary_id<Op>, DType::f32, space, x.data(), y.data()});
  double worst = 0, worst_vector = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const long double want = reference(static_cast<long double>(x[i]));
    worst = std::max(worst, ulps(Op::fwd(x[i]), want));
    const bool subnormal = std::abs(x[i]) < 0x1p-126f;
    worst_vector = std::max(worst_vector, ulps(y[i], subnormal ? reference(0.0L) : want));
  }
  EXPECT_LE(worst, bound);
  EXPECT_LE(worst_vector, bound) << "in vectors";
}

TEST(Math, Exp) {
  expect_ulps<kernels::Exp>(1, [](long double x) { return std::exp(x); });
}
TEST(Math, Log) {
  expect_ulps<kernels::Log>(1, [](long double x) { return std::log(x); });
}
TEST(Math, Log1p) {
  expect_ulps<kernels::Log1p>(2, [](long double x) { return std::log1p(x); });
}
TEST(Math, Tanh) {
  expect_ulps<kernels::Tanh>(2, [](long double x) { return std::tanh(x); });
}
TEST(Math, Erf) {
  expect_ulps<kernels::Erf>(2, [](long double x) { return std::erf(x); });
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
