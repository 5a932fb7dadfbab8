#include "anneal/trainer/evaluation_loop.h"

#include <optional>
#include <vector>

#include "anneal/core/autograd.h"
#include "anneal/trainer/gather_predictions.h"
#include "anneal/trainer/module_modes.h"

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

// What a profiler is told of.
struct Actions {
  const char *next, *batch;
};
constexpr Actions validation_actions{"validation_dataloader_next", "run_validation_batch"};
constexpr Actions test_actions{"test_dataloader_next", "run_test_batch"};
constexpr Actions predict_actions{"predict_dataloader_next", "run_predict_batch"};

// Calls f(batch, step) for the batches of each loader, brought to where the module is, until is_over(), which the
// ranks are asked together. How many there were.
template <class F, class Over>
std::int64_t for_each_batch(TrainerState& s, const LimitedLoaders& set, const Actions& actions, const F& f,
                            const Over& is_over) {
  Profiler* const profiler = s.profiler.get();
  std::int64_t all = 0;
  for (std::size_t l = 0; l < set.loaders.size(); ++l) {
    if (set.batches[l] == 0) continue;
    std::optional<BatchIterator> it;
    for (std::int64_t i = 0; i < set.batches[l]; ++i) {
      {
        const ProfiledAction next(profiler, actions.next);
        if (it) ++*it;
        else it.emplace(set.loaders[l].begin(s.counters.epoch.completed, 0));
      }
      if (*it == std::default_sentinel) break;  // a stream's end
      ++all;
      Batch& batch = **it;
      if (batch.empty()) {  // this rank's share of the last one, unless it is alone
        if (!s.world) s.console.warn("an evaluation's loader gave an empty batch; it is skipped");
      } else {
        const ProfiledAction action(profiler, actions.batch);
        s.transfer(batch);
        StepContext step(s.trainer, i, static_cast<std::int64_t>(l), it->samples());
        f(batch, step);
      }
      if (profiler && s.stage > Stage::sanity_check && !batch.empty()) profiler->end_batch();
      if (all <= set.on_all_ranks && is_over()) return all;
    }
  }
  return all;
}

Generator own_generator(const TrainerState& s) {
  return epoch_generator(s.seed + 0x9e3779b97f4a7c15, s.counters.epoch.completed, s.counters.checks);
}

}  // namespace

std::vector<MetricMap> evaluate(TrainerState& s, Loop loop, Purpose purpose, const LimitedLoaders& set) {
  std::vector<MetricMap> values(set.loaders.size());
  if (set.total() == 0) return values;
  const Hooks& hooks = loop == Loop::validation ? validation_hooks : test_hooks;
  std::int64_t& evaluated = s.counters.evaluated[loop == Loop::validation ? 0 : 1];
  Generator generator = own_generator(s);
  const GeneratorScope scope(generator);
  s.log.end_epoch(loop);
  {
    const ModuleModes modes(*s.module);
    const NoGrad no_grad;
    const InferenceMode inference(inference_mode_enabled() ||
                                  (purpose == Purpose::own_run && s.options.inference_mode));
    call(s, hooks.model_eval);
    call(s, hooks.start);
    call(s, hooks.epoch_start);
    std::int64_t x = evaluated;
    const Actions& actions = loop == Loop::validation ? validation_actions : test_actions;
    bool over = false;
    const auto each_batch = [&](const Batch& batch, StepContext& step) {
      s.log.begin_batch(loop, batch, set.loaders.size() > 1 ? std::optional(step.dataloader_idx()) : std::nullopt);
      call(s, hooks.batch_start, batch, step);
      {
        const Autocast autocast = s.autocast();
        call(s, hooks.step, batch, step);
      }
      call(s, hooks.batch_end, batch, step);
      ++x;
      if (purpose != Purpose::sanity_check && s.options.log_every_n_steps > 0 && x % s.options.log_every_n_steps == 0)
        s.log.write_row([&s, loop, x] { s.write_row(s.log.evaluation_step_row(loop), x, false); });
      s.log.end_evaluation_batch();
      over = over || step.skips_epoch();
    };
    const bool is_check = purpose == Purpose::check;
    const std::int64_t batches =
        for_each_batch(s, set, actions, each_batch, [&] { return is_check && (over = s.any_rank(over)); });
    s.check_broke_off = is_check && over;
    if (!s.check_broke_off) {
      call(s, hooks.epoch_end);
      synchronize(s.device);  // throws for bad indices that a GPU has met
      s.log.publish_epoch(loop);
      for (std::size_t l = 0; l < values.size(); ++l)
        values[l] = s.log.epoch_values(loop, false, static_cast<std::int64_t>(l));
      if (purpose != Purpose::sanity_check) {
        s.write_row(s.log.epoch_row(loop), s.counters.global_step);
        s.save_loggers();
      }
      if (is_check) ++s.counters.checks;
    }
    if (purpose != Purpose::sanity_check) evaluated += batches;
    if (is_check) s.counters.checked_at = s.counters.total_batches;
    s.log.end_epoch(loop);
    call(s, hooks.end);
  }
  s.call_module(hooks.model_train.point, hooks.model_train.of_module);
  return values;
}

std::vector<std::vector<Batch>> predict(TrainerState& s, const LimitedLoaders& set, const PredictOptions& options) {
  std::vector<std::vector<Batch>> predictions(set.loaders.size());
  std::vector<std::vector<std::int64_t>> samples(set.loaders.size());
  if (set.total() == 0) return predictions;
  Generator generator = own_generator(s);
  const GeneratorScope scope(generator);
  {
    const ModuleModes modes(*s.module);
    const NoGrad no_grad;
    const InferenceMode inference(inference_mode_enabled() || s.options.inference_mode);
    s.call_module(HookPoint::on_predict_model_eval, &M::on_predict_model_eval);
    s.call(HookPoint::on_predict_start, &C::on_predict_start, &M::on_predict_start);
    s.call(HookPoint::on_predict_epoch_start, &C::on_predict_epoch_start, &M::on_predict_epoch_start);
    const auto each_batch = [&](const Batch& batch, StepContext& step) {
      s.call(HookPoint::on_predict_batch_start, &C::on_predict_batch_start, &M::on_predict_batch_start, batch, step);
      Batch prediction;
      {
        const Autocast autocast = s.autocast();
        prediction = s.call_module(HookPoint::predict_step, &M::predict_step, batch, step);
      }
      if (s.device != Device{}) prediction = prediction.to({});
      s.call(HookPoint::on_predict_batch_end, &C::on_predict_batch_end, &M::on_predict_batch_end, prediction, batch,
             step);
      if (!options.return_predictions) return;
      const auto loader = static_cast<std::size_t>(step.dataloader_idx());
      predictions[loader].push_back(std::move(prediction));
      samples[loader].insert(samples[loader].end(), step.samples().begin(), step.samples().end());
    };
    for_each_batch(s, set, predict_actions, each_batch, [] { return false; });
    for (std::size_t l = 0; options.gather && options.return_predictions && l < predictions.size(); ++l)
      predictions[l] = {gather_predictions(s, predictions[l], samples[l])};
    s.call(HookPoint::on_predict_epoch_end, &C::on_predict_epoch_end, &M::on_predict_epoch_end);
    s.call(HookPoint::on_predict_end, &C::on_predict_end, &M::on_predict_end);
  }
  s.call_module(HookPoint::on_predict_model_train, &M::on_predict_model_train);
  return predictions;
}

}  // namespace v0
}  // namespace anneal
