#include "anneal/trainer/on_exception_checkpoint.h"

#include <system_error>
#include <utility>

#include "anneal/trainer/trainer.h"

namespace anneal {
inline namespace v0 {

// NOLINTNEXTLINE(bugprone-throw-keyword-missing): it has "Exception" in its name, and is none
OnExceptionCheckpoint::OnExceptionCheckpoint(OnExceptionCheckpointOptions options) : options_(std::move(options)) {
  check<ConfigError>(!options_.filename.empty(), "filename: expected a name, got none");
}

void OnExceptionCheckpoint::setup(Trainer& trainer, TrainingModule&, Stage stage) {
  if (stage == Stage::fit) path_ = path_in(trainer.log_dir());
}

std::filesystem::path OnExceptionCheckpoint::path_in(const std::filesystem::path& run) const {
  return (options_.dirpath.empty() ? run / "checkpoints" : options_.dirpath) / (options_.filename + ".safetensors");
}

// What fails before is not yet the run: an earlier file, perhaps the one to resume from, must not make way for that.
void OnExceptionCheckpoint::on_train_start(Trainer& trainer, TrainingModule&) {
  training_ = trainer.options().fast_dev_run == 0;
}

void OnExceptionCheckpoint::on_exception(Trainer& trainer, TrainingModule&, const std::exception_ptr&) {
  failed_ = true;
  if (!training_) return;
  std::filesystem::create_directories(path_.parent_path());
  trainer.save_checkpoint(path_);
}

void OnExceptionCheckpoint::teardown(Trainer& trainer, TrainingModule&, Stage) {
  if (training_ && !failed_) trainer.checkpoint_io().remove(path_);
  training_ = failed_ = false;
}

}  // namespace v0
}  // namespace anneal
