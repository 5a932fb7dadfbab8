#include "anneal/trainer/trainer_state.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <random>
#include <string>

#include "anneal/core/ops.h"
#include "anneal/dist/environment.h"

namespace anneal {
inline namespace v0 {
namespace {

// For what another rank does meanwhile, such as writing a checkpoint: one that is dead is noticed long before.
constexpr std::chrono::hours patience{1};

std::uint64_t random_seed() {
  std::random_device device;
  return (std::uint64_t{device()} << 32) | device();
}

Precision precision_of(const TrainerOptions& o) {
  const std::shared_ptr<PrecisionPlugin> own = plugin_of<PrecisionPlugin>(o);
  return own ? Precision{own->parameters(), own->autocast(), own->scaled()} : Precision::parse(o.precision);
}

std::shared_ptr<CheckpointIO> checkpoint_io_of(const TrainerOptions& o) {
  const std::shared_ptr<CheckpointIO> own = plugin_of<CheckpointIO>(o);
  return own ? own : std::make_shared<CheckpointIO>();
}

// A launcher's ranks are those that were asked for.
void check_ranks(const TrainerOptions& o, const std::optional<dist::RankEnvironment>& launched) {
  const std::int64_t ranks = launched ? launched->world_size : std::max(o.devices.count(), 1);
  const std::int64_t here = !o.devices.is_auto() ? o.devices.count() : launched ? launched->local_world_size : 1;
  check<ConfigError>((o.devices.is_auto() && !o.num_nodes.given()) || ranks == here * o.num_nodes,
                     "num_nodes: {} machines with {} devices are {} ranks, but {} {}", o.num_nodes, here,
                     here * o.num_nodes, launched ? "the launcher started" : "without a launcher there are", ranks);
  check<ConfigError>(o.strategy.name() != "single_device" || ranks == 1,
                     "strategy: expected ddp for the launcher's {} ranks, got single_device", ranks);
}

std::shared_ptr<dist::World> join(const TrainerOptions& o) {
  const std::shared_ptr<ClusterEnvironment> own = plugin_of<ClusterEnvironment>(o);
  const std::optional<dist::RankEnvironment> launched = own ? own->ranks() : dist::rank_environment();
  check_ranks(o, launched);
  return dist::World::join({.local_ranks = o.devices.count(),
                            .gpu = o.accelerator == "cuda",
                            .devices = o.devices.indices(),
                            .environment = launched,
                            .failure_timeout = std::chrono::milliseconds(std::llround(o.failure_timeout * 1000))});
}

Device device_of(const TrainerOptions& o, const dist::World* world) {
  if (o.accelerator == "cpu") return {};
  return {DeviceKind::cuda, static_cast<std::int8_t>(o.devices.index(world ? world->local_rank() : 0))};
}

// Only rank 0 writes.
std::function<void(std::string_view)> sink_of(const TrainerOptions& o, const dist::World* world) {
  if (world && world->rank() > 0) return [](std::string_view) {};
  return o.sink;
}

}  // namespace

TrainerState::TrainerState(Trainer& of, TrainerOptions given)
    : trainer(of),
      options(resolve(std::move(given))),
      precision(precision_of(options)),
      checkpoint_io(checkpoint_io_of(options)),
      world(join(options)),
      device(device_of(options, world.get())),
      job(SlurmJob::of(options)),
      console(sink_of(options, world.get())),
      profiler(options.profiler.profiler()),
      seed(std::stoull(from_rank_zero("trainer/seed", std::to_string(options.seed ? *options.seed : random_seed())))),
      log([this](const std::string& text) { console.warn(text); }),
      generator(seed) {
  if (options.barebones) log.ignore();
  if (world) log.set_exchange(rank(), [this](const std::string& mine) { return from_all_ranks("trainer/log", mine); });
  check<ConfigError>(!world || !options.sync_batchnorm,
                     "sync_batchnorm: statistics of all ranks' batches are not in this build; expected false with {} "
                     "ranks, got true",
                     ranks());
}

std::vector<std::string> TrainerState::from_all_ranks(const std::string& name, const std::string& text) const {
  return world ? world->store().exchange(name, text, patience) : std::vector{text};
}

bool TrainerState::any_rank(bool here) const {
  if (!world) return here;
  const Tensor any = scalar(here ? 1 : 0, {.dtype = DType::f64, .device = world->group().device()});
  world->group().all_reduce(any, ReduceOp::max);
  return any.item() > 0;
}

void TrainerState::take_from_rank_zero(std::span<double> numbers) const {
  if (!world) return;
  const Tensor all = tensor(numbers, {std::ssize(numbers)}, {.dtype = DType::f64, .device = world->group().device()});
  world->group().broadcast(all);
  std::ranges::copy(all.to_vector(), numbers.begin());
}

std::array<double, 4> TrainerState::end_requests() const {
  const int noted = signals ? signals->received() : 0;
  const bool again = job && noted == job->signal;
  return {stop_requested ? 1.0 : 0.0, noted == SIGINT ? 1.0 : 0.0, noted == SIGTERM && !again ? 1.0 : 0.0,
          again ? 1.0 : 0.0};
}

void TrainerState::take_end_requests(std::span<const double, 4> requests) {
  if (world && requests[0] > 0) stop_requested = stop_agreed = true;
  if (signal != 0) return;
  if (requests[3] > 0) signal = job->signal;
  else if (requests[2] > 0) signal = SIGTERM;
  else if (requests[1] > 0) signal = SIGINT;
}

void TrainerState::end_on_bad_number(const std::string& why) {
  if (std::exchange(ends_on_bad_number, true)) return;
  message = why;
  console.print("training ends: " + why);
}

void TrainerState::agree_on_end() {
  std::array<double, 4> requests = end_requests();
  if (world) {
    const Tensor sums = tensor(requests, {4}, {.dtype = DType::f64, .device = world->group().device()});
    world->group().all_reduce(sums, ReduceOp::sum);
    std::ranges::copy(sums.to_vector(), requests.begin());
  }
  take_end_requests(requests);
}

double TrainerState::time() const {
  return lasted.value_or(std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count());
}

DataLoader TrainerState::share_of(const DataLoader& loader) const {
  return world && options.use_distributed_sampler ? loader.shard(rank(), ranks()) : loader;
}

std::int64_t TrainerState::limit(DataLoader& loader, std::string_view option, const Amount& amount) const {
  if (!loader.is_combined()) return limited_batches(option, amount, loader.size());
  loader = loader.each([&](const DataLoader& part) { return part.head(limited_batches(option, amount, part.size())); });
  return loader.size();
}

LimitedLoaders TrainerState::limited(const LoaderSet& set, std::string_view option, const Amount& limit) const {
  LimitedLoaders result;
  for (const DataLoader& loader : set.loaders) {
    result.loaders.push_back(share_of(loader));
    result.batches.push_back(this->limit(result.loaders.back(), option, limit));
  }
  return result;
}

LimitedLoaders TrainerState::sanity_loaders() const {
  LimitedLoaders first = val;
  if (const std::int64_t wanted = options.num_sanity_val_steps; wanted >= 0)
    for (std::int64_t& batches : first.batches) batches = std::min(wanted, batches);
  return first;
}

double TrainerState::weight_of(const Batch& batch) const {
  if (batch.empty()) return 0;
  if (!world) return 1;
  if (!options.use_distributed_sampler || train->is_stream()) return 1.0 / ranks();
  return static_cast<double>(batch.size()) / static_cast<double>(train->global_batch_size(counters.batch.ready));
}

void TrainerState::backward(const Tensor& loss, double factor) {
  using C = Callback;
  using M = TrainingModule;
  Tensor scaled = factor == 1 ? loss : loss * factor;
  if (scaler) scaled = scaler->scale(scaled);
  call(HookPoint::on_before_backward, &C::on_before_backward, &M::on_before_backward, scaled);
  call_module(HookPoint::backward, &M::backward, scaled);
  call(HookPoint::on_after_backward, &C::on_after_backward, &M::on_after_backward);
}

void TrainerState::count_skipped_step() {
  if (++skips_in_a_row < 100) return;
  const double scale = scaler->scale_value();
  check(
      scale >= 1,
      "loss scale collapsed: {} after {} steps in a row whose gradients were not finite; the model diverged, or has a "
      "layer that leaves the range of f16 (detect_anomaly names the op)",
      scale, skips_in_a_row);
}

void TrainerState::seed_batch() {
  if (!world) return;
  const std::uint64_t own = seed + 0xbf58476d1ce4e5b9 * static_cast<std::uint64_t>(rank() + 1);
  generator = epoch_generator(own, counters.epoch.completed, counters.batch.ready);
}

void TrainerState::place_module() {
  if (precision.parameters) module->to(*precision.parameters);
  if (device != Device{}) module->to(device);
}

void TrainerState::transfer(Batch& batch) {
  {
    const At at(*this, HookPoint::on_before_batch_transfer);
    data->on_before_batch_transfer(*module, batch);
  }
  {
    const At at(*this, HookPoint::transfer_batch_to_device);
    data->transfer_batch_to_device(*module, batch, device);
  }
  precision.cast(batch);
  const At at(*this, HookPoint::on_after_batch_transfer);
  data->on_after_batch_transfer(*module, batch);
}

void TrainerState::attach(TrainingModule* to, DataModule* with) {
  if (module) module->trainer_ = nullptr;
  if (data) data->trainer_ = nullptr;
  module = to;
  data = with;
  if (module) module->trainer_ = &trainer;
  if (data) data->trainer_ = &trainer;
}

void TrainerState::prepare_data() {
  const bool due = data->prepared_for_ != &trainer || data->prepare_every_time();
  const bool here = (data->prepare_data_per_node() ? trainer.local_rank() : rank()) == 0;
  if (due && here) data->prepare_data();
  data->prepared_for_ = &trainer;
  if (here) call_module(HookPoint::prepare_data, &TrainingModule::prepare_data);
  if (world) world->group().barrier();
}

void TrainerState::write_row(MetricMap row, std::int64_t x, bool with_epoch) {
  if (row.empty()) return;
  const double* const step = row.find("step");
  if (step) x = static_cast<std::int64_t>(*step);
  if (!step && with_epoch && !row.contains("epoch")) row.set("epoch", static_cast<double>(counters.epoch.completed));
  call_loggers([&](Logger& logger) { logger.log_metrics(row, x); });
}

void TrainerState::call_loggers(const std::function<void(Logger&)>& call) {
  std::erase_if(loggers, [&](const Shared<Logger>& logger) {
    try {
      call(*logger);
      return false;
    } catch (const std::exception& error) {
      console.warn(std::string("a logger failed and is switched off: ") + error.what());
      return true;
    }
  });
}

void TrainerState::save_loggers() {
  for (const Shared<Logger>& logger : loggers) try {
      logger->save();
    } catch (const std::exception& error) { console.warn(std::string("a logger failed: ") + error.what()); }
}

}  // namespace v0
}  // namespace anneal
