#include "anneal/trainer/plugin.h"

#include <system_error>

#include "anneal/trainer/checkpoint.h"

namespace anneal {
inline namespace v0 {

void CheckpointIO::save(const std::filesystem::path& path, const Checkpoint& checkpoint) {
  save_checkpoint(path, checkpoint);
}

Checkpoint CheckpointIO::load(const std::filesystem::path& path) { return load_checkpoint(path); }

void CheckpointIO::remove(const std::filesystem::path& path) {
  std::error_code missing;
  std::filesystem::remove(path, missing);
}

}  // namespace v0
}  // namespace anneal
