// Which devices of this machine a run uses.
#pragma once

#include <concepts>
#include <initializer_list>
#include <ostream>
#include <string_view>
#include <utility>
#include <vector>

namespace anneal {
inline namespace v0 {

/// "auto" (one, or what a launcher says), a number of them, -1 for all, or the list of their indices: `{0, 2}`. Or one
/// of these as a text: "3", "-1", "0,2". Throws ConfigError for anything else, and for an empty list or one with an
/// index twice.
class Devices {
 public:
  template <std::convertible_to<std::string_view> Text>
  Devices(const Text& text) : Devices(parse(text)) {}
  template <std::integral T>
  requires(!std::same_as<T, bool>) Devices(T count) : count_(checked(static_cast<long long>(count))) {}
  Devices(std::vector<int> indices);
  Devices(std::initializer_list<int> indices) : Devices(std::vector<int>(indices)) {}

  bool is_auto() const { return count_ == 0; }
  bool is_all() const { return count_ == -1; }
  /// How many; 0: auto, -1: all.
  int count() const { return count_; }
  /// The list; empty if none was given.
  const std::vector<int>& indices() const { return indices_; }
  /// The device of one of this machine's ranks.
  int index(int local_rank) const {
    return indices_.empty() ? local_rank : indices_.at(static_cast<std::size_t>(local_rank));
  }

  friend bool operator==(const Devices&, const Devices&) = default;
  friend std::ostream& operator<<(std::ostream& out, const Devices& devices);

 private:
  struct Auto {};
  explicit Devices(Auto) {}  // not a default: `{}` is an empty list
  static Devices parse(std::string_view text);
  static int checked(long long count);

  int count_ = 0;
  std::vector<int> indices_;
};

}  // namespace v0
}  // namespace anneal
