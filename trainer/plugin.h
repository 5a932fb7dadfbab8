// Parts of a Trainer that can be exchanged: TrainerOptions::plugins.
#pragma once

#include <filesystem>
#include <optional>

#include "anneal/dist/environment.h"
#include "anneal/kernels/dtype.h"

namespace anneal {
inline namespace v0 {

struct Checkpoint;

/// Base of plugins; a Trainer takes one of each kind.
class Plugin {
 public:
  virtual ~Plugin() = default;
};

/// A precision of one's own, instead of the option.
class PrecisionPlugin : public Plugin {
 public:
  /// What floating tensors of the module and of batches are converted to; none: they stay.
  virtual std::optional<DType> parameters() const { return {}; }
  /// What ops are cast to (autocast.h); none: they are not.
  virtual std::optional<DType> autocast() const { return {}; }
  /// Whether the loss is scaled, for gradients in f16.
  virtual bool scaled() const { return false; }
};

/// How checkpoints get to their paths and back; as it stands, save_checkpoint and load_checkpoint. Rank 0 saves and
/// removes, all ranks load.
class CheckpointIO : public Plugin {
 public:
  virtual void save(const std::filesystem::path& path, const Checkpoint& checkpoint);
  virtual Checkpoint load(const std::filesystem::path& path);
  /// A path that is not there is no error.
  virtual void remove(const std::filesystem::path& path);
};

/// For launchers that rank_environment does not know.
class ClusterEnvironment : public Plugin {
 public:
  /// None: this process is alone.
  virtual std::optional<dist::RankEnvironment> ranks() const = 0;
};

}  // namespace v0
}  // namespace anneal
