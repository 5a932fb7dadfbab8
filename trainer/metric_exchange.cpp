// What ranks tell each other of their metrics.
#include <algorithm>
#include <cstdlib>
#include <map>
#include <sstream>
#include <utility>

#include "anneal/core/error.h"
#include "anneal/trainer/metric_log.h"

namespace anneal {
inline namespace v0 {

// Calls take(metric, reduction, sums) for what each rank has in `part` of the metrics with sync_dist.
template <class F>
void MetricLog::exchange(Loop loop, Reduction Saved::*part, const F& take) {
  const auto shared = [&](const Entry& m) { return m.sync_dist && info(m.hook).loop == loop; };
  std::ostringstream mine;
  mine << std::hexfloat << (part == &Saved::window ? saw_batch_in_window_ : saw_batch_[static_cast<std::size_t>(loop)]);
  mine << '\n';
  for (const Entry& m : metrics_) {
    const Reduction& r = m.*part;
    if (!shared(m) || r.count == 0) continue;
    mine << static_cast<int>(m.hook) << ' ' << m.name << '\n';
    mine << m.prog_bar << ' ' << m.logger << ' ' << m.on_step << ' ' << m.on_epoch << ' ' << static_cast<int>(m.reduce)
         << ' ' << r.total << ' ' << r.weight << ' ' << r.last << ' ' << r.count;
    if (m.object)
      for (const double sum : m.object->sums()) mine << ' ' << sum;
    mine << '\n';
  }
  const std::vector<std::string> texts = exchange_(mine.str());
  std::map<std::string, std::vector<bool>> logged_by;  // ranks, by hook and name
  std::vector<bool> saw_batch;
  for (std::size_t rank = 0; rank < texts.size(); ++rank) {
    std::istringstream lines(texts[rank]);
    std::string key, numbers;
    std::getline(lines, key);
    saw_batch.push_back(key == "1");
    while (std::getline(lines, key) && std::getline(lines, numbers)) {
      std::vector<bool>& ranks = logged_by[key];
      ranks.resize(texts.size());
      ranks[rank] = true;
      char* at = numbers.data();
      const auto next = [&] { return std::strtoll(at, &at, 10); };
      const auto hook = static_cast<HookPoint>(std::atoi(key.c_str()));
      const std::string name = key.substr(key.find(' ') + 1);
      const bool prog_bar = next() != 0, logger = next() != 0, on_step = next() != 0, on_epoch = next() != 0;
      const auto reduce = static_cast<Reduce>(next());
      Reduction r;
      for (double* number : {&r.total, &r.weight, &r.last}) *number = std::strtod(at, &at);
      r.count = next();
      std::vector<double> sums;
      while (*at == ' ') sums.push_back(std::strtod(at, &at));
      auto known =
          std::ranges::find_if(metrics_, [&](const Entry& m) { return shared(m) && m.hook == hook && m.name == name; });
      if (known == metrics_.end() && sums.empty()) {  // this rank has had no batch so far
        add({name, hook, prog_bar, logger, on_step, on_epoch, true, false, reduce, false, 0, 1, {}, {}, {}});
        known = metrics_.end() - 1;
      }
      if (known != metrics_.end()) take(*known, r, sums);
    }
  }
  // A rank that had no batch has nothing to log of them.
  for (const auto& [key, ranks] : logged_by) {
    const bool in_batches = info(static_cast<HookPoint>(std::atoi(key.c_str()))).level != LogLevel::only_epoch;
    for (std::size_t rank = 0; rank < ranks.size(); ++rank)
      check(ranks[rank] || (in_batches && !saw_batch[rank]),
            "log: {} was logged with sync_dist, but not on rank {}; all ranks must log it",
            key.substr(key.find(' ') + 1), rank);
  }
}

void MetricLog::publish_window() {
  if (!exchange_) return;
  flush();
  for (Entry& m : metrics_)
    if (m.sync_dist) m.of_all_ranks = {};
  exchange(Loop::train, &Saved::window,
           [](Entry& m, const Reduction& theirs, const auto&) { m.of_all_ranks.merge(m.reduce, theirs); });
  for (Entry& m : metrics_)
    if (m.of_all_ranks.count > 0) m.window = std::exchange(m.of_all_ranks, {});
}

void MetricLog::publish_epoch(Loop loop) {
  flush();
  if (exchange_) {
    for (Entry& m : metrics_) {
      m.of_all_ranks = {};
      m.sums_of_all_ranks.clear();
    }
    exchange(loop, &Saved::epoch, [](Entry& m, const Reduction& theirs, const std::vector<double>& sums) {
      m.of_all_ranks.merge(m.reduce, theirs);
      m.sums_of_all_ranks.resize(sums.size());
      for (std::size_t i = 0; i < sums.size(); ++i) m.sums_of_all_ranks[i] += sums[i];
    });
  }
  for (Entry& m : metrics_) {
    if (info(m.hook).loop != loop || !m.has_epoch_value()) continue;
    const double value = m.epoch_value();
    if (m.on_step) callback_.set(m.name, value, m.hints[0]);
    callback_.set(m.epoch_name, value, m.hints[4]);
    if (m.logger) logged_.set(m.epoch_name, value, m.hints[2]);
    if (m.prog_bar) bar_.set(m.epoch_name, value, m.hints[5]);
  }
  if (exchange_) take_callback_metrics_of_rank_zero();
}

// All ranks decide by the same numbers.
void MetricLog::take_callback_metrics_of_rank_zero() {
  const auto stays = [&](const std::string& name) {
    return std::ranges::any_of(metrics_, [&](const Entry& m) { return m.rank_zero_only && m.is_called(name); });
  };
  std::ostringstream mine;
  for (const auto& [name, value] : callback_)
    if (rank_ == 0 && !stays(name)) mine << std::hexfloat << value << ' ' << name << '\n';
  std::istringstream lines(exchange_(mine.str())[0]);
  if (rank_ == 0) return;
  callback_.clear();
  for (std::string line; std::getline(lines, line);) {
    char* at = line.data();
    const double value = std::strtod(at, &at);
    callback_.set(at + 1, value);
  }
}

const double* MetricLog::monitored(std::string_view name) {
  for (const Entry& m : metrics_) {
    if (!m.is_called(name)) continue;
    check<ConfigError>(!m.rank_zero_only, "monitor: {} is logged with rank_zero_only, so that other ranks lack it",
                       name);
    if (exchange_ && !m.sync_dist)
      warn_(format("monitor: {} is logged without sync_dist; rank 0's value decides for all ranks", name));
  }
  return callback_metrics().find(name);
}

}  // namespace v0
}  // namespace anneal
