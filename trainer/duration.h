// A length of time.
#pragma once

#include <chrono>
#include <concepts>
#include <limits>
#include <string_view>

namespace anneal {
inline namespace v0 {

/// A time given as `90min` or `std::chrono::hours(12)`, or as "DD:HH:MM:SS". The default: without end.
class Duration {
 public:
  Duration() = default;
  template <class Rep, class Period>
  Duration(std::chrono::duration<Rep, Period> time) : seconds_(std::chrono::duration<double>(time).count()) {}
  /// Any number of digits for days, two for each of the others, which may be above 59. Else ConfigError.
  template <std::convertible_to<std::string_view> Text>
  Duration(const Text& text) : seconds_(parse(text)) {}

  double seconds() const { return seconds_; }

 private:
  static double parse(std::string_view text);

  double seconds_ = std::numeric_limits<double>::infinity();
};

}  // namespace v0
}  // namespace anneal
