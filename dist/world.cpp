#include "anneal/dist/world.h"

#include <algorithm>
#include <cstdlib>
#include <mutex>

#include "anneal/core/device.h"
#include "anneal/core/gpu.h"
#include "anneal/dist/environment.h"
#include "anneal/dist/gloo_group.h"
#include "anneal/dist/nccl_group.h"
#include "anneal/kernels/parallel.h"

namespace anneal {
inline namespace v0 {
namespace dist {
namespace {

std::shared_ptr<ProcessGroup> make_group(const std::shared_ptr<Store>& store, bool gpu, int device) {
  if (!gpu) return gloo_group(store);
  NcclOptions options{.device = device};
  if constexpr (has_gpu)
    options.compute_stream = [device] {
      return stream_of({DeviceKind::cuda, static_cast<std::int8_t>(device)}).handle;
    };
  return nccl_group(store, options);
}

}  // namespace

std::shared_ptr<World> World::join(const WorldOptions& options) {
  static std::mutex mutex;
  static std::shared_ptr<World> world;
  const std::lock_guard lock(mutex);
  if (world) {
    check<ConfigError>((options.local_ranks == 0 || options.local_ranks == world->options_.local_ranks) &&
                           options.gpu == world->options_.gpu &&
                           (options.local_ranks == 0 || options.devices == world->options_.devices),
                       "devices: this process is one of {} ranks on {} already; got {} on {}",
                       world->options_.local_ranks, world->options_.gpu ? "GPUs" : "CPUs", options.local_ranks,
                       options.gpu ? "GPUs" : "CPUs");
    return world;
  }
  const std::optional<RankEnvironment>& environment = options.environment;
  if (!environment && options.local_ranks <= 1) return nullptr;
  check<ConfigError>(!environment || options.local_ranks == 0 || options.local_ranks == environment->local_world_size,
                     "devices: the launcher started {} ranks on this machine, got {}",
                     environment ? environment->local_world_size : 0, options.local_ranks);
  world.reset(new World(options, environment ? &*environment : nullptr));
  return world;
}

World::World(const WorldOptions& options, const RankEnvironment* environment) : options_(options) {
  StoreOptions store{.failure_timeout = options.failure_timeout};
  if (environment) {
    options_.local_ranks = environment->local_world_size;
    local_rank_ = environment->local_rank;
    store.host = environment->master_addr;
    store.port = environment->master_port;
    store.rank = environment->rank;
    store.world_size = environment->world_size;
    store.token = environment->token;
    const bool launched = std::getenv("ANNEAL_LAUNCHED") != nullptr;  // by rank 0, which has the server
    if (environment->rank == 0 && !launched)
      server_ = std::make_unique<StoreServer>(
          StoreServerOptions{store.host, store.port, store.world_size, store.token, options.failure_timeout});
  } else {
    store.world_size = options.local_ranks;
    store.token = random_token();
    server_ = std::make_unique<StoreServer>(StoreServerOptions{
        .world_size = store.world_size, .token = store.token, .failure_timeout = options.failure_timeout});
    store.port = server_->port();
    others_ = std::make_unique<LocalRanks>(options.local_ranks, store.port, store.token);
    // As LocalRanks tells the others.
    if (!std::getenv("OMP_NUM_THREADS")) set_num_threads(std::max(1, num_threads() / options.local_ranks));
  }
  store_ = std::make_shared<Store>(store);
  const auto local_rank = static_cast<std::size_t>(local_rank_);
  group_ = make_group(store_, options.gpu, options.devices.empty() ? local_rank_ : options.devices.at(local_rank));
}

World::~World() {
  const bool failed = store_->failure().has_value();
  group_.reset();
  store_.reset();
  if (others_ && !failed) others_->wait();
}

}  // namespace dist
}  // namespace v0
}  // namespace anneal
