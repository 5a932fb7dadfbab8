// An option that knows whether it was given.
#pragma once

#include <utility>

namespace anneal {
inline namespace v0 {

/// Marks a default: `OrDefault<std::int64_t> log_every_n_steps{by_default, 50};`
struct ByDefault {
  explicit ByDefault() = default;
};
inline constexpr ByDefault by_default{};

/// Used like a T. What is assigned to it is given; what it was made with is the default.
template <class T>
class OrDefault {
 public:
  OrDefault(ByDefault, T value) : value_(std::move(value)) {}
  OrDefault(T value) : value_(std::move(value)), given_(true) {}

  operator const T&() const { return value_; }
  bool given() const { return given_; }

 private:
  T value_;
  bool given_ = false;
};

}  // namespace v0
}  // namespace anneal
