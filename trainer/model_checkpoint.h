// Writes checkpoints during training and keeps the best.
#pragma once

#include <chrono>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "anneal/trainer/callback.h"
#include "anneal/trainer/duration.h"

namespace anneal {
inline namespace v0 {

class CheckpointWriter;

/// `true`, `false`, or "link".
class SaveLast {
 public:
  SaveLast(bool on) : on_(on) {}
  /// Throws ConfigError for another text than "link".
  SaveLast(const char* text);

  explicit operator bool() const { return on_; }
  bool links() const { return links_; }

 private:
  bool on_, links_ = false;
};

/// A save is due every so many epochs (the default: each), or every so many steps, or after a length of time.
struct ModelCheckpointOptions {
  std::filesystem::path dirpath = {};       ///< default: `checkpoints` in the Trainer's log_dir
  std::string filename = "{epoch}-{step}";  ///< {key} or {key:.2f} becomes key=value
  std::string extension = ".safetensors";   ///< is added to names
  std::string monitor = {};                 ///< the metric that decides. None: the newest are kept
  std::string mode = "min";                 ///< or "max"
  std::int64_t save_top_k = 1;              ///< how many are kept; -1: all. Without monitor: -1, 0 or 1
  /// `last` holds the current state whenever a save is due, and at the end of each epoch and of training. "link": it is
  /// a symbolic link where that state was just written under another name.
  SaveLast save_last = false;
  std::optional<std::int64_t> every_n_epochs = {};   ///< 0: only `last` at the end
  std::int64_t every_n_train_steps = 0;              ///< optimizer steps; 0: not by steps
  std::optional<Duration> train_time_interval = {};  ///< since the last save
  bool auto_insert_metric_name = true;               ///< false: {key} becomes the value alone
  /// A name that is taken gets -v1, -v2, ...; false: it is overwritten, unless it is another ModelCheckpoint's.
  bool enable_version_counter = true;
  /// Of saves by epochs. Unset: at the epoch's end if validation runs once an epoch or not at all, else after checks.
  std::optional<bool> save_on_train_epoch_end = {};
  bool save_on_exception = false;  ///< also when an exception ends training, beside those that are kept
  /// Training goes on while a copy of the state is written; the next save, and the end of fit, wait for that.
  bool async_save = false;
  bool save_weights_only = false;  ///< files to load weights from, and not to resume a run
  bool verbose = false;            ///< a line of text for each save, or why there was none
};

/// A save by steps or time whose batch is followed by a check comes after that, when its metrics are there.
class ModelCheckpoint final : public Callback {
 public:
  /// Throws ConfigError for options that are not permitted.
  explicit ModelCheckpoint(ModelCheckpointOptions options = {});

  /// With no monitor: the newest. Empty when there is none, or none with a finite score.
  const std::filesystem::path& best_model_path() const { return best_path_; }
  double best_model_score() const { return best_score_; }
  /// The metric when a save was last due.
  double current_score() const { return current_score_; }
  const std::filesystem::path& last_model_path() const { return last_path_; }
  struct Kept {
    std::filesystem::path path;
    double score;
  };
  const std::vector<Kept>& best_k_models() const { return kept_; }
  /// The one that a better one would replace; empty when there is none.
  std::filesystem::path kth_best_model_path() const;

  /// Those that hold the last state of a run whose log_dir is `run`.
  std::vector<std::filesystem::path> last_files(const std::filesystem::path& run) const;
  /// All that this run has written and kept.
  std::vector<std::filesystem::path> files() const;

  void setup(Trainer& trainer, TrainingModule& module, Stage stage) override;
  void on_train_start(Trainer& trainer, TrainingModule& module) override;
  void on_train_batch_end(Trainer& trainer, TrainingModule& module, const Tensor& loss, const Batch& batch,
                          StepContext& step) override;
  void on_train_epoch_end(Trainer& trainer, TrainingModule& module) override;
  void on_validation_end(Trainer& trainer, TrainingModule& module) override;
  void on_train_end(Trainer& trainer, TrainingModule& module) override;
  void on_signal(Trainer& trainer, TrainingModule& module, int signal) override;
  void on_exception(Trainer& trainer, TrainingModule& module, const std::exception_ptr& error) override;
  void on_load_checkpoint(Trainer& trainer, TrainingModule& module, Checkpoint& checkpoint) override;
  bool monitors() const override { return true; }
  bool rank_zero_only() const override { return true; }
  std::string state_key() const override;
  StateMap state() const override;
  void load_state(const StateMap& state) override;

 private:
  using Clock = std::chrono::steady_clock;
  // What a save did to the files.
  struct Change {
    std::filesystem::path written, dropped;
  };
  std::filesystem::path folder_of(const std::filesystem::path& run) const;
  bool saves_at_epoch_end(const Trainer& trainer) const;
  bool may_save(const Trainer& trainer) const;
  bool better(double a, double b) const;
  void save_epoch(Trainer& trainer);
  void save(Trainer& trainer);
  void save_beside_best(Trainer& trainer);
  Change save_top_k(Trainer& trainer);
  void save_last_alone(Trainer& trainer);
  void save_last(Trainer& trainer, const std::filesystem::path& written = {});
  bool write(Trainer& trainer, const std::filesystem::path& path);
  static void tell_loggers(const Trainer& trainer, const std::filesystem::path& written);
  void finish_writing(Trainer& trainer);
  void tell(Trainer& trainer, const std::filesystem::path& written) const;
  void keep(Kept added, std::optional<std::size_t> replaced);
  std::size_t worst() const;
  std::filesystem::path path_of(const std::string& name, int version = 0) const;
  std::filesystem::path new_path(const Trainer& trainer, const std::filesystem::path& replaced) const;
  bool holds(const std::filesystem::path& path) const;
  bool is_anothers(const Trainer& trainer, const std::filesystem::path& path) const;
  bool is_taken(const Trainer& trainer, const std::filesystem::path& path) const;
  void remove(const Trainer& trainer, const std::filesystem::path& path);
  // What a save that fails leaves as it was.
  auto record() { return std::tie(kept_, best_path_, best_score_, saved_step_); }

  ModelCheckpointOptions options_;
  std::int64_t every_n_epochs_;  // 0: not by epochs
  std::filesystem::path folder_;
  std::vector<Kept> kept_;  // in the order of saving
  std::filesystem::path best_path_, last_path_;
  double best_score_, current_score_;
  std::int64_t saved_step_ = 0;
  std::int64_t last_step_ = 0;  // as of the batch before
  Clock::time_point saved_at_;
  bool waits_ = false;      // a save is due after the check that follows
  bool continues_ = false;  // resumed in the folder of the interrupted run
  bool training_ = false;
  std::string warning_;  // of what was restored
  std::shared_ptr<CheckpointWriter> writer_;
  std::vector<std::filesystem::path> written_;  // by the writer's thread, if all goes well
  std::tuple<std::vector<Kept>, std::filesystem::path, double, std::int64_t> before_;
};

}  // namespace v0
}  // namespace anneal
