// The name of a precision, which may be a number.
#pragma once

#include <concepts>
#include <string>
#include <utility>

#include "anneal/trainer/or_default.h"

namespace anneal {
inline namespace v0 {

/// `"bf16-mixed"`, or `16` for "16".
class PrecisionName : public std::string {
 public:
  PrecisionName(ByDefault, const char* text) : std::string(text), given_(false) {}
  template <std::convertible_to<std::string> Text>
  PrecisionName(Text text) : std::string(std::move(text)) {}
  template <std::integral T>
  requires(!std::same_as<T, bool>) PrecisionName(T bits) : std::string(std::to_string(bits)) {}

  bool given() const { return given_; }

 private:
  bool given_ = true;
};

}  // namespace v0
}  // namespace anneal
