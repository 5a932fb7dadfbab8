// What a step is told, and how it reports.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "anneal/core/tensor.h"
#include "anneal/trainer/metric_map.h"

namespace anneal {
inline namespace v0 {

class Metric;
class Trainer;

/// How a metric is kept. In training steps the default is a value for each step; in validation and test, and between
/// batches, the epoch's. With both, the step's is called `<name>_step` and the epoch's `<name>_epoch`.
struct LogOptions {
  bool prog_bar = false;
  bool logger = true;
  std::optional<bool> on_step = {};
  std::optional<bool> on_epoch = {};
  std::string_view reduce = "mean";  ///< over the epoch (and an accumulation window): mean, sum, min, max
  /// Of several ranks: reduces the epoch's value, and those in rows of steps, over all of them, which must all log it;
  /// else rank 0's is written, and is what all ranks' callbacks and schedules see when an epoch or a check ends.
  bool sync_dist = false;
  bool rank_zero_only = false;  ///< only rank 0 keeps it; nothing can monitor it
  /// In an evaluation over several loaders: adds "/dataloader_idx_<i>" to the name. False: their values are reduced
  /// together.
  bool add_dataloader_idx = true;
  /// The value's weight in a mean. Default: the first dimension of the batch's first tensor.
  std::optional<std::int64_t> batch_size = {};
};

/// Given to a step and to the hooks around it; valid until the hook returns.
class StepContext {
 public:
  StepContext(Trainer& trainer, std::int64_t batch_idx, std::int64_t dataloader_idx = 0,
              std::span<const std::int64_t> samples = {})
      : trainer_(&trainer), batch_idx_(batch_idx), dataloader_idx_(dataloader_idx), samples_(samples) {}

  Trainer& trainer() const { return *trainer_; }
  /// The batch's number in its epoch, from 0.
  std::int64_t batch_idx() const { return batch_idx_; }
  /// Which of several loaders it came from; batch_idx counts from 0 in each.
  std::int64_t dataloader_idx() const { return dataloader_idx_; }
  /// The dataset's samples that the batch was made from.
  std::span<const std::int64_t> samples() const { return samples_; }
  std::int64_t current_epoch() const;
  std::int64_t global_step() const;

  /// Records a metric: Trainer::log. A GPU is not waited for: rows and bar get its values when they have arrived.
  void log(std::string_view name, double value, const LogOptions& options = {});
  void log(std::string_view name, const Tensor& value, const LogOptions& options = {});
  void log(std::string_view name, Metric& metric, const LogOptions& options = {});
  /// Records several with the same options.
  void log_dict(const MetricMap& values, const LogOptions& options = {});

  /// In training_step: the returned loss is a sum over so many items, of tokens for example. The accumulation window's
  /// gradient, over all ranks, is then the sum of its losses' divided by the sum of their weights: every item counts
  /// alike, however they are spread. All steps of a window set one, or none does.
  void set_weight(double items);
  const std::optional<double>& weight() const { return weight_; }
  /// With manual optimization: this batch changed weights by other means than an optimizer, and counts as a step.
  void count_step() { counts_step_ = true; }
  bool counts_step() const { return counts_step_; }
  /// In on_train_batch_start: ends the epoch before this batch is trained on. An accumulation window that is open is
  /// stepped with what it has. With several ranks all of them must do it at the same batch. In the hooks of validation
  /// batches, and in validation_step: breaks off a check within fit after this batch; what it logged is dropped.
  void skip_epoch() { skips_epoch_ = true; }
  bool skips_epoch() const { return skips_epoch_; }

 private:
  Trainer* trainer_;
  std::int64_t batch_idx_, dataloader_idx_;
  std::span<const std::int64_t> samples_;
  std::optional<double> weight_;
  bool skips_epoch_ = false, counts_step_ = false;
};

}  // namespace v0
}  // namespace anneal
