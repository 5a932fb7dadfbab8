#include "anneal/trainer/snapshot.h"

#include <algorithm>

#include "anneal/core/autograd.h"
#include "anneal/core/type_name.h"
#include "anneal/trainer/find_checkpoint.h"
#include "anneal/trainer/run_loaders.h"

namespace anneal {
inline namespace v0 {
namespace {

Checkpoint::Loader describe(const DataLoader& loader) {
  return {loader.size(), loader.global_batch_size(0), loader.options().seed, {}};
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

// A pass that stood somewhere goes on after as many samples, in batches of another size.
void scale_batches(Counters& c, std::int64_t size_before, std::int64_t size, std::int64_t batches) {
  if (c.batch.processed == 0) return;
  const bool ended = c.batch.processed == c.epoch_batches;
  const std::int64_t more =
      (ended ? batches : std::min(batches, c.batch.processed * size_before / size)) - c.batch.processed;
  for (std::int64_t* count : {&c.batch.processed, &c.batch.completed, &c.total_batches, &c.checked_at}) *count += more;
}

// By which the state of each callback is found again. Those of a type that has no keys are told apart by their order.
std::vector<std::string> state_keys(const std::vector<Shared<Callback>>& callbacks) {
  std::vector<std::string> keys;
  std::map<std::string, int> of_type;
  for (const Shared<Callback>& callback : callbacks) {
    std::string key = callback->state_key();
    if (key.empty()) {
      const Callback& of = *callback;
      key = short_name(typeid(of));
      if (const int number = ++of_type[key]; number > 1) key += format(" {}", number);
    }
    keys.push_back(std::move(key));
  }
  return keys;
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
  const std::vector<std::string> keys = state_keys(s.callbacks);
  for (std::size_t i = 0; i < keys.size(); ++i)
    if (StateMap state = s.callbacks[i]->state(); !state.empty()) c.callbacks[keys[i]] = std::move(state);
  for (const Shared<Logger>& logger : s.loggers) c.loggers.push_back(logger->state());
}

}  // namespace

Checkpoint take_snapshot(TrainerState& s, bool weights_only) {
  Checkpoint c;
  c.weights_only = weights_only;
  c.model = s.module->state_dict();
  c.seed = s.seed;
  c.precision = s.options.precision;
  c.time = s.time();
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

void restore_newest(TrainerState& s, std::int64_t batches) {
  Checkpoint checkpoint = find_newest(s, batches);
  restore_loggers(s, checkpoint);
  restore_model(s, checkpoint);
  reload_fit_loaders(s);
  restore_progress(s, checkpoint);
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
  const std::vector<std::string> keys = state_keys(s.callbacks);
  for (const auto& [key, state] : c.callbacks) {
    const auto it = std::ranges::find(keys, key);
    if (it != keys.end()) s.callbacks[static_cast<std::size_t>(it - keys.begin())]->load_state(state);
    else unused += "\n  " + key;
  }
  if (!unused.empty()) s.console.warn("resume: the checkpoint has the state of callbacks that are not there:" + unused);
}

void restore_optimizers(TrainerState& s, const Checkpoint& checkpoint, bool override_lr) {
  check(s.optimizers.size() == checkpoint.optimizers.size(),
        "resume: the checkpoint has {} optimizers, the module has {}", checkpoint.optimizers.size(),
        s.optimizers.size());
  for (std::size_t i = 0; i < s.optimizers.size(); ++i)
    s.optimizers[i].restore(checkpoint.optimizers[i], s.console, override_lr);
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
  if (s.train && !s.train->is_stream()) {
    if (now.batch_size != c.loader.batch_size)
      scale_batches(s.counters, c.loader.batch_size, now.batch_size, s.train_batches);
    s.counters.epoch_batches = s.train_batches;
  }
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
