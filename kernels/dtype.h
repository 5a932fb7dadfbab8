// Element types and their conversions, for every backend.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

// Functions that kernels share with other translation units must be inlined: kernels are compiled once per instruction
// set, and an out-of-line copy made with AVX-512 could be the one that the linker keeps for everybody.
#if defined(__CUDACC__)
#define ANNEAL_HD __host__ __device__ __forceinline__
#else
#define ANNEAL_HD [[gnu::always_inline]] inline
#endif

namespace anneal {
inline namespace v0 {

/// The type of a tensor's elements.
enum class DType : std::uint8_t { f32, f64, f16, bf16, i64, i32, u8, boolean };

/// IEEE half precision, stored as bits; arithmetic happens in float.
struct f16 {
  std::uint16_t bits;
};
/// bfloat16: a float's upper half, stored as bits; arithmetic happens in float.
struct bf16 {
  std::uint16_t bits;
};

constexpr std::size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f64:
    case DType::i64: return 8;
    case DType::f32:
    case DType::i32: return 4;
    case DType::f16:
    case DType::bf16: return 2;
    default: return 1;
  }
}
constexpr const char* name_of(DType dtype) {
  constexpr const char* names[] = {"f32", "f64", "f16", "bf16", "i64", "i32", "u8", "bool"};
  return names[static_cast<int>(dtype)];
}
constexpr bool is_floating(DType dtype) { return dtype <= DType::bf16; }

/// The DType of a C++ type: `dtype_of<float> == DType::f32`.
template <class T>
inline constexpr DType dtype_of = [] {
  if constexpr (std::is_same_v<T, float>) return DType::f32;
  else if constexpr (std::is_same_v<T, double>) return DType::f64;
  else if constexpr (std::is_same_v<T, f16>) return DType::f16;
  else if constexpr (std::is_same_v<T, bf16>) return DType::bf16;
  else if constexpr (std::is_same_v<T, std::int64_t>) return DType::i64;
  else if constexpr (std::is_same_v<T, std::int32_t>) return DType::i32;
  else if constexpr (std::is_same_v<T, std::uint8_t>) return DType::u8;
  else {
    static_assert(std::is_same_v<T, bool>, "not an element type");
    return DType::boolean;
  }
}();

/// The type that arithmetic on T happens in: float for the 16-bit types, else T itself.
template <class T>
using Compute = std::conditional_t<std::is_same_v<T, f16> || std::is_same_v<T, bf16>, float, T>;

ANNEAL_HD float to_float(bf16 x) { return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16); }
ANNEAL_HD float to_float(f16 x) {
  const std::uint32_t sign = (x.bits & 0x8000u) << 16;
  const std::uint32_t exponent = x.bits & 0x7c00u;
  const std::uint32_t rest = static_cast<std::uint32_t>(x.bits & 0x7fffu) << 13;
  const std::uint32_t normal = rest + 0x38000000u;
  // Subnormals: from 2^-14 + x, as x itself may not be a subnormal float on the way; kernels flush those to zero.
  const auto subnormal = std::bit_cast<std::uint32_t>(std::bit_cast<float>(rest + 0x38800000u) - 0x1p-14f);
  const std::uint32_t magnitude = exponent == 0x7c00u ? (rest | 0x7f800000u) : exponent == 0 ? subnormal : normal;
  return std::bit_cast<float>(sign | magnitude);
}

/// Rounds to nearest, ties to even.
ANNEAL_HD bf16 to_bf16(float x) {
  const auto u = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const std::uint32_t quiet_nan = (u >> 16) | 0x40u;
  return {static_cast<std::uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? quiet_nan : rounded)};
}
/// Rounds to nearest, ties to even; too large values become infinity.
ANNEAL_HD f16 to_f16(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t u = bits & 0x7fffffffu;
  const std::uint32_t normal = (u + 0xfffu + ((u >> 13) & 1u) - 0x38000000u) >> 13;
  // Below 2^-14 adding 0.5 makes the float's own rounding leave the half's subnormal bits at the bottom.
  const std::uint32_t subnormal = std::bit_cast<std::uint32_t>(std::bit_cast<float>(u) + 0.5f) - 0x3f000000u;
  const std::uint32_t magnitude = u > 0x7f800000u    ? 0x7e00u
                                  : u >= 0x477ff000u ? 0x7c00u
                                  : u < 0x38800000u  ? subnormal
                                                     : normal;
  return {static_cast<std::uint16_t>(sign | magnitude)};
}

/// Any element as a number that can be computed with.
template <class T>
ANNEAL_HD Compute<T> load(T x) {
  if constexpr (std::is_same_v<T, f16> || std::is_same_v<T, bf16>) return to_float(x);
  else return x;
}
/// A computed number as an element: rounds to nearest; integers truncate towards zero; bool is `x != 0`.
template <class T, class C>
ANNEAL_HD T store(C x) {
  if constexpr (std::is_same_v<T, f16>) return to_f16(static_cast<float>(x));
  else if constexpr (std::is_same_v<T, bf16>) return to_bf16(static_cast<float>(x));
  else if constexpr (std::is_same_v<T, bool>) return x != C(0);
  else return static_cast<T>(x);
}

/// Calls `f.operator()<T>()` with the C++ type of a floating dtype. The caller has checked that it is one.
template <class F>
ANNEAL_HD decltype(auto) visit_floating(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f64: return f.template operator()<double>();
    case DType::f16: return f.template operator()<f16>();
    case DType::bf16: return f.template operator()<bf16>();
    default: return f.template operator()<float>();
  }
}
/// Calls `f.operator()<T, Out>()` with the C++ types of `dtype` and of `out`, which is `dtype` or, where that has 16
/// bits, f32.
template <class F>
ANNEAL_HD decltype(auto) visit_floating(DType dtype, DType out, F&& f) {
  return visit_floating(dtype, [&]<class T>() -> decltype(auto) {
    if constexpr (!std::is_same_v<T, Compute<T>>) {
      if (out == DType::f32) return f.template operator()<T, Compute<T>>();
    }
    return f.template operator()<T, T>();
  });
}
/// Calls `f.operator()<T>()` with the C++ type of any dtype.
template <class F>
ANNEAL_HD decltype(auto) visit(DType dtype, F&& f) {
  switch (dtype) {
    case DType::i64: return f.template operator()<std::int64_t>();
    case DType::i32: return f.template operator()<std::int32_t>();
    case DType::u8: return f.template operator()<std::uint8_t>();
    case DType::boolean: return f.template operator()<bool>();
    default: return visit_floating(dtype, static_cast<F&&>(f));
  }
}

/// For what only moves elements: calls `f.operator()<T>()` with the unsigned integer of a dtype's size.
template <class F>
ANNEAL_HD decltype(auto) visit_bits(DType dtype, F&& f) {
  switch (size_of(dtype)) {
    case 1: return f.template operator()<std::uint8_t>();
    case 2: return f.template operator()<std::uint16_t>();
    case 4: return f.template operator()<std::uint32_t>();
    default: return f.template operator()<std::uint64_t>();
  }
}

}  // namespace v0
}  // namespace anneal
