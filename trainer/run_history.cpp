#include "anneal/trainer/run_history.h"

#include <fstream>
#include <iterator>
#include <utility>

#include "anneal/core/error.h"
#include "anneal/trainer/checkpoint.h"

namespace anneal {
inline namespace v0 {
namespace {

constexpr std::string_view epoch_key = "run_history", metric_prefix = "run_history.";

}  // namespace

std::vector<std::string> RunHistory::metric_names() const {
  std::vector<std::string> names;
  for (const auto& [name, values] : values_) names.push_back(name);
  return names;
}

const std::vector<double>& RunHistory::values(std::string_view name) const {
  const auto it = values_.find(name);
  if (it != values_.end()) return it->second;
  std::string names;
  for (const auto& [known, values] : values_) names += (names.empty() ? "" : ", ") + known;
  throw Error(format("run history: there is no metric {}; there are: {}", name, names));
}

void RunHistory::update(std::string_view name, double value) { values_[prefix_ + std::string(name)].push_back(value); }

void RunHistory::remove(std::string_view name) {
  if (const auto it = values_.find(name); it != values_.end()) values_.erase(it);
}

void RunHistory::reset() {
  values_.clear();
  epoch_ = 1;
}

StateMap RunHistory::state() const {
  StateMap state{{std::string(epoch_key), epoch_}};
  for (const auto& [name, values] : values_) state[std::string(metric_prefix) + name] = values;
  return state;
}

void RunHistory::load_state(const StateMap& state) {
  const auto epoch = state.find(epoch_key);
  if (epoch == state.end()) return;
  values_.clear();
  epoch_ = std::get<std::int64_t>(epoch->second);
  for (const auto& [key, value] : state)
    if (key.starts_with(metric_prefix))
      values_[key.substr(metric_prefix.size())] = std::get<std::vector<double>>(value);
}

void RunHistory::save(const std::filesystem::path& path) const {
  std::ofstream file(path);
  file << to_text(state()) << '\n';
  check(static_cast<bool>(file.flush()), "{}: cannot be written", path.string());
}

RunHistory RunHistory::load(const std::filesystem::path& path) {
  std::ifstream file(path);
  check(static_cast<bool>(file), "{}: cannot be read", path.string());
  const std::string text(std::istreambuf_iterator<char>(file), {});
  RunHistory history;
  try {
    history.load_state(state_from(text));
  } catch (const std::exception& error) {
    throw Error(format("{}: not a run history: {}", path.string(), error.what()));
  }
  return history;
}

}  // namespace v0
}  // namespace anneal
