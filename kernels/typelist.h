// A list of types, iterated by kernels, tests and benchmarks alike.
#pragma once

#include <type_traits>

namespace anneal {
inline namespace v0 {

template <class... Ts>
struct TypeList {
  static constexpr int size = sizeof...(Ts);
};

/// The position of T in a list; a compile error if it is not there.
template <class T, class... Ts>
consteval int index_of(TypeList<Ts...>) {
  static_assert((std::is_same_v<T, Ts> || ...), "not in this list");
  int i = 0;
  int found = -1;
  ((std::is_same_v<T, Ts> ? void(found = i) : void(), ++i), ...);
  return found;
}

/// Calls `f.operator()<T>()` for every T of the list.
template <class... Ts, class F>
constexpr void for_each_type(TypeList<Ts...>, F&& f) {
  (f.template operator()<Ts>(), ...);
}

}  // namespace v0
}  // namespace anneal
