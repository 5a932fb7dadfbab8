// Text from values: `format("linear: expected {} features, got {}", 784, x.shape())`.
#pragma once

#include <span>
#include <sstream>
#include <string>
#include <string_view>

namespace anneal {
inline namespace v0 {
namespace detail {

std::string format_parts(std::string_view pattern, std::span<const std::string> arguments);

template <class T>
std::string to_text(const T& value) {
  if constexpr (std::is_convertible_v<T, std::string_view>) {
    return std::string(std::string_view(value));
  } else if constexpr (std::is_same_v<T, bool>) {
    return value ? "true" : "false";
  } else if constexpr (std::is_same_v<T, std::uint8_t> || std::is_same_v<T, std::int8_t>) {
    return std::to_string(int{value});
  } else {
    std::ostringstream out;
    out << value;
    return out.str();
  }
}

}  // namespace detail

/// Replaces each `{}` of the pattern by the next argument, written as `operator<<` writes it.
template <class... Args>
std::string format(std::string_view pattern, const Args&... args) {
  const std::string texts[] = {detail::to_text(args)..., std::string()};
  return detail::format_parts(pattern, std::span(texts, sizeof...(args)));
}

}  // namespace v0
}  // namespace anneal
