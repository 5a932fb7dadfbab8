#include "anneal/trainer/snapshot.h"

#include <algorithm>

#include "anneal/core/autograd.h"

namespace anneal {
inline namespace v0 {
namespace {

Checkpoint::Loader describe(const DataLoader& loader) {
  return {loader.size(), loader.global_batch_size(0), loader.options().seed, {}};
}

void restore_optimizers(TrainerState& s, const Checkpoint& checkpoint) {
  check(s.optimizers.size() == checkpoint.optimizers.size(),
        "resume: the checkpoint has {} optimizers, the module has {}", checkpoint.optimizers.size(),
        s.optimizers.size());
  for (std::size_t i = 0; i < s.optimizers.size(); ++i) s.optimizers[i].restore(checkpoint.optimizers[i], s.console);
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

}  // namespace

Checkpoint take_snapshot(TrainerState& s) {
  Checkpoint c;
  c.model = s.module->state_dict();
  if (s.counters.losses > 0)
    for (const NamedTensor& p : s.module->parameters())
      if (const Tensor gradient = p.tensor.grad(); gradient.defined()) c.accumulation.push_back({p.name, gradient});
  for (const ActiveOptimizer& active : s.optimizers) c.optimizers.push_back(active.state());
  if (s.scaler) c.scaler = s.scaler->state_dict();
  c.generator = s.generator;
  c.seed = s.seed;
  c.ranks = s.ranks();
  c.counters = s.counters;
  c.loader = describe(*s.train);
  c.loader.stream = s.batches ? s.batches->state(s.counters.batch.processed) : s.stream;
  c.logging = s.log.state();
  c.data = s.data->state();
  c.hparams = s.module->hparams();
  c.data_hparams = s.data->hparams();
  for (const Shared<Callback>& callback : s.callbacks)
    if (StateMap state = callback->state(); !state.empty()) c.callbacks[callback->state_key()] = std::move(state);
  for (const Shared<Logger>& logger : s.loggers) c.loggers.push_back(logger->state());
  s.call(HookPoint::on_save_checkpoint, &Callback::on_save_checkpoint, &TrainingModule::on_save_checkpoint, c);
  return c;
}

namespace {

std::optional<Checkpoint> find_here(TrainerState& s, const std::string& resume) {
  std::vector<std::filesystem::path> candidates;
  if (resume == "last" || resume == "best") {
    for (const Shared<Callback>& callback : s.callbacks)
      if (const auto* files = dynamic_cast<const ModelCheckpoint*>(callback.get()))
        for (const auto& path : resume == "last" ? files->last_files(s.trainer) : files->best_files())
          candidates.push_back(path);
    if (resume == "best") check(!candidates.empty(), "resume: there is no best checkpoint");
    const auto written = [](const auto& path) { return std::filesystem::last_write_time(path); };
    std::stable_sort(candidates.begin(), candidates.end(),
                     [&](const auto& a, const auto& b) { return written(a) > written(b); });
  } else {
    candidates.push_back(resume);
  }
  for (const auto& path : candidates) try {
      Checkpoint checkpoint = load_checkpoint(path);
      s.resumed_from = path;
      return checkpoint;
    } catch (const Error& error) {
      if (resume != "last") throw;
      s.console.warn(std::string("resume: passed over: ") + error.what());
    }
  s.console.warn("resume: there is no last checkpoint; training starts anew");
  return std::nullopt;
}

}  // namespace

std::optional<Checkpoint> find_checkpoint(TrainerState& s, const std::string& resume) {
  if (!s.world) return find_here(s, resume);
  std::optional<Checkpoint> found;
  if (s.rank() == 0) found = find_here(s, resume);
  s.resumed_from = s.from_rank_zero("trainer/resume", s.resumed_from.string());
  if (s.rank() > 0 && !s.resumed_from.empty()) found = load_checkpoint(s.resumed_from);
  return found;
}

void restore_loggers(TrainerState& s, const Checkpoint& c) {
  for (std::size_t i = 0; i < std::min(s.loggers.size(), c.loggers.size()); ++i) s.loggers[i]->load_state(c.loggers[i]);
}

void restore_model(TrainerState& s, Checkpoint& c) {
  s.call(HookPoint::on_load_checkpoint, &Callback::on_load_checkpoint, &TrainingModule::on_load_checkpoint, c);
  s.module->load_state_dict(c.model);
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

void restore_progress(TrainerState& s, const Checkpoint& c) {
  const Checkpoint::Loader now = describe(*s.train);
  if (now.size != c.loader.size || now.batch_size != c.loader.batch_size || now.seed != c.loader.seed)
    s.console.warn(
        "resume: the train loader's size, batch_size or seed differ from the checkpoint's; the batches will differ");
  restore_optimizers(s, c);
  if (s.scaler && !c.scaler.empty()) s.scaler->load_state_dict(c.scaler);
  check(c.counters.losses == 0 || (!s.world && c.ranks == 1),
        "resume: the checkpoint was made within an accumulation window; that goes on only from one rank on one, got {} "
        "on {}",
        c.ranks, s.ranks());
  s.counters = c.counters;
  if (s.train->is_stream()) s.stream = c.loader.stream;
  else s.counters.epoch_batches = s.train_batches;
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
