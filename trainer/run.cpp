#include "anneal/trainer/run.h"

#include <chrono>
#include <utility>

#include "anneal/core/autograd.h"
#include "anneal/trainer/callback_list.h"
#include "anneal/trainer/evaluation_loop.h"
#include "anneal/trainer/find_checkpoint.h"
#include "anneal/trainer/fit_loop.h"
#include "anneal/trainer/profiled_run.h"
#include "anneal/trainer/run_loaders.h"
#include "anneal/trainer/snapshot.h"

namespace anneal {
inline namespace v0 {

optim::RunNumbers run_numbers(const TrainerState& s) {
  const std::int64_t epochs = *s.options.max_epochs, steps = s.trainer.estimated_stepping_batches();
  const auto known = [](std::int64_t n) { return n >= 0 && n < unknown_size ? std::optional(n) : std::nullopt; };
  return {.num_epochs = known(epochs),
          .train_dataloader_len = known(s.train_batches),
          .eval_dataloader_len = known(s.val.total()),
          .total_steps = known(steps),
          .accumulate_grad_batches = s.options.accumulate_grad_batches};
}

namespace {

using C = Callback;
using M = TrainingModule;

// One that computes a batch's loss more than once a step compares losses, which are this process's own.
void check_closure_options(TrainerState& s, const optim::Optimizer& optimizer) {
  const TrainerOptions& o = s.options;
  const auto expect = [&](bool fits, const char* option, const char* expected) {
    check<ConfigError>(fits, "{}: expected {} with {}, which computes the loss more than once a step", option, expected,
                       optimizer.name());
  };
  expect(!s.precision.scaled, "precision", "another than 16-mixed");
  expect(*o.gradient_clip_val == 0 && o.gradient_clip_group_vals.empty(), "gradient_clip_val", "0");
  expect(o.on_bad_number == "ignore", "on_bad_number", "ignore");
  expect(!o.log_grad_norm, "log_grad_norm", "false");
  expect(!s.world, "devices", "one rank");
  if (o.accumulate_grad_batches > 1)
    s.console.warn(format("accumulate_grad_batches: {} goes by the last batch of a window alone", optimizer.name()));
}

void make_optimizers(TrainerState& s) {
  s.optimizers.clear();
  s.scaler.reset();
  s.guard.reset();
  const TrainerOptions& o = s.options;
  s.automatic = s.module->automatic_optimization();
  check<ConfigError>(s.automatic || o.accumulate_grad_batches == 1,
                     "accumulate_grad_batches: expected 1 with manual optimization, got {}; training_step decides when "
                     "to step",
                     o.accumulate_grad_batches);
  check<ConfigError>(s.automatic || (*o.gradient_clip_val == 0 && o.gradient_clip_group_vals.empty()),
                     "gradient_clip_val: expected 0 with manual optimization, got {}; call clip_gradients before step",
                     *o.gradient_clip_val);
  check<ConfigError>(
      s.automatic || !o.log_grad_norm,
      "log_grad_norm: expected false with manual optimization, got true; log optimizer.grad_norm() after "
      "a step");
  check<ConfigError>(s.automatic || o.on_bad_number == "ignore",
                     "on_bad_number: expected ignore with manual optimization, got {}; training_step can look at its "
                     "losses",
                     o.on_bad_number);
  const OptimizerConfig config = s.call_module(HookPoint::configure_optimizers, &M::configure_optimizers);
  for (const OptimizerEntry& entry : config.entries()) s.optimizers.emplace_back(entry, run_numbers(s));
  check<ConfigError>(
      !s.automatic || s.optimizers.size() <= 1,
      "configure_optimizers: expected one optimizer, got {}; for more override automatic_optimization to "
      "return false, and step them in training_step",
      s.optimizers.size());
  if (s.automatic && !s.optimizers.empty() && s.optimizers[0].optimizer().needs_closure())
    check_closure_options(s, s.optimizers[0].optimizer());
  if (s.optimizers.empty()) s.console.warn("configure_optimizers returned no optimizer; nothing is updated");
  for (const ActiveOptimizer& active : s.optimizers) {
    const OptimizerEntry& entry = active.entry();
    if (!s.automatic && (!entry.monitor.empty() || !entry.strict))
      s.console.warn("monitor and strict mean nothing with manual optimization, where training_step moves schedules");
    if (s.automatic && entry.schedule.is_for_steps() && entry.interval == Interval::epoch)
      s.console.warn("a schedule that is meant to move with every step, such as one_cycle_lr, moves by epochs");
  }
  for (ActiveOptimizer& active : s.optimizers)
    if (s.precision.autocast) active.optimizer().keep_twins(*s.precision.autocast);
  if (s.precision.scaled && !s.optimizers.empty()) s.scaler.emplace(o.grad_scaler.value_or(optim::GradScalerOptions{}));
  else if (o.on_bad_number != "ignore")
    s.guard.emplace(
        optim::GradScalerOptions{.init_scale = 1, .growth_factor = 1, .backoff_factor = 1, .growth_interval = 0});
}

// All ranks start from rank 0's weights; it is an error if their models differ in more than those.
void join_ranks(TrainerState& s) {
  if (!s.world) return;
  for (ActiveOptimizer& active : s.optimizers) {
    if (const auto& strategy = s.options.strategy.object()) active.buckets = strategy->buckets();
    active.reducer(s.world->group());
  }
  dist::broadcast(s.world->group(), s.module->parameters());
  dist::broadcast(s.world->group(), s.module->buffers());
}

// What the run is made with. Throws ConfigError where the two disagree.
HParams hparams_of_run(const TrainerState& s) {
  HParams all = s.module->hparams();
  const HParams of_data = s.data->hparams();
  for (const auto& [name, value] : of_data)
    if (const HParam* other = find(all, name))
      check<ConfigError>(*other == value, "hparams: {} is {} in the module, but {} in the DataModule", name,
                         to_json(*other), to_json(value));
  merge(all, of_data);
  return all;
}

// The seed, and what the run is made with. Integers among hyper-parameters have a sign.
void log_hparams(TrainerState& s, std::uint64_t seed, const HParams& of_run) {
  HParams all;
  if (std::in_range<std::int64_t>(seed)) all = {{"seed", static_cast<std::int64_t>(seed)}};
  else all = {{"seed", std::to_string(seed)}};
  if (s.options.enable_autolog_hparams) merge(all, of_run);
  s.call_loggers([&](Logger& logger) { logger.log_hyperparams(all); });
}

// They count from the beginning of the run that is gone on with.
void check_limits(const TrainerState& s, const Checkpoint& checkpoint) {
  const std::int64_t epochs = *s.options.max_epochs, steps = s.options.max_steps;
  const std::string past =
      s.resumed_from.empty() ? std::string("the last fit") : "the checkpoint " + s.resumed_from.string();
  check<ConfigError>(epochs < 0 || checkpoint.counters.epoch.processed <= epochs,
                     "max_epochs: expected at least the {} of {}, got {}", checkpoint.counters.epoch.processed, past,
                     epochs);
  check<ConfigError>(steps < 0 || checkpoint.counters.global_step <= steps,
                     "max_steps: expected at least the {} of {}, got {}", checkpoint.counters.global_step, past, steps);
}

void finalize_loggers(TrainerState& s, std::string_view status) {
  try {
    s.log.flush();
  } catch (const std::exception& error) { s.console.warn(std::string("rows were lost: ") + error.what()); }
  for (const Shared<Logger>& logger : s.loggers) try {
      logger->finalize(status);
    } catch (const std::exception& error) { s.console.warn(std::string("a logger failed: ") + error.what()); }
}

// An error ends the job on all ranks: the first one to fail says why.
void tell_ranks(TrainerState& s, const std::exception_ptr& error) {
  if (s.world) try {
      std::rethrow_exception(error);
    } catch (const std::exception& e) { s.world->store().fail(e.what()); } catch (...) {
      s.world->store().fail("an exception of an unknown type");
    }
}
template <class F>
auto telling_ranks(TrainerState& s, F&& f) {
  try {
    return f();
  } catch (...) {
    tell_ranks(s, std::current_exception());
    throw;
  }
}

// What surrounds every run: hooks, generators and modes, and the way out by an exception.
template <class F>
void run(TrainerState& s, Stage stage, TrainingModule& module, DataModule& data, F&& body) {
  check(!s.module, "a Trainer can do one run at a time");
  s.stage = stage;
  struct Attached {
    TrainerState& s;
    ~Attached() {
      s.attach(nullptr, nullptr);
      s.log.release();
      s.train.reset();
      s.batches.reset();
      s.val = s.own_run = {};
    }
  } const attached{s};
  s.attach(&module, &data);
  const ProfiledRun profiled(s);
  s.skips_in_a_row = 0;
  s.stop_agreed = s.ends_on_bad_number = false;
  s.bad_windows = s.bad_in_a_row = 0;
  s.signal = 0;
  s.message.clear();
  s.status = RunStatus::running;
  const GeneratorScope random(s.generator);
  const AnomalyMode anomaly(s.options.detect_anomaly || anomaly_enabled());
  try {
    add_callbacks_of_module(s);
    s.prepare_data();
    data.setup(stage);
    s.call(HookPoint::setup, &C::setup, &M::setup, stage);
    s.call_module(HookPoint::configure_model, &M::configure_model);
    s.place_module();
    body();
    if (s.world) s.world->group().barrier();
    data.teardown(stage);
    s.call(HookPoint::teardown, &C::teardown, &M::teardown, stage);
  } catch (...) {
    // What fails on the way out must not hide the first error.
    const auto quietly = [&](auto&& f) {
      try {
        f();
      } catch (const std::exception& error) {
        s.console.print(std::string("error after an exception: ") + error.what());
      } catch (...) { s.console.print("error after an exception, of an unknown type"); }
    };
    const std::exception_ptr error = std::current_exception();
    s.status = RunStatus::interrupted;
    tell_ranks(s, error);
    for (const Shared<Callback>& callback : s.callbacks)
      quietly([&] {
        const TrainerState::At at(s, HookPoint::on_exception);
        callback->on_exception(s.trainer, module, error);
      });
    quietly([&] { data.on_exception(error); });
    finalize_loggers(s, "failed");
    quietly([&] { data.teardown(stage); });
    for (const Shared<Callback>& callback : s.callbacks) quietly([&] { callback->teardown(s.trainer, module, stage); });
    quietly([&] { module.teardown(stage); });
    throw;
  }
  s.status = s.signal != 0 ? RunStatus::interrupted : RunStatus::finished;
  finalize_loggers(s, s.signal != 0 ? "interrupted" : "success");
}

// Of the fit that has ended.
Checkpoint snapshot_with(TrainerState& s, DataModule& data, bool weights_only = false) {
  struct Attached {  // also if a hook throws
    TrainerState& s;
    ~Attached() { s.attach(nullptr, nullptr); }
  } const attached{s};
  s.attach(s.fitted, &data);
  return take_snapshot(s, weights_only);
}

// What continue_run goes on from.
Checkpoint end_of_last_fit(TrainerState& s, const TrainingModule& module, DataModule& data, const FitOptions& options) {
  check<ConfigError>(options.resume.empty(), "continue_run: expected that or resume, got both");
  check(s.fitted == &module, "continue_run: this Trainer has not fitted this module last");
  return snapshot_with(s, data);
}

// What a checkpoint has of the data of a fit that has ended.
class FittedData final : public DataModule {
 public:
  explicit FittedData(const DataModule& data) : hparams_(data.hparams()), state_(data.state()) {}
  HParams hparams() const override { return hparams_; }
  StateMap state() const override { return state_; }

 private:
  HParams hparams_;
  StateMap state_;
};

// Where a Slurm job that was run again goes on; empty: it begins. Rank 0's word counts.
std::string preempted_at(const TrainerState& s) {
  const std::filesystem::path& path = s.job->checkpoint;
  return s.from_rank_zero("trainer/preempted", std::filesystem::exists(path) ? path.string() : "");
}

void end_in_job(TrainerState& s, StopReason reason) {
  const bool again = reason == StopReason::signal && s.signal == s.job->signal;
  if (again) s.trainer.save_checkpoint(s.job->checkpoint);
  if (s.rank() > 0) return;
  try {
    if (again) s.job->requeue();
    else if (reason != StopReason::signal) std::filesystem::remove(s.job->checkpoint);
  } catch (const std::exception& error) { s.console.warn(error.what()); }
}

// `instead` takes the place of the loop.
FitResult train(TrainerState& s, TrainingModule& module, DataModule& data, const FitOptions& options,
                const std::function<void()>& instead = {}) {
  const auto start = std::chrono::steady_clock::now();
  struct Signals {
    TrainerState& s;
    std::optional<SignalScope> scope = {};
    ~Signals() { s.signals = nullptr; }
  } signals{s};
  // Of several runs at once the first has the signal.
  const bool in_job = s.job && !instead && (s.options.handle_signals || !SignalScope::exists());
  if (s.options.handle_signals || in_job)
    s.signals = &signals.scope.emplace(s.options.handle_signals, in_job ? s.job->signal : 0);
  std::optional<Checkpoint> resumed;
  if (options.continue_run) resumed = end_of_last_fit(s, module, data, options);
  s.fitted_data.reset();
  s.began = start;
  s.lasted.reset();
  s.counters = {};
  s.generator = Generator(s.seed);
  s.stop_requested = false;
  s.resumed_from.clear();
  s.log.clear();
  s.stream.clear();
  s.dropped.clear();
  s.return_before.reset();
  std::optional<Checkpoint> weights;
  if (!options.resume.empty()) (options.weights_only ? weights : resumed) = find_checkpoint(s, options.resume);
  else if (!resumed && in_job)
    if (const std::string path = preempted_at(s); !path.empty()) resumed = find_checkpoint(s, path);
  if (resumed) {
    check(!resumed->weights_only,
          "resume: {} holds weights only, no optimizer's state: weights_only = true starts anew with them",
          s.resumed_from.string());
    s.began -= std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::duration<double>(resumed->time));
    check_limits(s, *resumed);
    restore_loggers(s, *resumed);
  }
  s.fitted = &module;
  s.fitted_parts = s.parts;
  s.fitted_parts.moves_batches_twice = false;  // that is said of other data

  StopReason reason{};
  run(s, Stage::fit, module, data, [&] {
    if (weights) load_weights(s, *std::exchange(weights, {}), options.strict_loading);
    if (resumed) restore_model(s, *resumed, options.strict_loading);
    load_fit_loaders(s);
    const HParams hparams = hparams_of_run(s);
    make_optimizers(s);
    join_ranks(s);
    if (instead) return instead();
    if (s.parts.tells && s.parts.validation_step && s.val.loaders.empty() && s.options.limit_val_batches.value() > 0)
      s.console.warn("the module has a validation_step, but there is no loader for it; nothing is validated");
    s.call(HookPoint::on_fit_start, &C::on_fit_start, &M::on_fit_start);
    log_hparams(s, resumed ? resumed->seed : s.seed, hparams);
    FitLoop loop(s);
    if (resumed) {
      restore_progress(s, *resumed, options.override_lr);
      resumed.reset();
    } else if (s.train_batches > 0) {
      loop.sanity_check();
    }
    reason = loop.run();
    if (reason != StopReason::signal) s.call(HookPoint::on_fit_end, &C::on_fit_end, &M::on_fit_end);
    share_callbacks(s);
    if (in_job) end_in_job(s, reason);
  });
  s.fitted_data = std::make_unique<FittedData>(data);
  s.lasted = s.time();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  return {.reason = reason,
          .epochs = s.counters.epoch.completed,
          .global_step = s.counters.global_step,
          .seconds = seconds.count(),
          .signal = s.signal,
          .message = s.message};
}

// The weights of a checkpoint, for a run that does not train.
void load_weights_of(TrainerState& s, const std::string& ckpt) {
  if (ckpt.empty()) return;
  const std::optional<Checkpoint> found = find_checkpoint(s, ckpt);
  check(found.has_value(), "ckpt: there is no checkpoint \"{}\"", ckpt);
  s.module->load_state_dict(found->model);
}

}  // namespace

Checkpoint snapshot_after_fit(TrainerState& s, bool weights_only) {
  return snapshot_with(s, *s.fitted_data, weights_only);
}

FitResult train_module(TrainerState& s, TrainingModule& module, DataModule& data, const FitOptions& options) {
  return telling_ranks(s, [&] { return train(s, module, data, options); });
}

std::vector<MetricMap> evaluate_module(TrainerState& s, Stage stage, TrainingModule& module, DataModule& data,
                                       const std::string& ckpt) {
  std::vector<MetricMap> metrics;
  telling_ranks(s, [&] {
    run(s, stage, module, data, [&] {
      load_weights_of(s, ckpt);
      load_evaluation_loaders(s);
      metrics = evaluate(s, stage == Stage::validate ? Loop::validation : Loop::test, Purpose::own_run, s.own_run);
    });
  });
  return metrics;
}

std::vector<std::vector<Batch>> predict_module(TrainerState& s, TrainingModule& module, DataModule& data,
                                               const PredictOptions& options) {
  std::vector<std::vector<Batch>> predictions;
  telling_ranks(s, [&] {
    run(s, Stage::predict, module, data, [&] {
      load_weights_of(s, options.ckpt);
      load_evaluation_loaders(s);
      predictions = predict(s, s.own_run, options);
    });
  });
  return predictions;
}

void run_instead_of_loop(TrainerState& s, Stage stage, TrainingModule& module, const ModuleParts& parts,
                         DataModule& data, const std::function<void()>& instead) {
  check(!s.module, "this Trainer is in a run already");
  s.parts = parts;
  telling_ranks(s, [&] {
    if (stage == Stage::fit) {
      train(s, module, data, {}, instead);
    } else {
      run(s, stage, module, data, [&] {
        load_evaluation_loaders(s);
        instead();
      });
    }
  });
}

}  // namespace v0
}  // namespace anneal
