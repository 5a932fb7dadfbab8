#include "anneal/trainer/simple_profiler.h"

#include <algorithm>
#include <vector>

#include "anneal/core/error.h"
#include "anneal/trainer/text_table.h"

namespace anneal {
inline namespace v0 {
namespace {

double seconds_between(std::chrono::steady_clock::time_point a, std::chrono::steady_clock::time_point b) {
  return std::chrono::duration<double>(b - a).count();
}

}  // namespace

void SimpleProfiler::start(std::string_view action) {
  auto at = actions_.find(action);
  if (at == actions_.end()) at = actions_.emplace(action, Action{}).first;
  check(!at->second.start, "profiler: action \"{}\" was started twice", action);
  at->second.start = Clock::now();
}

void SimpleProfiler::stop(std::string_view action) {
  const auto now = Clock::now();
  const auto at = actions_.find(action);
  check(at != actions_.end() && at->second.start, "profiler: action \"{}\" was stopped, but not started", action);
  at->second.seconds += seconds_between(*at->second.start, now);
  ++at->second.calls;
  at->second.start.reset();
}

void SimpleProfiler::begin_run() {
  std::erase_if(actions_, [](const auto& entry) { return !entry.second.start; });
  begin_ = Clock::now();
  end_.reset();
}
void SimpleProfiler::end_run() { end_ = Clock::now(); }

std::int64_t SimpleProfiler::calls(std::string_view action) const {
  const auto at = actions_.find(action);
  return at == actions_.end() ? 0 : at->second.calls;
}
double SimpleProfiler::seconds(std::string_view action) const {
  const auto at = actions_.find(action);
  return at == actions_.end() ? 0 : at->second.seconds;
}

std::string SimpleProfiler::report() const {
  using Entry = std::pair<std::string, Action>;
  std::vector<Entry> entries;
  for (const auto& entry : actions_)
    if (entry.second.calls > 0) entries.push_back(entry);
  std::stable_sort(entries.begin(), entries.end(),
                   [](const Entry& a, const Entry& b) { return a.second.seconds > b.second.seconds; });
  const double run = seconds_between(begin_, end_.value_or(Clock::now()));
  std::vector<std::vector<std::string>> rows{{"Action", "Mean (ms)", "Calls", "Total (s)", "Share (%)"},
                                             {"the run", "", "", fixed(run, 4), fixed(100, 2)}};
  for (const auto& [name, action] : entries)
    rows.push_back({name, fixed(1e3 * action.seconds / static_cast<double>(action.calls), 4),
                    std::to_string(action.calls), fixed(action.seconds, 4), fixed(100 * action.seconds / run, 2)});
  return text_table(rows, 1);
}

}  // namespace v0
}  // namespace anneal
