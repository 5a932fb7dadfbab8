// Keeps the state of a run that fails.
#pragma once

#include <filesystem>
#include <string>

#include "anneal/trainer/callback.h"

namespace anneal {
inline namespace v0 {

struct OnExceptionCheckpointOptions {
  std::filesystem::path dirpath = {};     ///< default: `checkpoints` in the Trainer's log_dir
  std::string filename = "on_exception";  ///< ".safetensors" is added
};

/// When an exception ends training it writes the whole state, for `resume`; the batch that failed is then
/// done again. The file is removed when a later fit with the same path ends well.
class OnExceptionCheckpoint final : public Callback {
 public:
  /// Throws ConfigError for options that are not permitted.
  explicit OnExceptionCheckpoint(OnExceptionCheckpointOptions options = {});

  /// Empty before the first fit.
  const std::filesystem::path& path() const { return path_; }
  /// Where it is of a run whose log_dir is `run`.
  std::filesystem::path path_in(const std::filesystem::path& run) const;

  void setup(Trainer& trainer, TrainingModule& module, Stage stage) override;
  void on_train_start(Trainer& trainer, TrainingModule& module) override;
  void on_exception(Trainer& trainer, TrainingModule& module, const std::exception_ptr& error) override;
  void teardown(Trainer& trainer, TrainingModule& module, Stage stage) override;
  bool rank_zero_only() const override { return true; }

 private:
  OnExceptionCheckpointOptions options_;
  std::filesystem::path path_;
  bool training_ = false;  // there is a state to keep
  bool failed_ = false;
};

}  // namespace v0
}  // namespace anneal
