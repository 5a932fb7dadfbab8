#include "anneal/trainer/duration.h"

#include <algorithm>
#include <charconv>
#include <cstdint>

#include "anneal/core/error.h"

namespace anneal {
inline namespace v0 {

double Duration::parse(std::string_view text) {
  const auto expect = [&, whole = text](bool good) {
    check<ConfigError>(good, "duration: expected days:hours:minutes:seconds such as 00:12:00:00, got \"{}\"", whole);
  };
  double seconds = 0;
  for (const double unit : {24.0, 60.0, 60.0, 1.0}) {
    const std::size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
    const bool days = unit == 24;
    const bool last = unit == 1;
    expect(days ? digits > 0 : digits == 2);
    expect(last ? digits == text.size() : digits < text.size() && text[digits] == ':');
    std::int64_t number = 0;
    expect(std::from_chars(text.data(), text.data() + digits, number).ec == std::errc());
    seconds = (seconds + static_cast<double>(number)) * unit;
    text.remove_prefix(last ? digits : digits + 1);
  }
  return seconds;
}

}  // namespace v0
}  // namespace anneal
