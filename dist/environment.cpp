#include "anneal/dist/environment.h"

#include <charconv>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "anneal/core/error.h"
#include "anneal/dist/slurm.h"

namespace anneal {
inline namespace v0 {
namespace dist {
namespace {

constexpr std::int64_t kMaxRanks = 1 << 20;
// Ports that are derived: below those that systems give to outgoing connections.
constexpr unsigned kFirstPort = 12000, kPorts = 20000;

/// One launcher's variables.
class Variables {
 public:
  Variables(const Lookup& get, std::string launcher) : get_(get), launcher_(std::move(launcher)) {}

  bool has(const char* name) const { return get_(name) != nullptr; }
  std::string optional(const char* name, const std::string& otherwise = {}) const {
    const char* const value = get_(name);
    return value ? value : otherwise;
  }
  std::string text(const char* name) const {
    const std::string value = optional(name);
    check<ConfigError>(!value.empty(), "{} is not set, and {} need it", name, launcher_);
    return value;
  }
  std::int64_t number(const char* name, std::int64_t low, std::int64_t high) const {
    const std::string value = text(name);
    std::int64_t parsed = 0;
    const char* const end = value.data() + value.size();
    const auto [stop, error] = std::from_chars(value.data(), end, parsed);
    check<ConfigError>(error == std::errc() && stop == end, "{}={}: expected a number", name, value);
    check<ConfigError>(parsed >= low && parsed <= high, "{}={}: expected {} to {}", name, value, low, high);
    return parsed;
  }
  /// A number below another one.
  int index(const char* name, std::int64_t count) const { return static_cast<int>(number(name, 0, count - 1)); }
  int count(const char* name, std::int64_t most = kMaxRanks) const { return static_cast<int>(number(name, 1, most)); }
  std::uint16_t port(const char* name) const { return static_cast<std::uint16_t>(number(name, 1, 65535)); }
  bool many(const char* name) const { return has(name) && number(name, 0, kMaxRanks) > 1; }

 private:
  const Lookup& get_;
  std::string launcher_;
};

/// The same on all ranks and machines.
std::uint16_t port_of_job(std::string_view name) {
  std::uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return static_cast<std::uint16_t>(kFirstPort + hash % kPorts);
}

RankEnvironment from_torchrun(const Variables& variables) {
  RankEnvironment env;
  env.world_size = variables.count("WORLD_SIZE");
  env.rank = variables.index("RANK", env.world_size);
  env.local_world_size = variables.count("LOCAL_WORLD_SIZE", env.world_size);
  env.local_rank = variables.index("LOCAL_RANK", env.local_world_size);
  env.master_addr = variables.text("MASTER_ADDR");
  env.master_port = variables.port("MASTER_PORT");
  // torchrun listens there itself, for a store that it offers to its ranks.
  if (variables.has("ANNEAL_MASTER_PORT")) env.master_port = variables.port("ANNEAL_MASTER_PORT");
  else if (variables.optional("TORCHELASTIC_USE_AGENT_STORE") == "True")
    env.master_port = port_of_job(variables.text("MASTER_PORT") + ' ' + variables.optional("TORCHELASTIC_RUN_ID"));
  return env;
}

RankEnvironment from_open_mpi(const Variables& variables) {
  RankEnvironment env;
  env.world_size = variables.count("OMPI_COMM_WORLD_SIZE");
  env.rank = variables.index("OMPI_COMM_WORLD_RANK", env.world_size);
  env.local_world_size = variables.count("OMPI_COMM_WORLD_LOCAL_SIZE", env.world_size);
  env.local_rank = variables.index("OMPI_COMM_WORLD_LOCAL_RANK", env.local_world_size);
  const bool one_machine = env.local_world_size == env.world_size;
  env.master_addr =
      one_machine ? variables.optional("ANNEAL_MASTER_ADDR", "127.0.0.1") : variables.text("ANNEAL_MASTER_ADDR");
  if (variables.has("ANNEAL_MASTER_PORT")) env.master_port = variables.port("ANNEAL_MASTER_PORT");
  else env.master_port = port_of_job(variables.text("PMIX_NAMESPACE"));
  return env;
}

RankEnvironment from_slurm(const Variables& variables) {
  RankEnvironment env;
  env.world_size = variables.count("SLURM_NTASKS");
  env.rank = variables.index("SLURM_PROCID", env.world_size);
  const std::string tasks = variables.text("SLURM_STEP_TASKS_PER_NODE");
  const std::int64_t local = tasks_on_node(tasks, variables.index("SLURM_NODEID", kMaxRanks));
  check<ConfigError>(local >= 1 && local <= env.world_size, "SLURM_STEP_TASKS_PER_NODE={}: expected 1 to {} tasks",
                     tasks, env.world_size);
  env.local_world_size = static_cast<int>(local);
  env.local_rank = variables.index("SLURM_LOCALID", local);
  env.master_addr = variables.has("ANNEAL_MASTER_ADDR") ? variables.text("ANNEAL_MASTER_ADDR")
                                                        : first_host(variables.text("SLURM_STEP_NODELIST"));
  // Two steps of a job may run at the same time.
  constexpr std::int64_t kMost = 0xffffffff, kSteps = 100;
  if (variables.has("ANNEAL_MASTER_PORT")) env.master_port = variables.port("ANNEAL_MASTER_PORT");
  else
    env.master_port = static_cast<std::uint16_t>(kFirstPort + variables.number("SLURM_JOB_ID", 0, kMost) % kPorts +
                                                 variables.number("SLURM_STEP_ID", 0, kMost) * 7 % kSteps);
  return env;
}

std::optional<RankEnvironment> find(const Lookup& get) {
  // RANK alone, or WORLD_SIZE alone, is a mistake rather than another launcher.
  const Variables torchrun(get, "torchrun's variables (RANK, WORLD_SIZE and others)");
  if (torchrun.has("RANK") || torchrun.has("WORLD_SIZE")) return from_torchrun(torchrun);
  // Before Slurm's: under mpirun within a Slurm job those are mpirun's own.
  const Variables open_mpi(get, "Open MPI's variables");
  if (open_mpi.many("OMPI_COMM_WORLD_SIZE")) return from_open_mpi(open_mpi);
  // A batch script has no step: its variables are those of the job, and it is no rank.
  const Variables slurm(get, "Slurm's variables");
  if (slurm.has("SLURM_STEP_ID") && slurm.many("SLURM_NTASKS")) return from_slurm(slurm);
  return {};
}

}  // namespace

std::optional<RankEnvironment> rank_environment(const Lookup& get) {
  try {
    std::optional<RankEnvironment> env = find(get);
    if (env) env->token = Variables(get, {}).optional("ANNEAL_TOKEN");
    return env;
  } catch (const ConfigError&) { throw; } catch (const Error& error) {
    throw ConfigError(error.what());
  }
}
std::optional<RankEnvironment> rank_environment() {
  return rank_environment([](const char* name) { return std::getenv(name); });
}

}  // namespace dist
}  // namespace v0
}  // namespace anneal
