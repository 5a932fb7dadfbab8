// Ends training when a metric no longer improves.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "anneal/trainer/callback.h"

namespace anneal {
inline namespace v0 {

struct EarlyStoppingOptions {
  std::string monitor = {};   ///< the metric that decides
  double min_delta = 0;       ///< only a change by more than this is an improvement; the sign does not count
  std::int64_t patience = 3;  ///< so many looks in a row without improvement end training; 0 is 1
  bool verbose = false;       ///< prints improvements and why training ends
  std::string mode = "min";   ///< or "max"
  bool strict = true;         ///< a metric that is missing is an error; false: that look is left out
  bool check_finite = true;   ///< NaN and infinity end training; false: they are no improvement
  std::optional<double> stopping_threshold = {};    ///< a value better than this is good enough and ends training
  std::optional<double> divergence_threshold = {};  ///< a value worse than this ends it
  /// When it looks. Unset: at the epoch's end if validation runs once an epoch or not at all, else after each check.
  std::optional<bool> check_on_train_epoch_end = {};
};

enum class StoppingReason : std::uint8_t {
  not_stopped,
  patience_exhausted,
  stopping_threshold,
  divergence_threshold,
  non_finite_metric,
};

/// While min_epochs or min_steps are not reached, it waits with the end, and gives it up if the metric improves.
class EarlyStopping final : public Callback {
 public:
  /// Throws ConfigError for options that are not permitted.
  explicit EarlyStopping(EarlyStoppingOptions options);

  /// Infinity (mode max: minus infinity) before the first look.
  double best_score() const { return best_; }
  /// Looks since the last improvement.
  std::int64_t wait_count() const { return wait_; }
  StoppingReason stopping_reason() const { return reason_; }
  /// The reason in words, with numbers; empty while there is none.
  const std::string& stopping_message() const { return message_; }
  /// The epoch, from 0, whose metric ended training; 0 if none did.
  std::int64_t stopped_epoch() const { return stopped_epoch_; }

  void setup(Trainer& trainer, TrainingModule& module, Stage stage) override;
  void on_train_start(Trainer& trainer, TrainingModule& module) override;
  void on_train_batch_end(Trainer& trainer, TrainingModule& module, const Tensor& loss, const Batch& batch,
                          StepContext& step) override;
  void on_train_epoch_end(Trainer& trainer, TrainingModule& module) override;
  void on_validation_end(Trainer& trainer, TrainingModule& module) override;
  bool monitors() const override { return true; }
  std::string state_key() const override;
  StateMap state() const override;
  void load_state(const StateMap& state) override;

 private:
  bool looks_at_epoch_end(const Trainer& trainer) const;
  void look(Trainer& trainer);
  StoppingReason judge(double value);
  std::string explain(StoppingReason reason, double value) const;
  void stop_if_due(Trainer& trainer, std::int64_t epochs) const;

  EarlyStoppingOptions options_;
  double best_ = 0;
  std::int64_t wait_ = 0, stopped_epoch_ = 0;
  StoppingReason reason_ = StoppingReason::not_stopped;
  std::string message_;
};

}  // namespace v0
}  // namespace anneal
