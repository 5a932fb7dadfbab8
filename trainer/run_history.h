// What a run has measured, epoch by epoch.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "anneal/trainer/metric_map.h"

namespace anneal {
inline namespace v0 {

/// Values of metrics in the order in which they came; pytorch-accelerated's. It can be kept as a JSON file.
class RunHistory {
 public:
  /// Sorted.
  std::vector<std::string> metric_names() const;
  bool contains(std::string_view name) const { return values_.contains(name); }
  /// All values, or the newest one. Throws Error, which lists the names, for a metric that is not there.
  const std::vector<double>& values(std::string_view name) const;
  double latest(std::string_view name) const { return values(name).back(); }

  /// Adds a value, under the prefix and the name.
  void update(std::string_view name, double value);
  /// Forgets a metric, if it is there.
  void remove(std::string_view name);
  /// What `update` puts before names from now on.
  void set_prefix(std::string prefix) { prefix_ = std::move(prefix); }
  const std::string& prefix() const { return prefix_; }

  /// Of the epoch that runs or comes next, from 1.
  std::int64_t current_epoch() const { return epoch_; }
  void end_epoch() { ++epoch_; }
  /// Forgets everything but the prefix.
  void reset();

  void save(const std::filesystem::path& path) const;
  /// Throws Error, which names the file, for one that is missing or not a history.
  static RunHistory load(const std::filesystem::path& path);

  /// For checkpoints: names are "run_history" and "run_history.<metric>"; others are passed over by load_state.
  StateMap state() const;
  void load_state(const StateMap& state);

 private:
  std::map<std::string, std::vector<double>, std::less<>> values_;
  std::string prefix_;
  std::int64_t epoch_ = 1;
};

}  // namespace v0
}  // namespace anneal
