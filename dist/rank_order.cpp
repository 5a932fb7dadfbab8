#include "anneal/dist/rank_order.h"

#include <algorithm>
#include <array>
#include <type_traits>

namespace anneal {
inline namespace v0 {
namespace dist {
namespace {

template <ReduceOp op, class C>
C combine(C a, C b) {
  if constexpr (op == ReduceOp::sum) {
    if constexpr (std::is_same_v<C, bool>) return a || b;
    else if constexpr (std::is_integral_v<C>) {
      using U = std::make_unsigned_t<C>;
      return static_cast<C>(static_cast<U>(a) + static_cast<U>(b));
    } else return a + b;
  } else {
    const bool b_wins = op == ReduceOp::max ? b > a : b < a;
    if constexpr (std::is_floating_point_v<C>) return b_wins || b != b ? b : a;
    else return b_wins ? b : a;
  }
}

template <ReduceOp op, class T>
void reduce(std::span<const std::byte* const> parts, std::int64_t n, std::byte* out) {
  using C = Compute<T>;
  constexpr std::int64_t block = 1024;  // its sums stay in the first cache
  std::array<C, block> sums;
  for (std::int64_t begin = 0; begin < n; begin += block) {
    const std::int64_t count = std::min(block, n - begin);
    C* sum = sums.data();
    const T* first = reinterpret_cast<const T*>(parts[0]) + begin;
    for (std::int64_t i = 0; i < count; ++i) sum[i] = load(first[i]);
    for (const std::byte* part : parts.subspan(1)) {
      const T* next = reinterpret_cast<const T*>(part) + begin;
      for (std::int64_t i = 0; i < count; ++i) sum[i] = combine<op, C>(sum[i], load(next[i]));
    }
    T* y = reinterpret_cast<T*>(out) + begin;
    for (std::int64_t i = 0; i < count; ++i) y[i] = store<T>(sum[i]);
  }
}

}  // namespace

void reduce_in_rank_order(DType dtype, ReduceOp op, std::span<const std::byte* const> parts, std::int64_t n,
                          std::byte* out) {
  visit(dtype, [&]<class T>() {
    switch (op) {
      case ReduceOp::sum: return reduce<ReduceOp::sum, T>(parts, n, out);
      case ReduceOp::max: return reduce<ReduceOp::max, T>(parts, n, out);
      case ReduceOp::min: return reduce<ReduceOp::min, T>(parts, n, out);
    }
  });
}

}  // namespace dist
}  // namespace v0
}  // namespace anneal
