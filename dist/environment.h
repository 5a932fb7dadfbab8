// Which rank this process is, from what a launcher has left in its environment.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace anneal {
inline namespace v0 {
namespace dist {

struct RankEnvironment {
  int rank = 0;
  int world_size = 1;
  int local_rank = 0;  ///< among those on this machine: the device to use
  int local_world_size = 1;
  std::string master_addr;  ///< where rank 0 runs the store's server
  std::uint16_t master_port = 0;
  std::string token;  ///< the store's, from ANNEAL_TOKEN; may be empty
};

/// Looks up a variable: null if it is not set.
using Lookup = std::function<const char*(const char* name)>;

/// The first of these that is there; none: this process is alone.
///
/// - torchrun's: RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT, all of them;
/// - Open MPI's: OMPI_COMM_WORLD_SIZE > 1;
/// - Slurm's, within `srun`: SLURM_STEP_ID and SLURM_NTASKS > 1.
///
/// The last two leave address and port of rank 0 to ANNEAL_MASTER_ADDR and ANNEAL_MASTER_PORT. Without them the port is
/// derived from the job's name, and the address is the first host of Slurm's job; of an Open MPI job on one machine
/// 127.0.0.1. Where torchrun itself listens at MASTER_PORT (TORCHELASTIC_USE_AGENT_STORE=True), the port is that of
/// ANNEAL_MASTER_PORT or derived as well. Throws ConfigError when something is missing, no number, or out of range, and
/// says what.
std::optional<RankEnvironment> rank_environment(const Lookup& get);
/// From this process's environment.
std::optional<RankEnvironment> rank_environment();

}  // namespace dist
}  // namespace v0
}  // namespace anneal
