// The CPU's side of kernels/cuda/model.h: it runs kernels to test them. Blocks run one after the other in an order that
// changes with every launch, and so do the threads of a block between barriers, so that results which depend on the
// order show. The environment variable ANNEAL_EMULATION_SEED fixes the order.
//
// Shared memory starts as NaN (0xff bytes). A launch throws std::logic_error if a thread ends, or waits elsewhere,
// while others wait for it; if the lanes of a warp shuffle in different ways; or if a vector access is misaligned.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <type_traits>

#include "anneal/kernels/stream.h"

namespace anneal {
inline namespace v0 {
namespace kernels::ANNEAL_GPU {

class Team;

/// What one thread sees of its block.
class Block {
 public:
  Block(Team& team, std::int64_t index, std::int64_t count, int thread, int threads)
      : team_(team), index_(index), count_(count), thread_(thread), threads_(threads) {}

  std::int64_t index() const { return index_; }
  std::int64_t count() const { return count_; }
  int thread() const { return thread_; }
  int threads() const { return threads_; }
  void sync();

  template <class T>
  T shuffle(T x, int lane) {
    return exchange(x, lane & 31, 1);
  }
  template <class T>
  T shuffle_down(T x, int delta) {
    const int from = thread_ % 32 + delta;
    return exchange(x, from < 32 ? from : thread_ % 32, 1000 + delta);
  }
  template <class T>
  T shuffle_xor(T x, int mask) {
    return exchange(x, (thread_ % 32) ^ mask, 2000 + mask);
  }

  template <class T>
  T* shared() const {
    return static_cast<T*>(shared_memory());
  }
  template <class T>
  T* scratch() const {
    static_assert(sizeof(T) <= 16);
    return static_cast<T*>(scratch_memory());
  }

 private:
  /// Lane `from`'s word, when all lanes have come with the same `kind`.
  std::uint64_t exchange_words(std::uint64_t word, int from, int kind);
  template <class T>
  T exchange(T x, int from, int kind) {
    static_assert((sizeof(T) == 4 || sizeof(T) == 8) && std::is_trivially_copyable_v<T>);
    std::uint64_t word = 0;
    std::memcpy(&word, &x, sizeof x);
    word = exchange_words(word, from, kind);
    std::memcpy(&x, &word, sizeof x);
    return x;
  }
  void* shared_memory() const;
  void* scratch_memory() const;

  Team& team_;
  std::int64_t index_, count_;
  int thread_, threads_;
};

// ---- atomics: each returns what was there before ----

template <class T>
T atomic_add(T* p, T x) {
  const T old = *p;
  *p += x;
  return old;
}
inline std::int64_t atomic_min(std::int64_t* p, std::int64_t x) {
  const std::int64_t old = *p;
  if (x < old) *p = x;
  return old;
}
/// Sets *p to x if it is `expected`.
inline std::int64_t atomic_cas(std::int64_t* p, std::int64_t expected, std::int64_t x) {
  const std::int64_t old = *p;
  if (old == expected) *p = x;
  return old;
}

inline void require_aligned(const void* p, std::size_t size) {
  if (reinterpret_cast<std::uintptr_t>(p) % size != 0) throw std::logic_error("misaligned vector access");
}
template <class V>
V load_aligned(const void* p) {
  require_aligned(p, sizeof(V));
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class V>
void store_aligned(void* p, const V& v) {
  require_aligned(p, sizeof v);
  std::memcpy(p, &v, sizeof v);
}

/// Calls body(kernel, block) for each thread of each block.
void launch_blocks(std::int64_t blocks, int threads, std::size_t shared_bytes,
                   void (*body)(const void* kernel, Block& block), const void* kernel);

/// Runs a kernel; no blocks is no work.
template <class K>
void launch(Stream, std::int64_t blocks, const K& kernel, std::size_t shared_bytes = 0) {
  static_assert(K::threads % 32 == 0 && K::threads <= 1024);
  launch_blocks(
      blocks, K::threads, shared_bytes, [](const void* k, Block& block) { (*static_cast<const K*>(k))(block); },
      &kernel);
}

}  // namespace kernels::ANNEAL_GPU
}  // namespace v0
}  // namespace anneal
