#include "anneal/trainer/slurm_job.h"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "anneal/core/error.h"

namespace anneal {
inline namespace v0 {
namespace {

const std::string prefix = "preempt-", extension = ".safetensors";

std::string variable(const char* name) {
  const char* const value = std::getenv(name);
  return value ? value : "";
}

}  // namespace

bool is_preempt_file(const std::filesystem::path& path) {
  return path.extension() == extension && path.filename().string().starts_with(prefix);
}

int requeue_signal_named(const std::string& name) {
  constexpr std::array<std::pair<const char*, int>, 4> known{
      {{"SIGUSR1", SIGUSR1}, {"SIGUSR2", SIGUSR2}, {"SIGHUP", SIGHUP}, {"SIGTERM", SIGTERM}}};
  for (const auto& [other, number] : known)
    if (name == other) return number;
  throw ConfigError("requeue_signal: expected SIGUSR1, SIGUSR2, SIGHUP or SIGTERM, got \"" + name + "\"");
}

std::optional<SlurmJob> SlurmJob::of(const TrainerOptions& options) {
  const std::string job = variable("SLURM_JOB_ID"), array = variable("SLURM_ARRAY_JOB_ID");
  const std::string name = variable("SLURM_JOB_NAME");
  const bool shell = name == "bash" || name == "interactive";
  if (job.empty() || shell || !options.requeue || options.fast_dev_run > 0 || options.barebones) return std::nullopt;
  const std::string id = array.empty() ? job : array + "_" + variable("SLURM_ARRAY_TASK_ID");
  return SlurmJob{.id = id,
                  .signal = requeue_signal_named(options.requeue_signal),
                  .checkpoint = options.default_root_dir / (prefix + id + extension)};
}

void SlurmJob::requeue() const {
  std::string words[] = {"scontrol", "requeue", id};
  char* const arguments[] = {words[0].data(), words[1].data(), words[2].data(), nullptr};
  pid_t child = 0;
  const int error = posix_spawnp(&child, arguments[0], nullptr, nullptr, arguments, environ);
  check(error == 0, "requeue: scontrol cannot be run: {}", std::strerror(error));
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "requeue: `scontrol requeue {}` failed{}", id,
        WIFEXITED(status) ? " with code " + std::to_string(WEXITSTATUS(status)) : std::string());
}

}  // namespace v0
}  // namespace anneal
