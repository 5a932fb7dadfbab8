#include "anneal/trainer/devices.h"

#include <algorithm>
#include <charconv>
#include <limits>

#include "anneal/core/error.h"

namespace anneal {
inline namespace v0 {

Devices::Devices(std::vector<int> indices) : count_(static_cast<int>(indices.size())), indices_(std::move(indices)) {
  check<ConfigError>(!indices_.empty(), "devices: expected a list of at least one index, got an empty one");
  for (auto at = indices_.begin(); at != indices_.end(); ++at)
    check<ConfigError>(*at >= 0 && std::find(indices_.begin(), at, *at) == at,
                       "devices: expected a list of different indices from 0 on, got {}", *this);
}

int Devices::checked(long long count) {
  check<ConfigError>(count == -1 || (count > 0 && count <= std::numeric_limits<int>::max()),
                     "devices: expected auto, a number from 1 on, -1 for all, or a list, got {}", count);
  return static_cast<int>(count);
}

Devices Devices::parse(std::string_view text) {
  if (text == "auto") return Devices(Auto());
  std::vector<int> numbers;
  for (const char *at = text.data(), *end = at + text.size();; ++at) {
    int number = 0;
    const auto read = std::from_chars(at, end, number);
    at = read.ptr;
    check<ConfigError>(read.ec == std::errc() && (at == end || *at == ','),
                       "devices: expected auto, a number or a list such as 0,2, got \"{}\"", text);
    numbers.push_back(number);
    if (at == end) break;
  }
  return numbers.size() == 1 ? Devices(numbers[0]) : Devices(std::move(numbers));
}

std::ostream& operator<<(std::ostream& out, const Devices& devices) {
  if (devices.is_auto()) return out << "auto";
  if (devices.indices_.empty()) return out << devices.count_;
  for (std::size_t i = 0; i < devices.indices_.size(); ++i) out << (i > 0 ? "," : "") << devices.indices_[i];
  return out;
}

}  // namespace v0
}  // namespace anneal
