#include "anneal/trainer/snapshot.h"

#include <algorithm>

#include "anneal/core/autograd.h"
#include "anneal/trainer/run_loaders.h"

namespace anneal {
inline namespace v0 {
namespace {

Checkpoint::Loader describe(const DataLoader& loader) {
  return {loader.size(), loader.global_batch_size(0), loader.options().seed, {}};
}

void restore_optimizers(TrainerState& s, const Checkpoint& checkpoint, bool override_lr) {
  check(s.optimizers.size() == checkpoint.optimizers.size(),
        "resume: the checkpoint has {} optimizers, the module has {}", checkpoint.optimizers.size(),
        s.optimizers.size());
  for (std::size_t i = 0; i < s.optimizers.size(); ++i)
    s.optimizers[i].restore(checkpoint.optimizers[i], s.console, override_lr);
}

void restore_gradients(TrainerState& s, const Checkpoint& checkpoint) {
  const StateDict parameters = s.module->parameters();
  for (const NamedTensor& gradient : checkpoint.accumulation) {
    const auto it = std::find_if(parameters.begin(), parameters.end(),
                                 [&](const NamedTensor& p) { return p.name == gradient.name; });
    Leaf* leaf = it == parameters.end() ? nullptr : leaf_of(it->tensor);
    check(leaf && it->tensor.shape() == gradient.tensor.shape(), "resume: the gradient {} {} does not fit the module",
          gradient.name, gradient.tensor.shape());
    if (!leaf->slot.defined())
      leaf->slot = empty(it->tensor.shape(), {.dtype = it->tensor.dtype(), .device = it->tensor.device()});
    leaf->slot.copy_(gradient.tensor);
    leaf->touched = true;
  }
}

// What a run needs beside the weights to go on.
void add_state(Checkpoint& c, TrainerState& s) {
  if (s.counters.losses > 0)
    for (const NamedTensor& p : s.module->parameters())
      if (const Tensor gradient = p.tensor.grad(); gradient.defined()) c.accumulation.push_back({p.name, gradient});
  for (const ActiveOptimizer& active : s.optimizers) c.optimizers.push_back(active.state());
  if (s.scaler) c.scaler = s.scaler->state_dict();
  c.generator = s.generator;
  c.ranks = s.ranks();
  if (s.train) c.loader = describe(*s.train);
  c.loader.stream = s.batches ? s.batches->state(s.counters.batch.processed) : s.stream;
  c.logging = s.log.state();
  c.data = s.data->state();
  for (const Shared<Callback>& callback : s.callbacks)
    if (StateMap state = callback->state(); !state.empty()) c.callbacks[callback->state_key()] = std::move(state);
  for (const Shared<Logger>& logger : s.loggers) c.loggers.push_back(logger->state());
}

}  // namespace

Checkpoint take_snapshot(TrainerState& s, bool weights_only) {
  Checkpoint c;
  c.weights_only = weights_only;
  c.model = s.module->state_dict();
  c.seed = s.seed;
  c.counters = s.counters;
  c.hparams = s.module->hparams();
  c.data_hparams = s.data->hparams();
  if (!weights_only) add_state(c, s);
  s.call(HookPoint::on_save_checkpoint, &Callback::on_save_checkpoint, &TrainingModule::on_save_checkpoint, c);
  return c;
}

void own_tensors(Checkpoint& c) {
  const NoGrad no_grad;
  const auto own = [](StateDict& tensors) {
    for (NamedTensor& entry : tensors)
      entry.tensor = entry.tensor.device() == Device{} ? entry.tensor.clone() : entry.tensor.to(Device{});
  };
  own(c.model);
  own(c.accumulation);
  for (Checkpoint::Optimizer& optimizer : c.optimizers) own(optimizer.state);
  for (auto& [section, tensors] : c.extra) own(tensors);
}

namespace {

// The files that `files_of` says of each ModelCheckpoint, those written last first.
template <class F>
std::vector<std::filesystem::path> newest_first(const TrainerState& s, const F& files_of) {
  std::vector<std::filesystem::path> paths;
  for (const Shared<Callback>& callback : s.callbacks)
    if (const auto* files = dynamic_cast<const ModelCheckpoint*>(callback.get()))
      for (const auto& path : files_of(*files)) paths.push_back(path);
  const auto written = [](const auto& path) { return std::filesystem::last_write_time(path); };
  std::stable_sort(paths.begin(), paths.end(), [&](const auto& a, const auto& b) { return written(a) > written(b); });
  return paths;
}

std::optional<Checkpoint> find_here(TrainerState& s, const std::string& resume) {
  std::vector<std::filesystem::path> candidates{resume};
  if (resume == "last")
    candidates = newest_first(s, [&](const ModelCheckpoint& files) { return files.last_files(s.trainer); });
  if (resume == "best") {
    candidates = newest_first(s, [](const ModelCheckpoint& files) { return files.best_files(); });
    check(!candidates.empty(), "resume: there is no best checkpoint");
  }
  for (const auto& path : candidates) try {
      Checkpoint checkpoint = s.checkpoint_io->load(path);
      s.resumed_from = path;
      return checkpoint;
    } catch (const Error& error) {
      if (resume != "last") throw;
      s.console.warn(std::string("resume: passed over: ") + error.what());
    }
  s.console.warn("resume: there is no last checkpoint; training starts anew");
  return std::nullopt;
}

// What `find` finds on rank 0, on all ranks.
template <class F>
std::optional<Checkpoint> on_all_ranks(TrainerState& s, const F& find) {
  if (!s.world) return find();
  std::optional<Checkpoint> found;
  if (s.rank() == 0) found = find();
  s.resumed_from = s.from_rank_zero("trainer/resume", s.resumed_from.string());
  if (s.rank() > 0 && !s.resumed_from.empty()) found = s.checkpoint_io->load(s.resumed_from);
  return found;
}

}  // namespace

std::optional<Checkpoint> find_checkpoint(TrainerState& s, const std::string& resume) {
  return on_all_ranks(s, [&] { return find_here(s, resume); });
}

void restore_newest(TrainerState& s, std::int64_t batches) {
  std::optional<Checkpoint> checkpoint = on_all_ranks(s, [&]() -> std::optional<Checkpoint> {
    for (const auto& path : newest_first(s, [](const ModelCheckpoint& files) { return files.files(); })) {
      s.resumed_from = path;
      Checkpoint found = s.checkpoint_io->load(path);
      if (found.counters.total_batches <= batches) return found;
    }
    throw Error("rollback: there is no checkpoint to go back to");
  });
  restore_loggers(s, *checkpoint);
  restore_model(s, *checkpoint);
  reload_fit_loaders(s);
  restore_progress(s, *checkpoint);
}

void restore_loggers(TrainerState& s, const Checkpoint& c) {
  for (std::size_t i = 0; i < std::min(s.loggers.size(), c.loggers.size()); ++i) s.loggers[i]->load_state(c.loggers[i]);
}

void load_weights(TrainerState& s, const Checkpoint& c, bool strict) {
  if (strict) return s.module->load_state_dict(c.model);
  const StateDict own = s.module->state_dict();
  StateDict fitting;
  std::string report;
  for (const NamedTensor& saved : c.model) {
    const auto it = std::ranges::find(own, saved.name, &NamedTensor::name);
    if (it == own.end()) report += "\n  unexpected: " + saved.name;
    else if (it->tensor.shape() != saved.tensor.shape())
      report += format("\n  wrong shape: {} is {}, expected {}", saved.name, saved.tensor.shape(), it->tensor.shape());
    else fitting.push_back(saved);
  }
  for (const NamedTensor& entry : own)
    if (std::ranges::find(c.model, entry.name, &NamedTensor::name) == c.model.end())
      report += "\n  missing: " + entry.name;
  if (!report.empty()) s.console.warn("resume: not all weights were loaded:" + report);
  s.module->load_state_dict(fitting, false);
}

void restore_model(TrainerState& s, Checkpoint& c, bool strict) {
  s.call(HookPoint::on_load_checkpoint, &Callback::on_load_checkpoint, &TrainingModule::on_load_checkpoint, c);
  load_weights(s, c, strict);
  if (!c.data.empty()) s.data->load_state(c.data);
  // Loaders are asked for in the epoch that goes on.
  s.counters.epoch.completed = c.counters.epoch.completed;
  std::string unused;
  for (const auto& saved : c.callbacks) {
    const auto it = std::find_if(s.callbacks.begin(), s.callbacks.end(),
                                 [&](const auto& callback) { return callback->state_key() == saved.first; });
    if (it != s.callbacks.end()) (*it)->load_state(saved.second);
    else unused += "\n  " + saved.first;
  }
  if (!unused.empty()) s.console.warn("resume: the checkpoint has the state of callbacks that are not there:" + unused);
}

void restore_progress(TrainerState& s, const Checkpoint& c, bool override_lr) {
  const bool known = s.train && c.loader.size > 0;  // continue_run and evaluations have no loader to compare with
  const Checkpoint::Loader now = known ? describe(*s.train) : c.loader;
  if (now.size != c.loader.size || now.batch_size != c.loader.batch_size || now.seed != c.loader.seed)
    s.console.warn(
        "resume: the train loader's size, batch_size or seed differ from the checkpoint's; the batches will differ");
  restore_optimizers(s, c, override_lr);
  if (s.scaler && !c.scaler.empty()) s.scaler->load_state_dict(c.scaler);
  check(c.counters.losses == 0 || (!s.world && c.ranks == 1),
        "resume: the checkpoint was made within an accumulation window; that goes on only from one rank on one, got {} "
        "on {}",
        c.ranks, s.ranks());
  s.counters = c.counters;
  if (s.train && !s.train->is_stream()) s.counters.epoch_batches = s.train_batches;
  s.batches.reset();
  s.stream = c.loader.stream;
  // What was begun and not ended is done again.
  Progress& epoch = s.counters.epoch;
  epoch.ready = epoch.started;
  Progress& batch = s.counters.batch;
  batch.ready = batch.started = batch.processed;
  s.log.load_state(c.logging);
  s.seed = c.seed;
  s.generator = c.generator;
  restore_gradients(s, c);
}

}  // namespace v0
}  // namespace anneal
