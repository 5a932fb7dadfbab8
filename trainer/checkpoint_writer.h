// The files of a ModelCheckpoint: written at once, or while training goes on.
#pragma once

#include <filesystem>
#include <functional>
#include <future>
#include <vector>

#include "anneal/trainer/trainer.h"

namespace anneal {
inline namespace v0 {

/// Does what it is asked for at once, or, if `async`, keeps it for a thread that `begin` starts.
class CheckpointWriter {
 public:
  explicit CheckpointWriter(bool async) : async_(async) {}
  ~CheckpointWriter() { wait(); }
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  bool is_async() const { return async_; }
  /// Trainer::save_checkpoint of the state as it is now.
  void save(Trainer& trainer, const std::filesystem::path& path, const SaveOptions& options);
  /// Makes `link` a symbolic link to a file beside it, or a copy where the file system has no links.
  void link(const std::filesystem::path& link, const std::filesystem::path& file);
  void perform(std::function<void()> task);

  void begin();
  /// Returns when all is done. Throws what went wrong, after which nothing more was done.
  void finish();
  void wait() const;

 private:
  bool async_;
  std::vector<std::function<void()>> tasks_;  // whose tensors the thread that made them frees
  std::future<void> running_;
};

}  // namespace v0
}  // namespace anneal
