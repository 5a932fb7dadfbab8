// The Slurm job that a run is part of: being preempted, and going on when the job runs again. Not for users.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "anneal/trainer/options.h"

namespace anneal {
inline namespace v0 {

struct SlurmJob {
  std::string id;                    ///< as scontrol has it: `<array>_<task>` for a task of an array
  int signal = 0;                    ///< comes before the job is ended
  std::filesystem::path checkpoint;  ///< where the job goes on; the same name each time that it runs

  /// That of this process's environment, unless `requeue` is false, nothing is to be written, or it is a shell's.
  static std::optional<SlurmJob> of(const TrainerOptions& options);

  /// Has Slurm run the job again. Throws Error if scontrol does not.
  void requeue() const;
};

/// By its name, whether a job's run goes on from it.
bool is_preempt_file(const std::filesystem::path& path);

/// The number of a signal that TrainerOptions::requeue_signal may name. Throws ConfigError for another one.
int requeue_signal_named(const std::string& name);

}  // namespace v0
}  // namespace anneal
