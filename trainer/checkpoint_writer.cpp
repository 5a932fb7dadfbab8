#include "anneal/trainer/checkpoint_writer.h"

#include <system_error>
#include <utility>

namespace anneal {
inline namespace v0 {
namespace {

namespace fs = std::filesystem;

// In one step: who looks finds the old one or the new one.
void point_to(const fs::path& link, const fs::path& file) {
  const fs::path made = link.parent_path() / ("." + link.filename().string() + ".link");
  std::error_code failed;
  fs::remove(made, failed);
  fs::create_symlink(file.filename(), made, failed);
  if (failed) fs::copy_file(file, made);
  fs::rename(made, link);
}

}  // namespace

void CheckpointWriter::perform(std::function<void()> task) {
  if (async_) tasks_.push_back(std::move(task));
  else task();
}

void CheckpointWriter::save(Trainer& trainer, const fs::path& path, const SaveOptions& options) {
  if (async_) tasks_.push_back(trainer.save_checkpoint_later(path, options));
  else trainer.save_checkpoint(path, options);
}

void CheckpointWriter::link(const fs::path& link, const fs::path& file) {
  perform([link, file] { point_to(link, file); });
}

void CheckpointWriter::begin() {
  if (tasks_.empty()) return;
  running_ = std::async(std::launch::async, [this] {
    for (const auto& task : tasks_) task();
  });
}

void CheckpointWriter::finish() {
  wait();
  tasks_.clear();
  if (running_.valid()) running_.get();
}

void CheckpointWriter::wait() const {
  if (running_.valid()) running_.wait();
}

}  // namespace v0
}  // namespace anneal
