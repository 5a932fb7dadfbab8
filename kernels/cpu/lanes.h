// The host's Group (kernels/rowwise.h): one thread that runs a row in vector lanes.
#pragma once

#include <cstdint>

#include "anneal/kernels/cpu/level.h"
#include "anneal/kernels/cpu/simd.h"

// Lets g++ vectorise loops whose input and output may be the same row; clang finds out at run time.
#if defined(__clang__)
#define ANNEAL_LANES
#else
#define ANNEAL_LANES _Pragma("GCC ivdep")
#endif

namespace anneal {
inline namespace v0 {
namespace kernels::cpu::ANNEAL_LEVEL {

/// Reduces into 64 bytes of lanes (for longer rows four times as many), which are then added in a fixed tree.
class LaneGroup {
 public:
  ANNEAL_HD static constexpr std::int64_t block() { return 2048; }

  LaneGroup() = default;
  /// `streams`: what `write` writes goes past the caches where that can be. `finish_streams` comes after.
  ANNEAL_HD explicit LaneGroup(bool streams) : streams_(streams) {}

  template <class F>
  ANNEAL_HD auto sum(std::int64_t n, const F& f) const {
    return sum(n, static_cast<const char*>(nullptr), f);
  }
  template <class T, class F>
  ANNEAL_HD auto sum(std::int64_t n, const T* next, const F& f) const {
    using C = decltype(f(n));
    return reduce(n, next, f, C(0), [](C a, C b) { return a + b; });
  }
  template <class F>
  ANNEAL_HD auto max(std::int64_t n, const F& f) const {
    using C = decltype(f(n));
    return reduce(n, static_cast<const char*>(nullptr), f, -static_cast<C>(__builtin_huge_val()),
                  [](C a, C b) { return b > a ? b : a; });
  }
  template <class F>
  ANNEAL_HD void each(std::int64_t n, const F& f) const {
    ANNEAL_LANES
    for (std::int64_t i = 0; i < n; ++i) f(i);
  }
  template <class F>
  ANNEAL_HD void at(std::int64_t i, const F& f) const {
    f(i);
  }
  template <class T, class F>
  ANNEAL_HD void write(std::int64_t n, T* to, const F& f) const {
    std::int64_t i = 0;
    if (streams_) {
      constexpr int wide = 4 * vector_bytes / sizeof(T);
      for (; i < n && reinterpret_cast<std::uintptr_t>(to + i) % vector_bytes != 0; ++i) to[i] = f(i);
      for (; i + wide <= n; i += wide) {
        T near[wide];
        ANNEAL_LANES
        for (int l = 0; l < wide; ++l) near[l] = f(i + l);
        for (int k = 0; k < 4; ++k) stream_vector(to + i + k * wide / 4, near + k * wide / 4);
      }
    }
    ANNEAL_LANES
    for (; i < n; ++i) to[i] = f(i);
  }

 private:
  template <class T, class F, class C, class Op>
  ANNEAL_HD C reduce(std::int64_t n, const T* next, const F& f, C start, const Op& op) const {
    constexpr int lanes = 64 / sizeof(C), wide = 4 * lanes;
    C lane[lanes];
    for (int l = 0; l < lanes; ++l) lane[l] = start;
    std::int64_t i = 0;
    if (n >= wide) {
      C many[wide];
      for (int l = 0; l < wide; ++l) many[l] = start;
      for (; i + wide <= n; i += wide) {
        if (next) {
          for (std::size_t l = 0; l < wide; l += 64 / sizeof(T)) __builtin_prefetch(next + i + l);
        }
        ANNEAL_LANES
        for (int l = 0; l < wide; ++l) many[l] = op(many[l], f(i + l));
      }
      for (int l = 0; l < lanes; ++l) {
        lane[l] = op(op(many[l], many[l + lanes]), op(many[l + 2 * lanes], many[l + 3 * lanes]));
      }
    }
    for (; i < n; i += lanes) {  // a fixed count with a condition becomes masked vectors
      ANNEAL_LANES
      for (int l = 0; l < lanes; ++l) {
        if (i + l < n) lane[l] = op(lane[l], f(i + l));
      }
    }
    if constexpr (lanes == 16) {
      for (int l = 0; l < 8; ++l) lane[l] = op(lane[l], lane[l + 8]);
    }
    for (int l = 0; l < 4; ++l) lane[l] = op(lane[l], lane[l + 4]);
    return op(op(lane[0], lane[2]), op(lane[1], lane[3]));
  }

  bool streams_ = false;
};

}  // namespace kernels::cpu::ANNEAL_LEVEL
}  // namespace v0
}  // namespace anneal
