// Philox 4x32-10, the counter-based generator of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011),
// and what is made of its words. Everything is a function of a seed and an element's position in the stream:
//
//   word(i)  lane i % 4 of the block whose counter is i / 4
//   f32      uniform: the word's upper 24 bits
//   f64      uniform: the word, extended downwards to 53 bits by the same lane of a second stream
//   normal   Box-Muller of the uniforms of the pair (i & ~1, i | 1): the first has the cosine, the second the sine
#pragma once

#include <cstdint>

#include "anneal/kernels/dtype.h"
#include "anneal/kernels/math.h"

namespace anneal {
inline namespace v0 {
namespace philox {

struct Block {
  std::uint32_t word[4];
};

ANNEAL_HD Block philox4x32(Block counter, std::uint32_t key0, std::uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xd2511f53u} * counter.word[0];
    const std::uint64_t b = std::uint64_t{0xcd9e8d57u} * counter.word[2];
    counter = {{static_cast<std::uint32_t>(b >> 32) ^ counter.word[1] ^ key0, static_cast<std::uint32_t>(b),
                static_cast<std::uint32_t>(a >> 32) ^ counter.word[3] ^ key1, static_cast<std::uint32_t>(a)}};
    key0 += 0x9e3779b9u;
    key1 += 0xbb67ae85u;
  }
  return counter;
}

/// Four words of a seed's stream; `stream` 1 extends those of stream 0 to 64 bits.
ANNEAL_HD Block block(std::uint64_t seed, std::uint64_t counter, std::uint32_t stream = 0) {
  return philox4x32({{static_cast<std::uint32_t>(counter), static_cast<std::uint32_t>(counter >> 32), stream, 0}},
                    static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32));
}

/// In [0, 1).
ANNEAL_HD float uniform(std::uint32_t word) {
  return static_cast<float>(static_cast<std::int32_t>(word >> 8)) * 0x1p-24f;
}
ANNEAL_HD double uniform(std::uint64_t word) {
  return static_cast<double>(static_cast<std::int64_t>(word >> 11)) * 0x1p-53;
}

/// Two independent standard normals of two uniforms in [0, 1): at most 5.8 deviations out in float, 8.6 in double.
template <class C>
struct Pair {
  C first, second;
};
template <class C>
ANNEAL_HD Pair<C> normal(C u0, C u1) {
  const C radius = math::sqrt(C(-2) * math::log(C(1) - u0));
  const math::SinCos<C> angle = math::sincos_2pi(u1);
  return {radius * angle.cos, radius * angle.sin};
}

/// Dropout with probability p keeps the elements whose uniform(word) >= p, that is keeps(word, drop_threshold(p)).
ANNEAL_HD std::uint32_t drop_threshold(double p) { return static_cast<std::uint32_t>(math::ceil(p * 0x1p24)); }
ANNEAL_HD bool keeps(std::uint32_t word, std::uint32_t threshold) { return (word >> 8) >= threshold; }

}  // namespace philox
}  // namespace v0
}  // namespace anneal
