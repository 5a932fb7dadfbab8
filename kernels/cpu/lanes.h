// The host's Group (kernels/rowwise.h): one thread that runs a row in vector lanes.
#pragma once

#include <cstdint>

#include "anneal/kernels/cpu/level.h"

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
  template <class F>
  ANNEAL_HD auto sum(std::int64_t n, const F& f) const {
    using C = decltype(f(n));
    return reduce(n, f, C(0), [](C a, C b) { return a + b; });
  }
  template <class F>
  ANNEAL_HD auto max(std::int64_t n, const F& f) const {
    using C = decltype(f(n));
    return reduce(n, f, -static_cast<C>(__builtin_huge_val()), [](C a, C b) { return b > a ? b : a; });
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

 private:
  template <class F, class C, class Op>
  ANNEAL_HD C reduce(std::int64_t n, const F& f, C start, const Op& op) const {
    constexpr int lanes = 64 / sizeof(C), wide = 4 * lanes;
    C lane[lanes];
    for (int l = 0; l < lanes; ++l) lane[l] = start;
    std::int64_t i = 0;
    if (n >= wide) {
      C many[wide];
      for (int l = 0; l < wide; ++l) many[l] = start;
      for (; i + wide <= n; i += wide) {
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
};

}  // namespace kernels::cpu::ANNEAL_LEVEL
}  // namespace v0
}  // namespace anneal
