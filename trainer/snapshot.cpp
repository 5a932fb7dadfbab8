#include "anneal/trainer/snapshot.h"

#include <algorithm>

#include "anneal/core/autograd.h"

namespace anneal {
inline namespace v0 {
namespace {

Checkpoint::Loader describe(const DataLoader& loader) {
  return {loader.size(), loader.global_batch_size(0), loader.options().seed};
}

bool differ_but_lr(kernels::OptimGroup a, const kernels::OptimGroup& b) {
  return a.beta1 != b.beta1 || a.beta2 != b.beta2 || a.eps != b.eps || a.weight_decay != b.weight_decay ||
         a.momentum != b.momentum || a.dampening != b.dampening || a.nesterov != b.nesterov ||
         a.maximize != b.maximize || a.decoupled != b.decoupled;
}

void restore_optimizer(TrainerState& s, const Checkpoint& checkpoint) {
  const bool has = static_cast<bool>(s.optimizer.optimizer);
  check(has == !checkpoint.optimizers.empty(), "resume: the checkpoint has {} optimizers, the module has {}",
        checkpoint.optimizers.size(), has ? 1 : 0);
  if (!has) return;
  optim::Optimizer& optimizer = *s.optimizer.optimizer;
  const Checkpoint::Optimizer& saved = checkpoint.optimizers[0];
  check(saved.type == optimizer.name() && saved.groups.size() == optimizer.groups() &&
            saved.base_lr.size() == optimizer.groups(),
        "resume: the checkpoint's optimizer is {} with {} groups, the module's is {} with {}", saved.type,
        saved.groups.size(), optimizer.name(), optimizer.groups());
  optimizer.load_state_dict(saved.state);
  bool lr_differs = false;
  for (std::size_t g = 0; g < optimizer.groups(); ++g) {
    if (differ_but_lr(optimizer.numbers(g), saved.groups[g]))
      s.console.warn(
          "resume: the optimizer's options other than lr differ from the checkpoint's; those of the code are used");
    lr_differs |= s.base_lr[g] != saved.base_lr[g];
    optimizer.set_lr(g, saved.base_lr[g]);
  }
  if (lr_differs) s.console.warn("resume: the learning rate in the code differs from the checkpoint's, which is used");
  s.base_lr = saved.base_lr;
  if (s.scheduler) {
    s.scheduler.emplace(optimizer, s.optimizer.schedule);
    s.scheduler->set_steps(saved.schedule_steps);
  }
  for (std::size_t g = 0; g < optimizer.groups(); ++g) optimizer.set_lr(g, saved.groups[g].lr);
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
  if (s.counters.window > 0)
    for (const NamedTensor& p : s.module->parameters())
      if (const Tensor gradient = p.tensor.grad(); gradient.defined()) c.accumulation.push_back({p.name, gradient});
  if (const auto& optimizer = s.optimizer.optimizer) {
    Checkpoint::Optimizer& o = c.optimizers.emplace_back();
    o.type = optimizer->name();
    o.state = optimizer->state_dict();
    for (std::size_t g = 0; g < optimizer->groups(); ++g) o.groups.push_back(optimizer->numbers(g));
    o.base_lr = s.base_lr;
    o.schedule_steps = s.scheduler ? s.scheduler->steps() : 0;
  }
  if (s.scaler) c.scaler = s.scaler->state_dict();
  c.generator = s.generator;
  c.seed = s.seed;
  c.ranks = s.ranks();
  c.counters = s.counters;
  c.loader = describe(*s.train);
  c.logging = s.log.state();
  for (const Shared<Callback>& callback : s.callbacks)
    if (StateMap state = callback->state(); !state.empty()) c.callbacks[callback->state_key()] = std::move(state);
  for (const Shared<Logger>& logger : s.loggers) c.loggers.push_back(logger->state());
  s.call_module(HookPoint::on_save_checkpoint, &TrainingModule::on_save_checkpoint, c.user);
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

void restore_model(TrainerState& s, const Checkpoint& c) {
  s.call_module(HookPoint::on_load_checkpoint, &TrainingModule::on_load_checkpoint, c.user);
  s.module->load_state_dict(c.model);
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
  restore_optimizer(s, c);
  if (s.scaler && !c.scaler.empty()) s.scaler->load_state_dict(c.scaler);
  check(c.counters.window == 0 || (!s.world && c.ranks == 1),
        "resume: the checkpoint was made within an accumulation window; that goes on only from one rank on one, got {} "
        "on {}",
        c.ranks, s.ranks());
  s.counters = c.counters;
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
