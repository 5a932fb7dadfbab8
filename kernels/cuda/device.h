// The device's side of kernels/cuda/model.h, for nvcc.
#pragma once

#include <cuda_runtime.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "anneal/kernels/stream.h"

// Row programs are host and device functions of a group whose members are device functions.
#pragma nv_diag_suppress 20011, 20014

namespace anneal {
inline namespace v0 {
namespace kernels::ANNEAL_GPU {

class Block {
 public:
  ANNEAL_DEVICE std::int64_t index() const { return blockIdx.x; }
  ANNEAL_DEVICE std::int64_t count() const { return gridDim.x; }
  ANNEAL_DEVICE int thread() const { return static_cast<int>(threadIdx.x); }
  ANNEAL_DEVICE int threads() const { return static_cast<int>(blockDim.x); }
  ANNEAL_DEVICE void sync() { __syncthreads(); }

  template <class T>
  ANNEAL_DEVICE T shuffle(T x, int lane) {
    return std::bit_cast<T>(__shfl_sync(all, std::bit_cast<Word<T>>(x), lane));
  }
  template <class T>
  ANNEAL_DEVICE T shuffle_down(T x, int delta) {
    return std::bit_cast<T>(__shfl_down_sync(all, std::bit_cast<Word<T>>(x), static_cast<unsigned>(delta)));
  }
  template <class T>
  ANNEAL_DEVICE T shuffle_xor(T x, int mask) {
    return std::bit_cast<T>(__shfl_xor_sync(all, std::bit_cast<Word<T>>(x), mask));
  }

  template <class T>
  ANNEAL_DEVICE T* shared() const {
    extern __shared__ uint4 memory[];
    return reinterpret_cast<T*>(memory);
  }
  template <class T>
  ANNEAL_DEVICE T* scratch() const {
    static_assert(sizeof(T) <= 16);
    __shared__ uint4 memory[32];
    return reinterpret_cast<T*>(memory);
  }

 private:
  static constexpr unsigned all = 0xffffffffu;
  template <class T>
  using Word = std::conditional_t<sizeof(T) == 4, unsigned, unsigned long long>;
};

// ---- atomics: each returns what was there before ----

ANNEAL_DEVICE std::int32_t atomic_add(std::int32_t* p, std::int32_t x) { return atomicAdd(p, x); }
ANNEAL_DEVICE std::int64_t atomic_add(std::int64_t* p, std::int64_t x) {
  return static_cast<std::int64_t>(
      atomicAdd(reinterpret_cast<unsigned long long*>(p), static_cast<unsigned long long>(x)));
}
ANNEAL_DEVICE std::int64_t atomic_min(std::int64_t* p, std::int64_t x) {
  return atomicMin(reinterpret_cast<long long*>(p), static_cast<long long>(x));
}
/// Sets *p to x if it is `expected`.
ANNEAL_DEVICE std::int64_t atomic_cas(std::int64_t* p, std::int64_t expected, std::int64_t x) {
  return static_cast<std::int64_t>(atomicCAS(reinterpret_cast<unsigned long long*>(p),
                                             static_cast<unsigned long long>(expected),
                                             static_cast<unsigned long long>(x)));
}

template <std::size_t size>
struct WordOf;
template <>
struct WordOf<1> {
  using type = unsigned char;
};
template <>
struct WordOf<2> {
  using type = unsigned short;
};
template <>
struct WordOf<4> {
  using type = unsigned;
};
template <>
struct WordOf<8> {
  using type = uint2;
};
template <>
struct WordOf<16> {
  using type = uint4;
};

template <class V>
ANNEAL_DEVICE V load_aligned(const void* p) {
  return std::bit_cast<V>(*static_cast<const typename WordOf<sizeof(V)>::type*>(p));
}
template <class V>
ANNEAL_DEVICE void store_aligned(void* p, const V& v) {
  using Word = typename WordOf<sizeof(V)>::type;
  *static_cast<Word*>(p) = std::bit_cast<Word>(v);
}

template <class K>
__global__ void __launch_bounds__(K::threads) entry(const K kernel) {
  Block block;
  kernel(block);
}

/// Queues a kernel; no blocks is no work. Throws std::runtime_error if it cannot be launched.
template <class K>
void launch(Stream stream, std::int64_t blocks, const K& kernel, std::size_t shared_bytes = 0) {
  static_assert(K::threads % 32 == 0 && K::threads <= 1024);
  if (blocks == 0) return;
  const auto verify = [](cudaError_t error) {
    if (error != cudaSuccess)
      throw std::runtime_error(std::string(__PRETTY_FUNCTION__) + ": " + cudaGetErrorString(error));
  };
  constexpr std::size_t usual_limit = 48 * 1024;
  if (shared_bytes > usual_limit) {
    verify(cudaFuncSetAttribute(entry<K>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)));
  }
  entry<K>
      <<<static_cast<unsigned>(blocks), K::threads, shared_bytes, static_cast<cudaStream_t>(stream.handle)>>>(kernel);
  verify(cudaGetLastError());
}

}  // namespace kernels::ANNEAL_GPU
}  // namespace v0
}  // namespace anneal
