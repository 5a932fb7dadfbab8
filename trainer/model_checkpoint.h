// Writes checkpoints during training and keeps the best.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "anneal/trainer/callback.h"

namespace anneal {
inline namespace v0 {

struct ModelCheckpointOptions {
  std::filesystem::path dirpath = {};       ///< default: `checkpoints` in the Trainer's log_dir
  std::string filename = "{epoch}-{step}";  ///< {key} or {key:.2f} becomes key=value; ".safetensors" is added
  std::string monitor = {};                 ///< the metric that decides. None: the newest are kept
  std::string mode = "min";                 ///< or "max"
  std::int64_t save_top_k = 1;              ///< how many are kept; -1: all. Without monitor: -1, 0 or 1
  bool save_last = false;                   ///< `last` holds the current state whenever a save is due, and at the end
  std::int64_t every_n_epochs = 1;          ///< 0: only `last` at the end
  bool auto_insert_metric_name = true;      ///< false: {key} becomes the value alone
  bool enable_version_counter = true;       ///< a name that is taken gets -v1, -v2, ...; false: it is overwritten
  /// Unset: at the epoch's end if validation runs once an epoch or not at all, else after each check.
  std::optional<bool> save_on_train_epoch_end = {};
};

class ModelCheckpoint final : public Callback {
 public:
  /// Throws ConfigError for options that are not permitted.
  explicit ModelCheckpoint(ModelCheckpointOptions options = {});

  /// With no monitor: the newest. Empty when there is none, or none with a finite score.
  const std::filesystem::path& best_model_path() const { return best_path_; }
  double best_model_score() const { return best_score_; }
  const std::filesystem::path& last_model_path() const { return last_path_; }
  struct Kept {
    std::filesystem::path path;
    double score;
  };
  const std::vector<Kept>& best_k_models() const { return kept_; }

  /// Files that `resume` may mean.
  std::vector<std::filesystem::path> last_files(const Trainer& trainer) const;
  std::vector<std::filesystem::path> best_files() const;

  void setup(Trainer& trainer, TrainingModule& module, Stage stage) override;
  void on_train_epoch_end(Trainer& trainer, TrainingModule& module) override;
  void on_validation_end(Trainer& trainer, TrainingModule& module) override;
  void on_train_end(Trainer& trainer, TrainingModule& module) override;
  bool monitors() const override { return true; }
  bool rank_zero_only() const override { return true; }
  std::string state_key() const override;
  StateMap state() const override;
  void load_state(const StateMap& state) override;

 private:
  std::filesystem::path folder(const Trainer& trainer) const;
  bool saves_at_epoch_end(const Trainer& trainer) const;
  bool may_save(const Trainer& trainer) const;
  bool better(double a, double b) const;
  void save(Trainer& trainer);
  void save_top_k(Trainer& trainer);
  void save_last(Trainer& trainer);
  void keep(Kept added, std::optional<std::size_t> replaced);
  std::filesystem::path new_path(const Trainer& trainer, const std::filesystem::path& replaced) const;
  bool is_taken(const Trainer& trainer, const std::filesystem::path& path) const;
  std::string expand_name(const Trainer& trainer) const;
  void remove(const Trainer& trainer, const std::filesystem::path& path) const;

  ModelCheckpointOptions options_;
  std::filesystem::path folder_;
  std::vector<Kept> kept_;  // in the order of saving
  std::filesystem::path best_path_, last_path_;
  double best_score_;
  std::int64_t saved_step_ = 0;
  bool continues_ = false;  // resumed in the folder of the interrupted run
};

}  // namespace v0
}  // namespace anneal
