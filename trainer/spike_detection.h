// Notices when the loss jumps.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>

#include "anneal/core/error.h"
#include "anneal/trainer/callback.h"

namespace anneal {
inline namespace v0 {

struct SpikeDetectionOptions {
  std::string mode = "min";         ///< of the loss; or "max"
  std::int64_t window = 10;         ///< the mean is that of so many losses
  std::int64_t warmup = 1;          ///< the first batches of an epoch, which are no spikes
  std::optional<double> atol = {};  ///< a spike lies at least this far from the mean,
  double rtol = 2;                  ///< and at least this times the mean's magnitude
  bool finite_only = true;          ///< a loss that is not finite is a spike; false: it is passed over
  std::string action = "raise";     ///< TrainingSpikeError ends the run; or "stop": training ends as if it were done
};

/// The loss jumped.
class TrainingSpikeError : public Error {
 public:
  TrainingSpikeError(const std::string& text, std::int64_t batch_idx) : Error(text), batch_idx_(batch_idx) {}
  /// Of the batch, in its epoch.
  std::int64_t batch_idx() const { return batch_idx_; }

 private:
  std::int64_t batch_idx_;
};

/// A spike is a loss that is worse than the one before and far from the mean of the last ones that were none. Each
/// batch's loss is waited for. Of several ranks each looks at its own loss; a spike on any one ends training on all.
class SpikeDetection final : public Callback {
 public:
  /// Throws ConfigError for options that are not permitted.
  explicit SpikeDetection(SpikeDetectionOptions options = {});

  /// Spikes of the last fit.
  std::int64_t spikes() const { return spikes_; }

  void setup(Trainer& trainer, TrainingModule& module, Stage stage) override;
  void on_train_batch_end(Trainer& trainer, TrainingModule& module, const Tensor& loss, const Batch& batch,
                          StepContext& step) override;
  std::string state_key() const override { return "SpikeDetection"; }
  StateMap state() const override;
  void load_state(const StateMap& state) override;

 private:
  bool is_spike(double loss) const;

  SpikeDetectionOptions options_;
  std::deque<double> losses_;  // those of the window, without spikes
  std::int64_t spikes_ = 0;
};

}  // namespace v0
}  // namespace anneal
