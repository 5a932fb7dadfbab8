// Vectors of the widest kind that this instruction-set level has: the compiler's vector extensions, which do arithmetic
// by themselves, and here what they lack.
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#include "anneal/kernels/dtype.h"

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace anneal {
inline namespace v0 {
namespace kernels::cpu::ANNEAL_LEVEL {

#if defined(__AVX512F__)
inline constexpr int vector_bytes = 64;
#elif defined(__AVX2__)
inline constexpr int vector_bytes = 32;
#else
inline constexpr int vector_bytes = 16;
#endif
#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr int vector_registers = 32;
#else
inline constexpr int vector_registers = 16;
#endif

template <class C>
struct VectorOf {
  static_assert(std::is_arithmetic_v<C>);
  typedef C Type __attribute__((vector_size(vector_bytes)));
};
/// A vector of C, which is a number type.
template <class C>
using Vector = typename VectorOf<C>::Type;
template <class C>
inline constexpr int lanes = vector_bytes / static_cast<int>(sizeof(C));

#if defined(__AVX512F__)
inline constexpr __mmask16 all_lanes = 0xffff;  // the forms without a mask make g++ 12 warn
#endif

typedef std::uint16_t HalfBits __attribute__((vector_size(vector_bytes / 2)));

template <class C>
ANNEAL_HD Vector<C> splat(C x) {
  return x - Vector<C>{};
}

/// Numbers of a 16-bit T from their bits.
template <class T>
ANNEAL_HD Vector<float> from_bits(HalfBits bits) {
  if constexpr (std::is_same_v<T, bf16>) {
    return __builtin_bit_cast(Vector<float>, __builtin_convertvector(bits, Vector<std::uint32_t>) << 16);
  } else {
#if defined(__AVX512F__)
    return __builtin_bit_cast(Vector<float>, _mm512_maskz_cvtph_ps(all_lanes, __builtin_bit_cast(__m256i, bits)));
#elif defined(__F16C__)
    return __builtin_bit_cast(Vector<float>, _mm256_cvtph_ps(__builtin_bit_cast(__m128i, bits)));
#else
    Vector<float> v;
    for (int i = 0; i < lanes<float>; ++i) v[i] = to_float(T{bits[i]});
    return v;
#endif
  }
}
/// The inverse: rounds to nearest, ties to even. Subnormal numbers may become zero, as they do in kernels.
template <class T>
ANNEAL_HD HalfBits to_bits(Vector<float> v) {
  if constexpr (std::is_same_v<T, bf16>) {
#if defined(__AVX512BF16__)
    return __builtin_bit_cast(HalfBits, _mm512_cvtneps_pbh(__builtin_bit_cast(__m512, v)));
#else
    const auto u = __builtin_bit_cast(Vector<std::uint32_t>, v);
    const auto nan = __builtin_bit_cast(Vector<std::uint32_t>, v != v);
    const auto rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    return __builtin_convertvector((rounded & ~nan) | (((u >> 16) | 0x40u) & nan), HalfBits);
#endif
  } else {
#if defined(__AVX512F__)
    return __builtin_bit_cast(
        HalfBits, _mm512_maskz_cvtps_ph(all_lanes, __builtin_bit_cast(__m512, v), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
    return __builtin_bit_cast(HalfBits, _mm256_cvtps_ph(__builtin_bit_cast(__m256, v), _MM_FROUND_TO_NEAREST_INT));
#else
    HalfBits bits;
    for (int i = 0; i < lanes<float>; ++i) bits[i] = to_f16(v[i]).bits;
    return bits;
#endif
  }
}

/// The next `lanes` elements, converted to what T is computed in. Any alignment will do.
template <class T>
ANNEAL_HD Vector<Compute<T>> load_vector(const T* from) {
  using C = Compute<T>;
  if constexpr (std::is_same_v<T, C>) {
    Vector<C> v;
    __builtin_memcpy(&v, from, sizeof v);
    return v;
  } else {
    HalfBits bits;
    __builtin_memcpy(&bits, from, sizeof bits);
    return from_bits<T>(bits);
  }
}

/// The inverse, which rounds as `to_bits`.
template <class T>
ANNEAL_HD void store_vector(T* to, Vector<Compute<T>> v) {
  if constexpr (std::is_same_v<T, Compute<T>>) {
    __builtin_memcpy(to, &v, sizeof v);
  } else {
    const HalfBits bits = to_bits<T>(v);
    __builtin_memcpy(to, &bits, sizeof bits);
  }
}

/// The next n elements, 0 <= n <= lanes, and zeros after them; nothing else is touched.
template <class T>
ANNEAL_HD Vector<Compute<T>> load_first(const T* from, int n) {
  using C = Compute<T>;
  if (n == lanes<C>) return load_vector(from);
#if defined(__AVX512F__)
  const auto some_lanes = static_cast<__mmask16>((1u << n) - 1);
  if constexpr (sizeof(T) == 2) {
    return from_bits<T>(__builtin_bit_cast(HalfBits, _mm256_maskz_loadu_epi16(some_lanes, from)));
  } else if constexpr (std::is_same_v<T, C> && sizeof(T) == 4) {
    return __builtin_bit_cast(Vector<C>, _mm512_maskz_loadu_ps(some_lanes, from));
  } else if constexpr (sizeof(T) == 8) {
    return __builtin_bit_cast(Vector<C>, _mm512_maskz_loadu_pd(static_cast<__mmask8>(some_lanes), from));
  }
#endif
  T some[lanes<C>] = {};
  for (int i = 0; i < n; ++i) some[i] = from[i];
  return load_vector(some);
}
template <class T>
ANNEAL_HD void store_first(T* to, Vector<Compute<T>> v, int n) {
  using C = Compute<T>;
  if (n == lanes<C>) return store_vector(to, v);
#if defined(__AVX512F__)
  const auto some_lanes = static_cast<__mmask16>((1u << n) - 1);
  if constexpr (sizeof(T) == 2) {
    return _mm256_mask_storeu_epi16(to, some_lanes, __builtin_bit_cast(__m256i, to_bits<T>(v)));
  } else if constexpr (std::is_same_v<T, C> && sizeof(T) == 4) {
    return _mm512_mask_storeu_ps(to, some_lanes, __builtin_bit_cast(__m512, v));
  } else if constexpr (sizeof(T) == 8) {
    return _mm512_mask_storeu_pd(to, static_cast<__mmask8>(some_lanes), __builtin_bit_cast(__m512d, v));
  }
#endif
  T some[lanes<C>];
  store_vector(some, v);
  for (int i = 0; i < n; ++i) to[i] = some[i];
}

/// to[0], to[2], to[4], ... = the first n elements; nothing else is touched.
template <class T>
ANNEAL_HD void store_every_other(T* to, Vector<Compute<T>> v, int n) {
#if defined(__AVX512F__)
  const auto mask = static_cast<__mmask32>(0x55555555u >> (2 * (16 - n)));
  if constexpr (sizeof(T) == 4) {
    const auto low = __builtin_shufflevector(v, v, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    const auto high = __builtin_shufflevector(v, v, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15);
    _mm512_mask_storeu_ps(to, static_cast<__mmask16>(mask), __builtin_bit_cast(__m512, low));
    return _mm512_mask_storeu_ps(to + 16, static_cast<__mmask16>(mask >> 16), __builtin_bit_cast(__m512, high));
  } else if constexpr (sizeof(T) == 2) {
    const auto apart = __builtin_convertvector(to_bits<T>(v), Vector<std::uint32_t>);
    return _mm512_mask_storeu_epi16(to, mask, __builtin_bit_cast(__m512i, apart));
  }
#endif
  T some[lanes<Compute<T>>];
  store_vector(some, v);
  for (int i = 0; i < n; ++i) to[2 * i] = some[i];
}

/// Copies a vector past the caches, to a place that a vector is aligned at, where the processor can. `finish_streams`
/// comes before anybody else reads it.
ANNEAL_HD void stream_vector(void* to, const void* from) {
#if defined(__AVX512F__)
  _mm512_stream_si512(static_cast<__m512i*>(to), _mm512_loadu_si512(from));
#elif defined(__AVX__)
  _mm256_stream_si256(static_cast<__m256i*>(to), _mm256_loadu_si256(static_cast<const __m256i*>(from)));
#else
  __builtin_memcpy(to, from, vector_bytes);
#endif
}
ANNEAL_HD void finish_streams() {
#if defined(__AVX__)
  _mm_sfence();
#endif
}

/// max(x, 0), where NaN stays NaN.
template <class C>
ANNEAL_HD Vector<C> relu(Vector<C> x) {
  using Bits = Vector<std::conditional_t<sizeof(C) == 4, std::int32_t, std::int64_t>>;
  return __builtin_bit_cast(Vector<C>, __builtin_bit_cast(Bits, x) & ~__builtin_bit_cast(Bits, x < Vector<C>{}));
}

template <class C, int First, int... I>
ANNEAL_HD Vector<C> every_other(Vector<C> a, Vector<C> b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (2 * I + First)...);
}
/// The lanes 0, 2, 4, ... (or, with First = 1, 1, 3, 5, ...) of two vectors.
template <class C, int First = 0>
ANNEAL_HD Vector<C> every_other(Vector<C> a, Vector<C> b) {
  return every_other<C, First>(a, b, std::make_integer_sequence<int, lanes<C>>{});
}

/// Half of a 2x2 block exchange at distance S: lane i of the result comes from `a` or `b`.
template <class C, int S, bool Upper, int... I>
ANNEAL_HD Vector<C> exchange(Vector<C> a, Vector<C> b, std::integer_sequence<int, I...>) {
  constexpr int n = lanes<C>;
  return __builtin_shufflevector(a, b, (I & S ? n + I - (Upper ? 0 : S) : I + (Upper ? S : 0))...);
}
/// Transposes `lanes` vectors in place.
template <class C, int S = lanes<C> / 2>
ANNEAL_HD void transpose(Vector<C>* v) {
  constexpr auto all = std::make_integer_sequence<int, lanes<C>>{};
#pragma GCC unroll 16
  for (int i = 0; i < lanes<C>; ++i) {
    if (i & S) continue;
    const Vector<C> a = v[i], b = v[i + S];
    v[i] = exchange<C, S, false>(a, b, all);
    v[i + S] = exchange<C, S, true>(a, b, all);
  }
  if constexpr (S > 1) transpose<C, S / 2>(v);
}

/// The sum of the lanes of each of `lanes` vectors, which change.
template <class C>
ANNEAL_HD Vector<C> sums_of_lanes(Vector<C>* v) {
  transpose<C>(v);
  for (int step = lanes<C> / 2; step > 0; step /= 2) {
    for (int i = 0; i < step; ++i) v[i] += v[i + step];
  }
  return v[0];
}

}  // namespace kernels::cpu::ANNEAL_LEVEL
}  // namespace v0
}  // namespace anneal
