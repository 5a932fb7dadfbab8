// Random numbers: words are drawn by the chunk, in a loop over blocks that vectorises, then made into elements.
#include <cstdint>
#include <limits>
#include <type_traits>

#include "anneal/kernels/cpu/draw.h"
#include "anneal/kernels/cpu/level.h"
#include "anneal/kernels/parallel.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu::ANNEAL_LEVEL {
namespace {

constexpr std::int64_t grain = 16384 / chunk_size;  // in chunks

/// Cuts elements [0, n), at `offset` in the stream, at the stream's chunks: body(block, skip, begin, end) makes the
/// elements [begin, end), the first of which is number `skip` of the chunk that starts with that block.
template <class Body>
void for_chunks(std::int64_t n, std::uint64_t offset, const Body& body) {
  const auto lead = static_cast<std::int64_t>(offset % chunk_size);
  const std::uint64_t first = offset / chunk_size * chunk_blocks;
  if (n == 0) return;
  parallel_for((lead + n + chunk_size - 1) / chunk_size, grain, [&](std::int64_t from, std::int64_t to) {
    for (std::int64_t chunk = from; chunk < to; ++chunk) {
      const std::int64_t start = chunk * chunk_size - lead;
      const std::int64_t begin = start < 0 ? 0 : start;
      const std::int64_t end = start + chunk_size < n ? start + chunk_size : n;
      body(first + static_cast<std::uint64_t>(chunk * chunk_blocks), begin - start, begin, end);
    }
  });
}

/// 64 bits for each element of a chunk: its word on top of that of stream 1.
void draw_wide(std::uint64_t seed, std::uint64_t first, std::uint64_t* __restrict words) {
  alignas(64) std::uint32_t high[chunk_size], low[chunk_size];
  draw(seed, first, 0, high);
  draw(seed, first, 1, low);
  for (std::int64_t i = 0; i < chunk_size; ++i) words[i] = static_cast<std::uint64_t>(high[i]) << 32 | low[i];
}

template <class C>
void draw_uniform(std::uint64_t seed, std::uint64_t first, C* __restrict u) {
  using Word = std::conditional_t<std::is_same_v<C, float>, std::uint32_t, std::uint64_t>;
  alignas(64) Word words[chunk_size];
  if constexpr (std::is_same_v<C, float>) draw(seed, first, 0, words);
  else draw_wide(seed, first, words);
  for (std::int64_t i = 0; i < chunk_size; ++i) u[i] = philox::uniform(words[i]);
}

template <class C>
void draw_normal(std::uint64_t seed, std::uint64_t first, C* __restrict z) {
  alignas(64) C u[chunk_size];
  draw_uniform(seed, first, u);
  for (std::int64_t i = 0; i < chunk_size; i += 2) {
    const philox::Pair<C> pair = philox::normal(u[i], u[i + 1]);
    z[i] = pair.first;
    z[i + 1] = pair.second;
  }
}

template <class T>
void store_all(const Compute<T>* __restrict x, T* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = store<T>(x[i]);
}

/// floor(word * range / 2^64): uniform over [0, range) but for a bias of range / 2^64.
ANNEAL_HD std::uint64_t scale_down(std::uint64_t word, std::uint64_t range) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<std::uint64_t>((static_cast<Wide>(word) * range) >> 64);
}

}  // namespace

template <>
void run(const Random& a) {
  if (a.distribution == Distribution::integer) {
    visit(a.dtype, [&]<class T> {
      const auto low = static_cast<std::int64_t>(a.a);
      const auto range = static_cast<std::uint64_t>(static_cast<std::int64_t>(a.b) - low);
      for_chunks(a.n, a.offset, [&](std::uint64_t block, std::int64_t skip, std::int64_t begin, std::int64_t end) {
        std::uint64_t words[chunk_size];
        draw_wide(a.seed, block, words);
        for (std::int64_t i = begin; i < end; ++i) {
          const auto value = low + static_cast<std::int64_t>(scale_down(words[skip + i - begin], range));
          static_cast<T*>(a.y)[i] = store<T>(value);
        }
      });
    });
    return;
  }
  visit_floating(a.dtype, [&]<class T> {
    using C = Compute<T>;
    const bool uniform = a.distribution == Distribution::uniform;
    const C shift = static_cast<C>(a.a);
    const C scale = static_cast<C>(uniform ? a.b - a.a : a.b);
    // What rounds up to the open end of an interval goes to the other one.
    const C limit = uniform ? load(store<T>(a.b)) : std::numeric_limits<C>::infinity();
    for_chunks(a.n, a.offset, [&](std::uint64_t block, std::int64_t skip, std::int64_t begin, std::int64_t end) {
      alignas(64) C draws[chunk_size];
      if (uniform) draw_uniform(a.seed, block, draws);
      else draw_normal(a.seed, block, draws);
      for (std::int64_t i = 0; i < chunk_size; ++i) {
        const C value = load(store<T>(shift + scale * draws[i]));
        draws[i] = value < limit ? value : shift;
      }
      store_all(draws + skip, static_cast<T*>(a.y) + begin, end - begin);
    });
  });
}

template <>
void run(const Dropout& a) {
  visit_floating(a.dtype, [&]<class T> {
    using C = Compute<T>;
    const std::uint32_t threshold = philox::drop_threshold(a.p);
    const C scale = static_cast<C>(1 / (1 - a.p));
    for_chunks(a.n, a.offset, [&](std::uint64_t block, std::int64_t skip, std::int64_t begin, std::int64_t end) {
      alignas(64) std::uint32_t words[chunk_size];
      draw(a.seed, block, 0, words);
      const T* const x = static_cast<const T*>(a.x) + begin;
      alignas(64) C y[chunk_size];
      for (std::int64_t i = 0; i < end - begin; ++i) {
        const C scaled = load(x[i]) * scale;
        y[i] = philox::keeps(words[skip + i], threshold) ? scaled : C(0);
      }
      store_all(y, static_cast<T*>(a.y) + begin, end - begin);
    });
  });
}

}  // namespace kernels::cpu::ANNEAL_LEVEL
}  // namespace v0
}  // namespace anneal
