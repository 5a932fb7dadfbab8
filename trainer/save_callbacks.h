// Checkpoints by pytorch-accelerated's names.
#pragma once

#include <cstdint>
#include <deque>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "anneal/optim/schedule.h"
#include "anneal/trainer/trainer_callback.h"

namespace anneal {
inline namespace v0 {

struct SaveBestModelOptions {
  std::filesystem::path save_path = "best_model.safetensors";
  std::string watch_metric = "eval_loss_epoch";  ///< of the run history
  bool greater_is_better = false;
  bool reset_on_train = true;         ///< a new run knows nothing of the best before
  bool save_optimizer = true;         ///< the whole state of the run; false: the model alone
  bool load_saved_checkpoint = true;  ///< a run ends with the best model
};

/// Saves the model of a SimpleTrainer after each epoch in which its metric was better than ever before.
class SaveBestModel final : public TrainerCallback {
 public:
  explicit SaveBestModel(SaveBestModelOptions options = {}) : options_(std::move(options)) {}
  /// None before the first epoch.
  const std::optional<double>& best_metric() const { return best_; }

  void on_training_run_start(SimpleTrainer& trainer) override;
  void on_training_run_epoch_end(SimpleTrainer& trainer) override;
  void on_training_run_end(SimpleTrainer& trainer) override;

  std::string state_key() const override { return "SaveBestModel " + options_.watch_metric; }
  StateMap state() const override;
  void load_state(const StateMap& state) override;

 private:
  SaveBestModelOptions options_;
  std::optional<double> best_;
};

struct SaveTrainingStateOptions {
  std::filesystem::path save_dir = "checkpoints";
  std::int64_t save_every_n_epochs = 0;  ///< 0: not by epochs
  std::int64_t save_every_n_steps = 0;   ///< 0: not by optimizer steps
  bool save_at_end = true;
  std::optional<std::int64_t> max_checkpoints = {};  ///< the newest of this run are kept
};

/// Writes the whole state of a run every so often, to resume from: `step_<step>.safetensors`.
class SaveTrainingState final : public Callback {
 public:
  /// Throws ConfigError for negative numbers, or fewer than one checkpoint.
  explicit SaveTrainingState(SaveTrainingStateOptions options = {});

  void on_train_start(Trainer& trainer, TrainingModule& module) override;
  void on_train_batch_end(Trainer& trainer, TrainingModule& module, const Tensor& loss, const Batch& batch,
                          StepContext& step) override;
  void on_train_epoch_end(Trainer& trainer, TrainingModule& module) override;
  void on_train_end(Trainer& trainer, TrainingModule& module) override;
  bool monitors() const override { return true; }
  bool rank_zero_only() const override { return true; }

 private:
  void save(Trainer& trainer);

  SaveTrainingStateOptions options_;
  std::deque<std::filesystem::path> kept_;
  std::int64_t last_step_ = 0;
};

struct WSDCheckpointOptions {
  std::filesystem::path save_dir = "checkpoints";
  optim::WSDOptions schedule = {};  ///< that of the run's optim::wsd_lr over its total_steps
};

/// Around each decay of a warm-up, stable, decay schedule: the whole state before, to go on from with more steps, as
/// `before_decay_<step>.safetensors`, and the model after, as `after_decay_<step>.safetensors`.
class WSDCheckpoint final : public Callback {
 public:
  explicit WSDCheckpoint(WSDCheckpointOptions options = {}) : options_(std::move(options)) {}

  /// Throws ConfigError where the run's length is not known.
  void on_train_start(Trainer& trainer, TrainingModule& module) override;
  void on_train_batch_end(Trainer& trainer, TrainingModule& module, const Tensor& loss, const Batch& batch,
                          StepContext& step) override;
  bool rank_zero_only() const override { return true; }

 private:
  WSDCheckpointOptions options_;
  std::vector<optim::DecayPhase> decays_;
  std::int64_t last_step_ = 0;
};

}  // namespace v0
}  // namespace anneal
