// Ranks as processes: the test's program starts itself again once for each, to run one registered function there.
#pragma once

#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "anneal/dist/environment.h"
#include "anneal/dist/store.h"

namespace anneal::testing {

/// Times of tests grow by this factor, the variable ANNEAL_TEST_TIMESCALE: sanitizers are slow.
double time_scale();
inline std::chrono::milliseconds scaled(std::chrono::milliseconds time) {
  return std::chrono::milliseconds(static_cast<std::int64_t>(static_cast<double>(time.count()) * time_scale()));
}

/// The failure time-out of ranks that spawn_ranks starts.
inline std::chrono::milliseconds test_failure_timeout() { return scaled(std::chrono::seconds(1)); }

/// What a rank does; returns its exit code. An exception that leaves it goes to stderr, and the code is 1.
using RankBody = int (*)(const dist::RankEnvironment&, dist::Store&);

/// One that joins the others by itself (World::join), as a Trainer does; with the default failure time-out.
using WorldBody = int (*)();

/// Registers one: `const RankFunction kill_me("kill_me", [](const RankEnvironment&, Store&) { ... });` at the top of a
/// test's source.
class RankFunction {
 public:
  RankFunction(const std::string& name, RankBody body);
  RankFunction(const std::string& name, WorldBody body);
};

struct RankResult {
  int exit_code = -1;  ///< 128 + the signal that ended it
  std::string err;     ///< what it wrote on stderr
};

struct RankResults {
  std::vector<RankResult> ranks;
  std::chrono::milliseconds took{};
  bool timed_out = false;  ///< some rank had to be killed when the deadline had come

  /// The exit codes, for one comparison.
  std::vector<int> codes() const;
};

/// Runs the function in n processes, with torchrun's variables and `variables` in their environment (LOCAL_WORLD_SIZE
/// among them: as on several machines). The store's server
/// lives here, in the process of the test. Returns when all have ended; kills them after the deadline, or when those
/// that are left are stopped.
RankResults spawn_ranks(int n, const std::string& function, const std::map<std::string, std::string>& variables = {},
                        std::chrono::milliseconds deadline = std::chrono::seconds(20));

/// The exit code of the rank's function if this process is such a rank: for main.
std::optional<int> run_as_rank();

}  // namespace anneal::testing
