#include "anneal/trainer/metric_map.h"

#include <algorithm>

#include "anneal/core/error.h"

namespace anneal {
inline namespace v0 {

const double* MetricMap::find(std::string_view name) const {
  const auto it = std::find_if(begin(), end(), [&](const auto& metric) { return metric.first == name; });
  return it == end() ? nullptr : &it->second;
}

double MetricMap::operator[](std::string_view name) const {
  const double* value = find(name);
  check(value, "there is no metric {}; there are: {}", name, names());
  return *value;
}

std::string MetricMap::names() const {
  std::string text;
  for (const auto& [name, value] : metrics_) text += (text.empty() ? "" : ", ") + name;
  return text.empty() ? "none" : text;
}

void MetricMap::set(std::string_view name, double value, std::size_t& hint) {
  if (hint >= size() || metrics_[hint].first != name) {
    const double* known = find(name);
    if (!known) metrics_.emplace_back(name, value);
    hint = known ? static_cast<std::size_t>(
                       std::find_if(begin(), end(), [&](const auto& m) { return &m.second == known; }) - begin())
                 : size() - 1;
  }
  metrics_[hint].second = value;
}

}  // namespace v0
}  // namespace anneal
