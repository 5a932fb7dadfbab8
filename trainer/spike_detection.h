// Notices when the loss jumps.
#pragma once

#include <cstdint>
#include <deque>
#include <filesystem>
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
  /// Instead of these two: at least so many standard deviations, once the window is full.
  std::optional<double> zscore = {};
  std::filesystem::path exclude_batches_path = {};  ///< unset: skip_batches.json in default_root_dir
  bool finite_only = true;                          ///< a loss that is not finite is a spike; false: it is passed over
  /// TrainingSpikeError ends the run; "stop": training ends as if it were done; "skip": it goes on; "rollback": it goes
  /// on from the newest checkpoint before both batches, and passes over them. The last two are for one rank.
  std::string action = "raise";
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
///
/// The spike's batch and the one before, which may have caused it, are added to a file, as numbers counted from the
/// beginning of training: [3, 4]. A resumed run passes over the batches in it.
class SpikeDetection final : public Callback {
 public:
  /// Throws ConfigError for options that are not permitted.
  explicit SpikeDetection(SpikeDetectionOptions options = {});

  /// Spikes of the last fit.
  std::int64_t spikes() const { return spikes_; }

  void setup(Trainer& trainer, TrainingModule& module, Stage stage) override;
  void on_load_checkpoint(Trainer& trainer, TrainingModule& module, Checkpoint& checkpoint) override;
  void on_train_batch_end(Trainer& trainer, TrainingModule& module, const Tensor& loss, const Batch& batch,
                          StepContext& step) override;
  std::string state_key() const override { return "SpikeDetection"; }
  StateMap state() const override;
  void load_state(const StateMap& state) override;

 private:
  bool is_spike(double loss) const;
  void exclude(Trainer& trainer, std::int64_t batch) const;
  std::filesystem::path file(const Trainer& trainer) const;

  SpikeDetectionOptions options_;
  std::deque<double> losses_;  // those of the window, without spikes
  std::int64_t spikes_ = 0;
};

}  // namespace v0
}  // namespace anneal
