// Elementary functions for kernels. The float ones are branch-free, so that a plain loop over them vectorises; the
// double ones are the C library's. All are right at infinities and NaN, and on overflow and underflow.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "anneal/kernels/dtype.h"

namespace anneal {
inline namespace v0 {
namespace math {

template <class C>
ANNEAL_HD bool is_nan(C x) {
  if constexpr (std::is_floating_point_v<C>) return x != x;
  else return false;
}

ANNEAL_HD float abs(float x) { return std::bit_cast<float>(std::bit_cast<std::uint32_t>(x) & 0x7fffffffu); }
ANNEAL_HD double abs(double x) { return ::fabs(x); }
ANNEAL_HD float copy_sign(float magnitude, float sign) {
  return std::bit_cast<float>((std::bit_cast<std::uint32_t>(magnitude) & 0x7fffffffu) |
                              (std::bit_cast<std::uint32_t>(sign) & 0x80000000u));
}

ANNEAL_HD float sqrt(float x) { return ::sqrtf(x); }
ANNEAL_HD double sqrt(double x) { return ::sqrt(x); }
ANNEAL_HD float floor(float x) { return ::floorf(x); }
ANNEAL_HD double floor(double x) { return ::floor(x); }
ANNEAL_HD float ceil(float x) { return ::ceilf(x); }
ANNEAL_HD double ceil(double x) { return ::ceil(x); }
/// To the nearest integer, ties to even.
ANNEAL_HD float round(float x) { return ::rintf(x); }
ANNEAL_HD double round(double x) { return ::rint(x); }
ANNEAL_HD float sin(float x) { return ::sinf(x); }
ANNEAL_HD double sin(double x) { return ::sin(x); }
ANNEAL_HD float cos(float x) { return ::cosf(x); }
ANNEAL_HD double cos(double x) { return ::cos(x); }
ANNEAL_HD float pow(float x, float y) { return ::powf(x, y); }
ANNEAL_HD double pow(double x, double y) { return ::pow(x, y); }

/// c[0] + c[1] x + c[2] x^2 + ...
template <class C, int N>
ANNEAL_HD C polynomial(C x, const C (&c)[N]) {
  C y = c[N - 1];
  for (int i = N - 2; i >= 0; --i) y = y * x + c[i];
  return y;
}

// log 2 in two parts: multiples of the first by small integers are exact.
inline constexpr float log2_high = 0.693359375f;
inline constexpr float log2_low = -2.12194440e-4f;

/// Within 1 ulp; what would be subnormal is 0.
ANNEAL_HD float exp(float x) {
  // x = n log 2 + r; adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
  const float shifted = x * 1.44269504f + 0x1.8p23f;
  const float n = shifted - 0x1.8p23f;
  const float r = (x - n * log2_high) - n * log2_low;
  const float tail = polynomial(r, {0.4999999333f, 0.166665189f, 0.04166840865f, 0.008368925112f, 0.00138141423f});
  const float y = (r * r * tail + r) + 1.0f;
  // Times 2^n: shifting leaves n alone of what is in `shifted`.
  const float scaled =
      std::bit_cast<float>(std::bit_cast<std::uint32_t>(y) + (std::bit_cast<std::uint32_t>(shifted) << 23));
  const bool above = !(x <= 0x1.62e42ep6f), below = x < -0x1.5d589ep6f;
  const float y_or_above = above ? x + std::numeric_limits<float>::infinity() : scaled;  // NaN stays NaN
  return below ? 0.0f : y_or_above;
}
ANNEAL_HD double exp(double x) { return ::exp(x); }

/// Within 1 ulp.
ANNEAL_HD float log(float x) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const bool tiny = x < 0x1p-126f;
  const auto bits = std::bit_cast<std::uint32_t>(tiny ? x * 0x1p23f : x);
  // x = 2^n (1 + f) with 1 + f in [sqrt(1/2), sqrt(2))
  const std::uint32_t from_root = bits - 0x3f3504f3u;
  const auto n = static_cast<float>((static_cast<std::int32_t>(from_root) >> 23) - (tiny ? 23 : 0));
  const float f = std::bit_cast<float>((from_root & 0x7fffffu) + 0x3f3504f3u) - 1.0f;
  const float tail = polynomial(f, {0.3333333174f, -0.2500082139f, 0.2000122348f, -0.1662334346f, 0.1420183077f,
                                    -0.131603868f, 0.1276114156f, -0.0763341487f});
  const float y = n * log2_high + (f + ((f * f * f * tail + n * log2_low) - 0.5f * f * f));
  return x > 0.0f ? (x < infinity ? y : x) : (x == 0.0f ? -infinity : std::numeric_limits<float>::quiet_NaN());
}
ANNEAL_HD double log(double x) { return ::log(x); }

/// log(1 + x), within 2 ulp.
ANNEAL_HD float log1p(float x) {
  const float u = 1.0f + x;
  // What rounding took from u, to first order; the smallest float is there for u = 0 only.
  const float correction = (x - (u - 1.0f)) / (u + 0x1p-126f);
  return log(u) + (u == x ? 0.0f : correction);
}
ANNEAL_HD double log1p(double x) { return ::log1p(x); }

/// Within 2 ulp.
ANNEAL_HD float tanh(float x) {
  const float s = x * x;
  const float small =
      x + x * s * polynomial(s, {-0.3333327828f, 0.1333132828f, -0.05372918152f, 0.02060186881f, -0.00566065037f});
  const float large = 1.0f - 2.0f / (exp(2.0f * abs(x)) + 1.0f);
  return abs(x) < 0.625f ? small : copy_sign(large, x);
}
ANNEAL_HD double tanh(double x) { return ::tanh(x); }

/// Within 2 ulp.
ANNEAL_HD float erf(float x) {
  const float a = abs(x);
  const float s = x * x;
  const float near_zero = x + x * polynomial(s, {0.1283791506f, -0.3761249807f, 0.1128184372f, -0.02676709426f,
                                                 0.004993266489f, -0.0005988714414f});
  // Of the smallest x the product above is subnormal, and may be flushed to 0.
  const float small = a < 0x1p-60f ? x * 1.128379167f : near_zero;
  // erf = 1 - exp(-p(a)); from 3.95 on it rounds to 1.
  const float p = polynomial(a < 3.95f ? a : 3.95f, {0.0001955367185f, 1.127676239f, 0.6371811457f, 0.103932631f,
                                                     -0.02222745408f, 0.003043360858f, -0.0001959529158f});
  const float y = a < 0.925f ? small : copy_sign(1.0f - exp(-p), x);
  return is_nan(x) ? x : y;
}
ANNEAL_HD double erf(double x) { return ::erf(x); }

/// The sine and cosine of 2 pi u, for u in [0, 1].
template <class C>
struct SinCos {
  C sin, cos;
};
template <class C>
ANNEAL_HD SinCos<C> sincos_2pi(C u) {
  // u = q / 4 + r with r in [-1/8, 1/8]
  const C q = math::floor(u * C(4) + C(0.5));
  const C r = u - q * C(0.25);
  C sin_r, cos_r;
  if constexpr (std::is_same_v<C, float>) {
    const float s = r * r;
    sin_r = r * polynomial(s, {6.283185288f, -41.34166263f, 81.59255339f, -75.40206141f});
    cos_r = polynomial(s, {1.0f, -19.73920865f, 64.93931621f, -85.44285209f, 59.22040629f});
  } else {
    sin_r = ::sin(C(6.283185307179586477) * r);
    cos_r = ::cos(C(6.283185307179586477) * r);
  }
  const auto quarter = static_cast<std::int32_t>(q) & 3;
  const C swapped_sin = quarter & 1 ? cos_r : sin_r;
  const C swapped_cos = quarter & 1 ? sin_r : cos_r;
  return {quarter & 2 ? -swapped_sin : swapped_sin, (quarter + 1) & 2 ? -swapped_cos : swapped_cos};
}

}  // namespace math
}  // namespace v0
}  // namespace anneal
