// The ranks that this process trains with.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <vector>

#include "anneal/dist/environment.h"
#include "anneal/dist/launcher.h"
#include "anneal/dist/process_group.h"
#include "anneal/dist/store.h"
#include "anneal/dist/store_server.h"

namespace anneal {
inline namespace v0 {
namespace dist {

struct WorldOptions {
  int local_ranks = 1;            ///< ranks on this machine; 0: what the launcher says, else 1
  bool gpu = false;               ///< NCCL instead of Gloo
  std::vector<int> devices = {};  ///< the GPU of each local rank; empty: 0, 1, ...
  std::optional<RankEnvironment> environment = rank_environment();  ///< what a launcher says
  std::chrono::milliseconds failure_timeout = std::chrono::seconds(10);
};

/// This process's place among the ranks, its connection to the store and its group.
class World {
 public:
  /// The one of this process: the ranks of the launcher, or else, for more than one local rank, this process as rank 0
  /// and others that it starts (LocalRanks), the cores shared among them. Made by the first call and kept until the
  /// process ends; null when this process is alone. Throws ConfigError when a launcher started another number of ranks
  /// than `local_ranks`, or when a later call asks for another world than there is.
  static std::shared_ptr<World> join(const WorldOptions& options);
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  int rank() const { return store_->rank(); }
  int size() const { return store_->world_size(); }
  int local_rank() const { return local_rank_; }
  /// This machine's number, where all have equally many ranks.
  int node() const { return rank() / options_.local_ranks; }
  Store& store() { return *store_; }
  ProcessGroup& group() { return *group_; }

 private:
  World(const WorldOptions& options, const RankEnvironment* environment);

  WorldOptions options_;
  int local_rank_ = 0;
  std::unique_ptr<StoreServer> server_;
  std::unique_ptr<LocalRanks> others_;
  std::shared_ptr<Store> store_;
  std::shared_ptr<ProcessGroup> group_;
};

}  // namespace dist
}  // namespace v0
}  // namespace anneal
