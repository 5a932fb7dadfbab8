#include "anneal/trainer/evaluation_loop.h"

#include <vector>

#include "anneal/core/autograd.h"

namespace anneal {
inline namespace v0 {
namespace {

// The hooks of one kind of evaluation, for callbacks and for the module.
struct Hook0 {
  HookPoint point;
  void (Callback::*of_callback)(Trainer&, TrainingModule&);
  void (TrainingModule::*of_module)();
};
struct BatchHook {
  HookPoint point;
  void (Callback::*of_callback)(Trainer&, TrainingModule&, const Batch&, StepContext&);
  void (TrainingModule::*of_module)(const Batch&, StepContext&);
};
struct Hooks {
  Hook0 model_eval, start, epoch_start;
  BatchHook batch_start, step, batch_end;
  Hook0 epoch_end, end, model_train;
};

using C = Callback;
using M = TrainingModule;
constexpr Hooks validation_hooks{
    {HookPoint::on_validation_model_eval, nullptr, &M::on_validation_model_eval},
    {HookPoint::on_validation_start, &C::on_validation_start, &M::on_validation_start},
    {HookPoint::on_validation_epoch_start, &C::on_validation_epoch_start, &M::on_validation_epoch_start},
    {HookPoint::on_validation_batch_start, &C::on_validation_batch_start, &M::on_validation_batch_start},
    {HookPoint::validation_step, nullptr, &M::validation_step},
    {HookPoint::on_validation_batch_end, &C::on_validation_batch_end, &M::on_validation_batch_end},
    {HookPoint::on_validation_epoch_end, &C::on_validation_epoch_end, &M::on_validation_epoch_end},
    {HookPoint::on_validation_end, &C::on_validation_end, &M::on_validation_end},
    {HookPoint::on_validation_model_train, nullptr, &M::on_validation_model_train}};
constexpr Hooks test_hooks{{HookPoint::on_test_model_eval, nullptr, &M::on_test_model_eval},
                           {HookPoint::on_test_start, &C::on_test_start, &M::on_test_start},
                           {HookPoint::on_test_epoch_start, &C::on_test_epoch_start, &M::on_test_epoch_start},
                           {HookPoint::on_test_batch_start, &C::on_test_batch_start, &M::on_test_batch_start},
                           {HookPoint::test_step, nullptr, &M::test_step},
                           {HookPoint::on_test_batch_end, &C::on_test_batch_end, &M::on_test_batch_end},
                           {HookPoint::on_test_epoch_end, &C::on_test_epoch_end, &M::on_test_epoch_end},
                           {HookPoint::on_test_end, &C::on_test_end, &M::on_test_end},
                           {HookPoint::on_test_model_train, nullptr, &M::on_test_model_train}};

template <class H, class... A>
void call(TrainerState& s, const H& hook, A&&... args) {
  if (hook.of_callback) s.call_callbacks(hook.point, hook.of_callback, args...);
  s.call_module(hook.point, hook.of_module, args...);
}

// Each module's own mode, in the order of a walk through the tree; put back when it goes.
class Modes {
 public:
  explicit Modes(nn::Module& root) : root_(root) { read(root); }
  ~Modes() {
    std::size_t next = 0;
    write(root_, next);
  }
  Modes(const Modes&) = delete;
  Modes& operator=(const Modes&) = delete;

 private:
  void read(const nn::Module& module) {
    modes_.push_back(module.training());
    module.for_each_child([&](const std::string&, const nn::Module& child) { read(child); });
  }
  void write(nn::Module& module, std::size_t& next) {
    module.train(modes_[next++]);
    module.for_each_child([&](const std::string&, nn::Module& child) { write(child, next); });
  }

  nn::Module& root_;
  std::vector<bool> modes_;
};

}  // namespace

MetricMap evaluate(TrainerState& s, Loop loop, Purpose purpose, const DataLoader& loader, std::int64_t batches) {
  MetricMap values;
  if (batches == 0) return values;
  const Hooks& hooks = loop == Loop::validation ? validation_hooks : test_hooks;
  std::int64_t& evaluated = s.counters.evaluated[loop == Loop::validation ? 0 : 1];
  Generator generator = epoch_generator(s.seed + 0x9e3779b97f4a7c15, s.counters.epoch.completed, s.counters.checks);
  const GeneratorScope scope(generator);
  s.log.end_epoch(loop);
  {
    const Modes modes(*s.module);
    const NoGrad no_grad;
    call(s, hooks.model_eval);
    call(s, hooks.start);
    call(s, hooks.epoch_start);
    BatchIterator it = loader.begin(s.counters.epoch.completed, 0);
    for (std::int64_t i = 0; i < batches; ++i) {
      if (i > 0) ++it;
      Batch& batch = *it;
      if (batch.empty()) {  // this rank's share of the last one, unless it is alone
        if (!s.world) s.console.warn("an evaluation's loader gave an empty batch; it is skipped");
        continue;
      }
      s.transfer(batch);
      StepContext step(s.trainer, i);
      s.log.begin_batch(batch);
      call(s, hooks.batch_start, batch, step);
      {
        const Autocast autocast = s.autocast();
        call(s, hooks.step, batch, step);
      }
      call(s, hooks.batch_end, batch, step);
      const std::int64_t x = evaluated + i + 1;
      if (purpose != Purpose::sanity_check && s.options.log_every_n_steps > 0 && x % s.options.log_every_n_steps == 0)
        s.write_row(s.log.evaluation_step_row(loop), x, false);
      s.log.end_evaluation_batch();
    }
    call(s, hooks.epoch_end);
    s.log.publish_epoch(loop);
    values = s.log.epoch_values(loop, false);
    if (purpose != Purpose::sanity_check) {
      s.write_row(s.log.epoch_row(loop), s.counters.global_step);
      s.save_loggers();
      evaluated += batches;
    }
    s.log.end_epoch(loop);
    if (purpose == Purpose::check) {
      ++s.counters.checks;
      s.counters.checked_at = s.counters.total_batches;
    }
    call(s, hooks.end);
  }
  s.call_module(hooks.model_train.point, hooks.model_train.of_module);
  return values;
}

}  // namespace v0
}  // namespace anneal
