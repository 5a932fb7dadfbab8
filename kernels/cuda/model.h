// How GPU kernels are written: one source that nvcc compiles for the device and any C++ compiler compiles into an
// emulation on the CPU. The build sets ANNEAL_GPU, the namespace of both, to `cuda` or `emulated`.
//
// A kernel is a struct of its arguments with
//
//   static constexpr int threads = 256;                      // of a block, a multiple of 32
//   ANNEAL_DEVICE void operator()(Block& block) const {...}  // what each thread of each block does
//
// and is run by `launch(stream, blocks, kernel, shared_bytes)`. Its threads talk to each other through `Block` alone:
//
//   std::int64_t index() const, count() const   the number of the block, and of blocks
//   int thread() const, threads() const         the number of the thread in the block, and of threads
//   void sync()                                 waits for all threads of the block
//   T shuffle(T x, int lane)                    x of that lane of the warp; shuffle_down(x, delta) and
//                                               shuffle_xor(x, mask) likewise; lanes that are not there give one's own.
//                                               All 32 lanes take part; T has 4 or 8 bytes
//   T* shared<T>() const                        the block's dynamic shared memory, aligned to 16 bytes
//   T* scratch<T>() const                       32 elements that `block_reduce` works in
//
// There are no floating-point atomics: results do not depend on the order in which threads happen to run.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "anneal/kernels/kernels.h"
#include "anneal/kernels/pointwise.h"
#include "anneal/kernels/stream.h"

#if defined(__CUDACC__)
#define ANNEAL_DEVICE __device__ __forceinline__
#include "anneal/kernels/cuda/device.h"
#else
#define ANNEAL_DEVICE inline
#include "anneal/kernels/cuda/emulation.h"
#endif

namespace anneal {
inline namespace v0 {
namespace kernels::ANNEAL_GPU {

/// Each kernel of kernels.h specialises this in the file named for its kind. Pointers are to the device's memory.
template <class Args>
void run(const Args& args, Stream stream);

/// Memory of the device for the kernels of one `run`; the next call on this stream may take it back.
void* workspace(Stream stream, std::size_t bytes);

/// The number of blocks for n items, `per_block` to a block in one round; kernels stride by the grid over the rest.
inline std::int64_t blocks_for(std::int64_t n, std::int64_t per_block) {
  constexpr std::int64_t most = 4224;  // four rounds of 8 blocks on each of 132 multiprocessors
  return std::min((n + per_block - 1) / per_block, most);
}

/// Calls f(i) for i in [0, n), one after the other for each thread of the grid, neighbours on neighbouring threads.
template <class F>
ANNEAL_DEVICE void for_each(const Block& block, std::int64_t n, const F& f) {
  const std::int64_t stride = block.count() * block.threads();
  for (std::int64_t i = block.index() * block.threads() + block.thread(); i < n; i += stride) f(i);
}

/// a = quotient * b + rest, for a >= 0 and b > 0. Divisions of 64 bits are slow on a device, and seldom needed.
struct Division {
  std::int64_t quotient, rest;
};
ANNEAL_DEVICE Division divide(std::int64_t a, std::int64_t b) {
  if (((a | b) >> 32) != 0) return {a / b, a % b};
  const auto dividend = static_cast<std::uint32_t>(a), divisor = static_cast<std::uint32_t>(b);
  const std::uint32_t quotient = dividend / divisor;
  return {quotient, dividend - quotient * divisor};
}

/// op over every thread's value, in an order fixed by the size of the block; each thread gets it. `op` is commutative.
template <class T, class Op>
ANNEAL_DEVICE T block_reduce(Block& block, T value, const Op& op) {
  for (int mask = 16; mask > 0; mask /= 2) value = op(value, block.shuffle_xor(value, mask));
  T* const partial = block.template scratch<T>();
  if (block.thread() % 32 == 0) partial[block.thread() / 32] = value;
  block.sync();
  T total = partial[0];
  for (int warp = 1; warp < block.threads() / 32; ++warp) total = op(total, partial[warp]);
  block.sync();
  return total;
}
template <class T>
ANNEAL_DEVICE T block_sum(Block& block, T value) {
  return block_reduce(block, value, [](T a, T b) { return Add::fwd(a, b); });
}
/// NaN if any is.
template <class T>
ANNEAL_DEVICE T block_max(Block& block, T value) {
  return block_reduce(block, value, [](T a, T b) { return Maximum::fwd(a, b); });
}

/// n neighbouring elements, loaded and stored at once where they fill 16 bytes.
template <class T, int n>
struct Vector {
  T value[n];
  ANNEAL_DEVICE T& operator[](int i) { return value[i]; }
  ANNEAL_DEVICE const T& operator[](int i) const { return value[i]; }
};
/// How many elements 16 bytes hold.
template <class T>
inline constexpr int vector_size = static_cast<int>(16 / sizeof(T));

template <class T>
inline bool aligned(const T* p) {
  return reinterpret_cast<std::uintptr_t>(p) % 16 == 0;
}

/// From or to an address that is aligned to the size of the vector, at most 16 bytes.
template <int n, class T>
ANNEAL_DEVICE Vector<T, n> load_vector(const T* p) {
  return load_aligned<Vector<T, n>>(p);
}
template <class T, int n>
ANNEAL_DEVICE void store_vector(T* p, const Vector<T, n>& v) {
  store_aligned(p, v);
}

/// Leaves the smallest position of a bad index in `*bad`, which is negative while there is none.
ANNEAL_DEVICE void report(std::int64_t* bad, std::int64_t position) {
  std::int64_t old = *bad;
  while (old < 0 || position < old) {
    const std::int64_t seen = atomic_cas(bad, old, position);
    if (seen == old) return;
    old = seen;
  }
}

}  // namespace kernels::ANNEAL_GPU
}  // namespace v0
}  // namespace anneal
