// Random words by the chunk, in a loop over blocks that vectorises.
#pragma once

#include <cstdint>

#include "anneal/kernels/philox.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu::ANNEAL_LEVEL {

inline constexpr std::int64_t chunk_blocks = 64;
inline constexpr std::int64_t chunk_size = 4 * chunk_blocks;

/// The words of the chunk of a stream that starts with the block `first`.
[[gnu::noinline]] inline void draw(std::uint64_t seed, std::uint64_t first, std::uint32_t stream,
                                   std::uint32_t* __restrict words) {
  // Word by word first: interleaved stores would keep the loop over blocks from being vectorised well.
  alignas(64) std::uint32_t lane[4][chunk_blocks];
  for (std::int64_t i = 0; i < chunk_blocks; ++i) {
    const philox::Block b = philox::block(seed, first + static_cast<std::uint64_t>(i), stream);
    lane[0][i] = b.word[0];
    lane[1][i] = b.word[1];
    lane[2][i] = b.word[2];
    lane[3][i] = b.word[3];
  }
  for (std::int64_t i = 0; i < chunk_blocks; ++i) {
    for (int k = 0; k < 4; ++k) words[4 * i + k] = lane[k][i];
  }
}

}  // namespace kernels::cpu::ANNEAL_LEVEL
}  // namespace v0
}  // namespace anneal
