// Metrics that are more than the mean of their batches' values.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "anneal/core/tensor.h"

namespace anneal {
inline namespace v0 {

/// A metric that is a function of sums over samples, such as a precision (hits and calls) or a correlation. A step
/// gives it each batch and logs it: `accuracy.update(logits, target); step.log("val_acc", accuracy);`. The step's value
/// is that of the batch, the epoch's that of the epoch's sums, with sync_dist those of all ranks. The Trainer sets it
/// to zero at the epoch's end, and keeps its sums in checkpoints. Make it a member of the module.
class Metric {
 public:
  virtual ~Metric() = default;

  /// Of all since the last `reset`, and of the last batch alone.
  double compute() const { return compute(sums_); }
  double batch_value() const { return compute(batch_); }
  void reset();
  /// Whether something was added since the last `reset`.
  bool updated() const { return updated_; }

  /// The metric's value for such sums.
  virtual double compute(std::span<const double> sums) const = 0;
  std::span<const double> sums() const { return sums_; }
  /// Throws Error for another number of them.
  void set_sums(std::span<const double> sums);

 protected:
  /// So many sums, which begin at zero.
  explicit Metric(std::size_t sums) : sums_(sums), batch_(sums) {}
  /// A batch's. Throws Error for another number of them.
  void add(std::span<const double> batch);

 private:
  std::vector<double> sums_, batch_;
  bool updated_ = false;
};

/// The share of samples whose target is among the `top_k` largest scores.
class Accuracy final : public Metric {
 public:
  /// Throws ConfigError for a top_k below 1.
  explicit Accuracy(std::int64_t top_k = 1);
  /// Scores [n, classes] and targets [n] (i64), on any device; waits for them.
  void update(const Tensor& scores, const Tensor& target);
  using Metric::compute;
  double compute(std::span<const double> sums) const override { return sums[0] / sums[1]; }

 private:
  std::int64_t top_k_;
};

/// The macro-averaged F1 score: the mean over the classes of 2 hits / (2 hits + misses + false calls); a class that
/// neither occurs nor is called takes no part (scikit-learn's f1_score, average="macro").
class F1Score final : public Metric {
 public:
  /// Throws ConfigError for less than two classes.
  explicit F1Score(std::int64_t classes);
  /// Scores [n, classes] and targets [n] (i64), on any device; waits for them. Throws Error for a target out of range.
  void update(const Tensor& scores, const Tensor& target);
  using Metric::compute;
  double compute(std::span<const double> sums) const override;

 private:
  std::int64_t classes_;
};

}  // namespace v0
}  // namespace anneal
