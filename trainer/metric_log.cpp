#include "anneal/trainer/metric_log.h"

#include <algorithm>
#include <utility>

#include "anneal/core/error.h"

namespace anneal {
inline namespace v0 {
namespace {

Reduce parse_reduce(std::string_view name, std::string_view text) {
  if (text == "mean" || text == "avg") return Reduce::mean;
  if (text == "sum") return Reduce::sum;
  if (text == "min") return Reduce::min;
  check(text == "max",
        "log: {}: reduce is \"{}\"; expected mean, sum, min or max; for what is none of them, log a Metric instead",
        name, text);
  return Reduce::max;
}

}  // namespace

void Reduction::add(Reduce reduce, double v, double by) {
  merge(reduce, {reduce == Reduce::mean ? v * by : v, by, v, 1});
}

void Reduction::merge(Reduce reduce, const Reduction& other) {
  if (other.count == 0) return;
  const double v = other.total;
  switch (reduce) {
    case Reduce::mean:
    case Reduce::sum: total += v; break;
    case Reduce::min: total = count == 0 || v < total || v != v ? v : total; break;
    case Reduce::max: total = count == 0 || v > total || v != v ? v : total; break;
  }
  weight += other.weight;
  last = other.last;
  count += other.count;
}

double Reduction::value(Reduce reduce) const {
  // One value is its own mean to the bit.
  if (reduce == Reduce::mean) return count == 1 ? last : total / weight;
  return total;
}

void MetricLog::begin_batch(Loop loop, const Batch& batch, std::optional<std::int64_t> dataloader_idx) {
  has_batch_ = saw_batch_[static_cast<std::size_t>(loop)] = true;
  if (loop == Loop::train) saw_batch_in_window_ = true;
  dataloader_idx_ = dataloader_idx;
  batch_size_ = 0;
  for (const NamedTensor& entry : batch) {
    const std::int64_t n = entry.tensor.rank() == 0 ? 1 : entry.tensor.size(0);
    if (batch_size_ == 0) batch_size_ = n;
    else if (n != batch_size_)
      warn_(
          "the tensors of a batch have different first dimensions; metrics are weighted by the first one's (set "
          "batch_size in log)");
  }
}

void MetricLog::Entry::forget_sums() {
  sums.clear();
  sums_of_all_ranks.clear();
  if (object) object->reset();
}

std::vector<double> MetricLog::Entry::sums_now() const {
  if (!object) return sums;
  const std::span<const double> now = object->sums();
  return object->updated() ? std::vector(now.begin(), now.end()) : std::vector<double>();
}

double MetricLog::Entry::epoch_value() const {
  if (object) return sums_of_all_ranks.empty() ? object->compute() : object->compute(sums_of_all_ranks);
  return (of_all_ranks.count > 0 ? of_all_ranks : epoch).value(reduce);
}

template <class F>
void MetricLog::with_loader(std::string_view name, const LogOptions& options, const F& f) {
  if (muted_) return;
  if (ignores_) {
    if (!std::exchange(ignored_, true)) warn_("log: does nothing with barebones");
    return;
  }
  if (!dataloader_idx_ || !options.add_dataloader_idx) return f(name);
  check(name.find("/dataloader_idx_") == std::string_view::npos,
        "log: {}: expected a name without /dataloader_idx_, which is added; or set add_dataloader_idx to false", name);
  f(format("{}/dataloader_idx_{}", name, *dataloader_idx_));
}

void MetricLog::log(std::string_view name, HostValue value, const LogOptions& options) {
  with_loader(name, options, [&](std::string_view full_name) { log_as(full_name, std::move(value), options); });
}

void MetricLog::log(std::string_view name, Metric& metric, const LogOptions& options) {
  with_loader(name, options, [&](std::string_view full_name) {
    if (!metric.updated()) return warn_(format("log: {}: its update was not called; there is no value", full_name));
    Entry& entry = log_as(full_name, metric.batch_value(), options, &metric);
    if (entry.object == &metric) return;
    for (const Entry& other : metrics_)
      check(other.object != &metric, "log: {}: that Metric is logged as {} already", full_name, other.name);
    check(!entry.object, "log: {}: another Metric is logged under that name", full_name);
    entry.object = &metric;
    if (entry.sums.empty()) return;
    std::vector<double> all = std::exchange(entry.sums, {});
    check(all.size() == metric.sums().size(), "log: {}: the checkpoint has {} sums of it, the Metric has {}", full_name,
          all.size(), metric.sums().size());
    for (std::size_t i = 0; i < all.size(); ++i) all[i] += metric.sums()[i];
    metric.set_sums(all);
  });
}

MetricLog::Entry& MetricLog::log_as(std::string_view name, HostValue value, const LogOptions& options, Metric* object) {
  const HookInfo& hook = info(point_);
  check(hook.level != LogLevel::nowhere, "log: {} cannot be logged in {}", name, hook.name);
  const bool on_step = options.on_step.value_or(hook.level == LogLevel::step);
  const bool on_epoch = options.on_epoch.value_or(hook.level != LogLevel::step);
  check(on_step || on_epoch, "log: {}: on_step and on_epoch are both false", name);
  check(!on_step || hook.level != LogLevel::only_epoch, "log: {}: on_step is not possible in {}", name, hook.name);
  check(!options.sync_dist || !options.rank_zero_only, "log: {}: sync_dist and rank_zero_only are both true", name);
  Entry& metric = find_or_add(name, options, parse_reduce(name, options.reduce), on_step, on_epoch);
  if (metric.rank_zero_only && rank_ > 0) return metric;

  std::int64_t weight = 1;
  if (options.batch_size) weight = *options.batch_size;
  else if (has_batch_ && !object) {
    check(batch_size_ > 0 || metric.reduce != Reduce::mean,
          "log: {}: the batch has no tensor to weight it by; set batch_size", name);
    weight = batch_size_;
  }
  if (dataloader_idx_) {
    const auto loader = static_cast<std::size_t>(*dataloader_idx_);
    if (metric.loaders.size() <= loader) metric.loaders.resize(loader + 1);
    metric.loaders[loader] = true;
  }
  const auto take = [on_epoch, by = static_cast<double>(weight)](Entry& m, double v) {
    m.step_value = v;
    m.step_weight = by;
    m.fresh = true;
    if (on_epoch) m.epoch.add(m.reduce, v, by);
  };
  if (waiting_.empty() && value.arrived()) take(metric, value.get());
  else
    waiting_.push_back({std::move(value), [this, take, at = static_cast<std::size_t>(&metric - metrics_.data())](
                                              double v) { take(metrics_[at], v); }});
  return metric;
}

void MetricLog::do_next() {
  const Waiting next = std::move(waiting_.front());
  waiting_.pop_front();
  next.then(next.value.get());
}
void MetricLog::catch_up() {
  while (!waiting_.empty() && waiting_.front().value.arrived()) do_next();
}
void MetricLog::flush() {
  while (!waiting_.empty()) do_next();
}

MetricLog::Entry& MetricLog::find_or_add(std::string_view name, const LogOptions& options, Reduce reduce, bool on_step,
                                         bool on_epoch) {
  const std::size_t n = metrics_.size();
  for (std::size_t i = 0; i < n; ++i) {
    const std::size_t at = cursor_ + i < n ? cursor_ + i : cursor_ + i - n;
    Entry& metric = metrics_[at];
    if (metric.hook != point_ || metric.name != name) continue;
    check(metric.prog_bar == options.prog_bar && metric.logger == options.logger && metric.on_step == on_step &&
              metric.on_epoch == on_epoch && metric.sync_dist == options.sync_dist &&
              metric.rank_zero_only == options.rank_zero_only && metric.reduce == reduce,
          "log: {} was logged in {} before, with other options", name, info(point_).name);
    cursor_ = at + 1 < n ? at + 1 : 0;
    return metric;
  }
  cursor_ = 0;
  return add({std::string(name),
              point_,
              options.prog_bar,
              options.logger,
              on_step,
              on_epoch,
              options.sync_dist,
              options.rank_zero_only,
              reduce,
              false,
              0,
              1,
              {},
              {},
              {}});
}

MetricLog::Entry& MetricLog::add(Saved metric) {
  const bool both = metric.on_step && metric.on_epoch;
  std::string step_name = metric.name + (both ? "_step" : "");
  std::string epoch_name = metric.name + (both ? "_epoch" : "");
  return metrics_.emplace_back(Entry{std::move(metric), std::move(step_name), std::move(epoch_name)});
}

void MetricLog::end_train_batch() {
  has_batch_ = false;
  in_order([this] { publish_steps(); });
  catch_up();
}

void MetricLog::publish_steps() {
  for (Entry& m : metrics_) {
    if (!m.fresh || info(m.hook).level != LogLevel::step) continue;
    m.fresh = false;
    if (!m.on_step) continue;
    m.window.add(m.reduce, m.step_value, m.step_weight);
    if (m.on_epoch) callback_.set(m.name, m.step_value, m.hints[0]);
    callback_.set(m.step_name, m.step_value, m.hints[1]);
    if (m.logger) logged_.set(m.step_name, m.step_value, m.hints[2]);
    if (m.prog_bar) bar_.set(m.step_name, m.step_value, m.hints[3]);
  }
}

void MetricLog::end_evaluation_batch() {
  has_batch_ = false;
  dataloader_idx_.reset();
  catch_up();
}

void MetricLog::end_window() {
  saw_batch_in_window_ = false;
  in_order([this] {
    for (Entry& m : metrics_) m.window = {};
  });
}

void MetricLog::end_epoch(Loop loop) {
  flush();
  saw_batch_[static_cast<std::size_t>(loop)] = false;
  for (Entry& m : metrics_)
    if (info(m.hook).loop == loop) {
      m.epoch = m.of_all_ranks = {};
      m.fresh = false;
      m.loaders.clear();
      m.forget_sums();
    }
}

void MetricLog::clear() {
  waiting_.clear();
  rows_waiting_ = 0;
  for (Entry& m : metrics_) {
    m.window = m.epoch = {};
    m.fresh = false;
    m.forget_sums();
  }
  callback_.clear();
  logged_.clear();
  bar_.clear();
}

MetricMap MetricLog::step_row() const {
  MetricMap row;
  for (const Entry& m : metrics_)
    if (m.logger && m.window.count > 0) row.set(m.step_name, m.window.value(m.reduce));
  return row;
}

MetricMap MetricLog::evaluation_step_row(Loop loop) const {
  MetricMap row;
  for (const Entry& m : metrics_)
    if (m.logger && m.on_step && m.fresh && info(m.hook).loop == loop) row.set(m.step_name, m.step_value);
  return row;
}

MetricMap MetricLog::epoch_values(Loop loop, bool for_logger, std::optional<std::int64_t> dataloader_idx) const {
  const auto belongs = [&](const Entry& m) {
    if (!dataloader_idx || m.loaders.empty()) return true;
    const auto loader = static_cast<std::size_t>(*dataloader_idx);
    return loader < m.loaders.size() && m.loaders[loader];
  };
  MetricMap row;
  for (const Entry& m : metrics_)
    if ((m.logger || !for_logger) && m.has_epoch_value() && info(m.hook).loop == loop && belongs(m))
      row.set(m.epoch_name, m.epoch_value());
  return row;
}

Loop MetricLog::loop_of(std::string_view epoch_name) const {
  for (const Entry& m : metrics_)
    if (m.on_epoch && m.epoch_name == epoch_name) return info(m.hook).loop;
  return Loop::none;
}

void MetricLog::release() {
  waiting_.clear();
  rows_waiting_ = 0;
  for (Entry& m : metrics_) {
    if (!m.object) continue;
    m.sums = m.sums_now();
    m.object->reset();
    m.object = nullptr;
  }
}

MetricLog::State MetricLog::state() {
  flush();
  State state{{metrics_.begin(), metrics_.end()}, callback_, logged_, bar_};
  for (std::size_t i = 0; i < metrics_.size(); ++i) state.metrics[i].sums = metrics_[i].sums_now();
  return state;
}

void MetricLog::load_state(const State& state) {
  release();
  metrics_.clear();
  for (const Saved& metric : state.metrics) add(metric);
  callback_ = state.callback;
  logged_ = state.logged;
  bar_ = state.bar;
}

}  // namespace v0
}  // namespace anneal
