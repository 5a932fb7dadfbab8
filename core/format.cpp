#include "anneal/core/format.h"

namespace anneal {
inline namespace v0 {
namespace detail {

std::string format_parts(std::string_view pattern, std::span<const std::string> arguments) {
  std::string text;
  std::size_t next = 0;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    if (pattern.substr(i, 2) == "{}" && next < arguments.size()) {
      text += arguments[next++];
      ++i;
    } else {
      text += pattern[i];
    }
  }
  return text;
}

}  // namespace detail
}  // namespace v0
}  // namespace anneal
