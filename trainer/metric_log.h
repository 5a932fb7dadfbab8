// What was logged: reductions over accumulation windows and epochs, and the newest value of every metric.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "anneal/core/host_value.h"
#include "anneal/data/batch.h"
#include "anneal/trainer/hook_point.h"
#include "anneal/trainer/metric.h"
#include "anneal/trainer/metric_map.h"
#include "anneal/trainer/step_context.h"

namespace anneal {
inline namespace v0 {

enum class Reduce : std::uint8_t { mean, sum, min, max };

/// Values reduced one by one; means by weight.
struct Reduction {
  double total = 0, weight = 0, last = 0;
  std::int64_t count = 0;

  void add(Reduce reduce, double value, double by);
  double value(Reduce reduce) const;
  /// Takes in what another rank has reduced.
  void merge(Reduce reduce, const Reduction& other);
};

/// The metrics of a Trainer. A metric is known by its hook and its name from the first time it is logged; from then on
/// logging it is a comparison, and allocates nothing.
///
/// Values that a GPU still computes are not waited for: they, and what comes after them, are put off until they have
/// arrived, or until somebody asks for what depends on them.
class MetricLog {
 public:
  /// `warn` is called for a batch whose tensors disagree about the number of samples.
  explicit MetricLog(std::function<void(const std::string&)> warn) : warn_(std::move(warn)) {}

  /// This one of several ranks, and how they tell each other what they logged: all ranks' texts, in order, for this
  /// one's. Called by publish_window and publish_epoch.
  void set_exchange(int rank, std::function<std::vector<std::string>(const std::string&)> exchange) {
    rank_ = rank;
    exchange_ = std::move(exchange);
  }

  /// The hook that is running; returns the one before.
  HookPoint enter(HookPoint point) {
    cursor_ = 0;
    return std::exchange(point_, point);
  }
  HookPoint point() const { return point_; }
  /// While it lives, `log` does nothing.
  class Mute {
   public:
    explicit Mute(MetricLog& log) : log_(log), before_(std::exchange(log.muted_, true)) {}
    ~Mute() { log_.muted_ = before_; }
    Mute(const Mute&) = delete;
    Mute& operator=(const Mute&) = delete;

   private:
    MetricLog& log_;
    bool before_;
  };

  /// From now on `log` does nothing; the first one that is ignored warns.
  void ignore() { ignores_ = true; }

  /// The batch whose size is the weight of what comes, and which of several loaders it came from.
  void begin_batch(Loop loop, const Batch& batch, std::optional<std::int64_t> dataloader_idx = {});
  /// Throws Error where nothing can be logged, or when the options make no sense or changed.
  void log(std::string_view name, HostValue value, const LogOptions& options);
  /// The same for an object, which is read at the epoch's end and set to zero then.
  void log(std::string_view name, Metric& metric, const LogOptions& options);

  /// Calls f() when the values that were logged so far have arrived, and what was put off before it is done.
  template <class F>
  void in_order(F f) {
    if (waiting_.empty()) f();
    else waiting_.push_back({0.0, [f = std::move(f)](double) { f(); }});
  }
  /// The same for the next row; one that was put off is written first.
  template <class F>
  void write_row(F f) {
    while (rows_waiting_ > 0) do_next();
    if (waiting_.empty()) return f();
    ++rows_waiting_;
    waiting_.push_back({0.0, [this, f = std::move(f)](double) {
                          --rows_waiting_;
                          f();
                        }});
  }
  /// Waits for all values, and does what was put off.
  void flush();

  /// Step values of the batch that ends: into the maps, and into their window.
  void end_train_batch();
  void end_evaluation_batch();
  /// The window's values with sync_dist become those of all ranks, for a row.
  void publish_window();
  void end_window();
  /// Epoch values so far: into the maps; those with sync_dist, of all ranks. callback_metrics becomes that of rank 0.
  /// Throws Error on all of them, with name and rank, if one of them logged no such metric, although it had a batch; so
  /// does publish_window.
  void publish_epoch(Loop loop);
  /// Forgets them: the next epoch begins.
  void end_epoch(Loop loop);
  /// Forgets everything but which metrics there are.
  void clear();
  /// Lets go of objects, whose sums it keeps.
  void release();

  /// What loggers get: the window's values, the evaluation batch's, and the epoch's. Call those for steps in write_row.
  MetricMap step_row() const;
  MetricMap evaluation_step_row(Loop loop) const;
  MetricMap epoch_row(Loop loop) const { return epoch_values(loop, true); }
  /// The epoch's values of a loop, `for_logger` or all; of those logged for a batch, those of one loader.
  MetricMap epoch_values(Loop loop, bool for_logger, std::optional<std::int64_t> dataloader_idx = {}) const;

  /// Which loop a metric of an epoch is of; none: there is no such metric.
  Loop loop_of(std::string_view epoch_name) const;

  /// The newest value of a metric that decides something, or null. Throws ConfigError for one with rank_zero_only; one
  /// without sync_dist is worth a warning, of several ranks.
  const double* monitored(std::string_view name);
  /// The newest values: of all metrics, of those for loggers, and of those for the progress bar.
  const MetricMap& callback_metrics() {
    flush();
    return callback_;
  }
  const MetricMap& logged_metrics() {
    flush();
    return logged_;
  }
  /// Those that have arrived.
  const MetricMap& progress_bar_metrics() {
    catch_up();
    return bar_;
  }

  /// Everything, for checkpoints.
  struct Saved {
    std::string name;
    HookPoint hook;
    bool prog_bar, logger, on_step, on_epoch, sync_dist, rank_zero_only;
    Reduce reduce;
    bool fresh;
    double step_value, step_weight;
    Reduction window, epoch;
    std::vector<double> sums;  ///< of an object, or to be added to those of one that is not known yet
  };
  struct State {
    std::vector<Saved> metrics;
    MetricMap callback, logged, bar;
  };
  State state();
  void load_state(const State& state);

 private:
  struct Entry : Saved {
    std::string step_name, epoch_name;
    std::array<std::size_t, 6> hints{};
    Metric* object = nullptr;
    Reduction of_all_ranks{};
    std::vector<double> sums_of_all_ranks{};
    std::vector<bool> loaders{};  // that logged it; none: it was not for a batch
    bool is_called(std::string_view key) const { return key == name || key == step_name || key == epoch_name; }
    bool has_epoch_value() const { return epoch.count > 0 || of_all_ranks.count > 0; }
    double epoch_value() const;
    std::vector<double> sums_now() const;
    void forget_sums();
  };
  template <class F>
  void exchange(Loop loop, Reduction Saved::*part, const F& take);
  void take_callback_metrics_of_rank_zero();
  template <class F>
  void with_loader(std::string_view name, const LogOptions& options, const F& f);
  // What happens when a value is there.
  struct Waiting {
    HostValue value;
    std::function<void(double)> then;
  };
  void do_next();
  void catch_up();
  void publish_steps();
  Entry& log_as(std::string_view name, HostValue value, const LogOptions& options, Metric* object = nullptr);
  Entry& find_or_add(std::string_view name, const LogOptions& options, Reduce reduce, bool on_step, bool on_epoch);
  Entry& add(Saved metric);

  std::function<void(const std::string&)> warn_;
  int rank_ = 0;
  std::function<std::vector<std::string>(const std::string&)> exchange_;
  std::vector<Entry> metrics_;  // in the order of their first logging
  std::size_t cursor_ = 0;      // where the next one is expected
  HookPoint point_ = HookPoint::none;
  bool muted_ = false;
  bool ignores_ = false, ignored_ = false;
  bool has_batch_ = false;
  std::array<bool, 4> saw_batch_{};  // of a loop's epoch
  bool saw_batch_in_window_ = false;
  std::optional<std::int64_t> dataloader_idx_;
  std::int64_t batch_size_ = 0;  // 0: the batch has no tensor
  MetricMap callback_, logged_, bar_;
  std::deque<Waiting> waiting_;
  std::int64_t rows_waiting_ = 0;
};

}  // namespace v0
}  // namespace anneal
