// Metrics by name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "anneal/core/state_map.h"

namespace anneal {
inline namespace v0 {

/// Names and numbers, in the order in which they came.
class MetricMap {
 public:
  /// The value of that name, or null.
  const double* find(std::string_view name) const;
  bool contains(std::string_view name) const { return find(name) != nullptr; }
  /// Throws Error, which lists the names, for one that is not there.
  double operator[](std::string_view name) const;
  /// "a, b, c": for messages.
  std::string names() const;

  void set(std::string_view name, double value) {
    std::size_t hint = 0;
    set(name, value, hint);
  }
  /// The same for who writes a name again and again: `hint` remembers where it stands.
  void set(std::string_view name, double value, std::size_t& hint);

  std::size_t size() const { return metrics_.size(); }
  bool empty() const { return metrics_.empty(); }
  void clear() { metrics_.clear(); }
  auto begin() const { return metrics_.begin(); }
  auto end() const { return metrics_.end(); }

 private:
  std::vector<std::pair<std::string, double>> metrics_;
};

}  // namespace v0
}  // namespace anneal
