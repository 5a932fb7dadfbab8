#include "anneal/trainer/trainer.h"

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "anneal/core/autograd.h"
#include "anneal/trainer/batch_norm_update.h"
#include "anneal/trainer/callback_list.h"
#include "anneal/trainer/evaluation_loop.h"
#include "anneal/trainer/fit_loop.h"
#include "anneal/trainer/run_loaders.h"
#include "anneal/trainer/snapshot.h"
#include "anneal/trainer/trainer_state.h"

namespace anneal {
inline namespace v0 {
namespace {

using C = Callback;
using M = TrainingModule;

// What schedules may be made of.
optim::RunNumbers run_numbers(const TrainerState& s) {
  const std::int64_t epochs = *s.options.max_epochs, steps = s.trainer.estimated_stepping_batches();
  const auto known = [](std::int64_t n) { return n >= 0 && n < unknown_size ? std::optional(n) : std::nullopt; };
  return {.num_epochs = known(epochs),
          .train_dataloader_len = known(s.train_batches),
          .eval_dataloader_len = known(s.val.total()),
          .total_steps = known(steps),
          .accumulate_grad_batches = s.options.accumulate_grad_batches};
}

void make_optimizers(TrainerState& s) {
  s.optimizers.clear();
  s.scaler.reset();
  const TrainerOptions& o = s.options;
  s.automatic = s.module->automatic_optimization();
  check<ConfigError>(s.automatic || o.accumulate_grad_batches == 1,
                     "accumulate_grad_batches: expected 1 with manual optimization, got {}; training_step decides when "
                     "to step",
                     o.accumulate_grad_batches);
  check<ConfigError>(s.automatic || o.gradient_clip_val == 0,
                     "gradient_clip_val: expected 0 with manual optimization, got {}; call clip_gradients before step",
                     o.gradient_clip_val);
  const OptimizerConfig config = s.call_module(HookPoint::configure_optimizers, &M::configure_optimizers);
  for (const OptimizerEntry& entry : config.entries()) s.optimizers.emplace_back(entry, run_numbers(s));
  check<ConfigError>(
      !s.automatic || s.optimizers.size() <= 1,
      "configure_optimizers: expected one optimizer, got {}; for more override automatic_optimization to "
      "return false, and step them in training_step",
      s.optimizers.size());
  if (s.optimizers.empty()) s.console.warn("configure_optimizers returned no optimizer; nothing is updated");
  for (ActiveOptimizer& active : s.optimizers)
    if (s.precision.autocast) active.optimizer().keep_twins(*s.precision.autocast);
  if (s.precision.scaled && !s.optimizers.empty()) s.scaler.emplace(o.grad_scaler.value_or(optim::GradScalerOptions{}));
}

// All ranks start from rank 0's weights; it is an error if their models differ in more than those.
void join_ranks(TrainerState& s) {
  if (!s.world) return;
  for (ActiveOptimizer& active : s.optimizers) active.reducer(s.world->group());
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

void log_hparams(TrainerState& s, const HParams& hparams) {
  if (!s.options.enable_autolog_hparams || hparams.empty()) return;
  for (const Shared<Logger>& logger : s.loggers) try {
      logger->log_hyperparams(hparams);
    } catch (const std::exception& error) { s.console.warn(std::string("a logger failed: ") + error.what()); }
}

void check_limits(const TrainerState& s, const Checkpoint& checkpoint) {
  const std::int64_t epochs = *s.options.max_epochs, steps = s.options.max_steps;
  check<ConfigError>(epochs < 0 || checkpoint.counters.epoch.processed <= epochs,
                     "max_epochs: expected at least the {} of the checkpoint {}, got {}",
                     checkpoint.counters.epoch.processed, s.resumed_from.string(), epochs);
  check<ConfigError>(steps < 0 || checkpoint.counters.global_step <= steps,
                     "max_steps: expected at least the {} of the checkpoint {}, got {}",
                     checkpoint.counters.global_step, s.resumed_from.string(), steps);
}

void finalize_loggers(TrainerState& s, std::string_view status) {
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
      s.train.reset();
      s.batches.reset();
      s.stream.clear();
      s.val = {};
    }
  } const attached{s};
  s.attach(&module, &data);
  s.skips_in_a_row = 0;
  s.stop_agreed = false;
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
  finalize_loggers(s, "success");
}

FitResult train_module(TrainerState& s, TrainingModule& module, DataModule& data, const FitOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  s.counters = {};
  s.generator = Generator(s.seed);
  s.stop_requested = false;
  s.resumed_from.clear();
  s.log.clear();
  std::optional<Checkpoint> resumed;
  if (!options.resume.empty()) resumed = find_checkpoint(s, options.resume);
  if (resumed) {
    check_limits(s, *resumed);
    restore_loggers(s, *resumed);
  }

  StopReason reason{};
  run(s, Stage::fit, module, data, [&] {
    if (resumed) restore_model(s, *resumed);
    load_fit_loaders(s);
    const HParams hparams = hparams_of_run(s);
    make_optimizers(s);
    join_ranks(s);
    s.call(HookPoint::on_fit_start, &C::on_fit_start, &M::on_fit_start);
    log_hparams(s, hparams);
    FitLoop loop(s);
    if (resumed) {
      restore_progress(s, *resumed);
      resumed.reset();
    } else if (s.train_batches > 0) {
      loop.sanity_check();
    }
    reason = loop.run();
    s.call(HookPoint::on_fit_end, &C::on_fit_end, &M::on_fit_end);
    share_callbacks(s);
  });
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  return {reason, s.counters.epoch.completed, s.counters.global_step, seconds.count()};
}

// The weights of a checkpoint, for a run that does not train.
void load_weights(TrainerState& s, const std::string& ckpt) {
  if (ckpt.empty()) return;
  const std::optional<Checkpoint> found = find_checkpoint(s, ckpt);
  check(found.has_value(), "ckpt: there is no checkpoint \"{}\"", ckpt);
  s.module->load_state_dict(found->model);
}

std::vector<MetricMap> evaluate_alone(TrainerState& s, Stage stage, TrainingModule& module, DataModule& data,
                                      const std::string& ckpt) {
  std::vector<MetricMap> metrics;
  run(s, stage, module, data, [&] {
    load_weights(s, ckpt);
    const LimitedLoaders loaders = load_evaluation_loaders(s);
    metrics = evaluate(s, stage == Stage::validate ? Loop::validation : Loop::test, Purpose::own_run, loaders);
  });
  return metrics;
}

void check_part(const TrainingModule& module, bool there, const char* part) {
  check<ConfigError>(there, "{}: the module ({}) does not override it, and this run needs it", part,
                     module.type_name());
}

void tell_who_moves_batches(TrainerState& s, const ModuleParts& parts) {
  if (parts.moves_batches_twice)
    s.console.warn("the DataModule's hooks around a batch's way to the device come in place of the module's");
}

void print_metrics(Console& console, const std::string& title, const MetricMap& metrics) {
  std::size_t width = 0;
  for (const auto& [name, value] : metrics) width = std::max(width, name.size());
  console.print(title);
  for (const auto& [name, value] : metrics) {
    char text[32];
    std::snprintf(text, sizeof text, "%.6g", value);
    console.print("  " + name + std::string(width - name.size() + 2, ' ') + text);
  }
}

}  // namespace

std::ostream& operator<<(std::ostream& out, StopReason reason) {
  constexpr const char* names[] = {"max_epochs", "max_steps", "stopped", "no_data"};
  return out << names[static_cast<std::size_t>(reason)];
}

Trainer::Trainer(TrainerOptions options) {
  const bool epochs_unset = !options.max_epochs && options.max_steps == -1 && options.fast_dev_run == 0;
  state_ = std::make_unique<TrainerState>(*this, std::move(options));
  TrainerState& s = *state_;
  set_callbacks(s, with_standard_callbacks(s.options));
  if (s.rank() == 0) s.loggers = s.options.logger.loggers();
  if (s.options.logger.standard() && s.rank() == 0)
    s.loggers.push_back(CsvLogger({.save_dir = s.options.default_root_dir}));
  const bool has_timer = std::any_of(s.options.callbacks.begin(), s.options.callbacks.end(), [](const auto& callback) {
    return dynamic_cast<const Timer*>(callback.get()) != nullptr;
  });
  if (s.options.max_time && has_timer)
    s.console.print("max_time is ignored: the callbacks have a Timer, which decides");
  if (epochs_unset && *s.options.max_epochs >= 0)
    s.console.print(format("max_epochs is not set: training runs for {} epochs", *s.options.max_epochs));
  if (!s.options.seed) s.console.print(format("seed: {}", s.seed));
}

Trainer::~Trainer() = default;

FitResult Trainer::run_fit(TrainingModule& module, const ModuleParts& parts, DataModule& data,
                           const FitOptions& options) {
  TrainerState& s = *state_;
  check(!s.module, "fit: this Trainer is in a run already");
  check_part(module, parts.training_step, "training_step");
  check_part(module, parts.configure_optimizers, "configure_optimizers");
  s.validates = parts.validation_step;
  tell_who_moves_batches(s, parts);
  return telling_ranks(s, [&] { return train_module(s, module, data, options); });
}
FitResult Trainer::run_fit(TrainingModule& module, const ModuleParts& parts, const DataLoader& train,
                           const LoaderSet* val, const FitOptions& options) {
  GivenLoaders data(train, val);
  return run_fit(module, parts, data, options);
}

std::vector<MetricMap> Trainer::run_evaluation(Stage stage, TrainingModule& module, const ModuleParts& parts,
                                               DataModule& data, const EvaluateOptions& options) {
  TrainerState& s = *state_;
  const bool validates = stage == Stage::validate;
  check(!s.module, "{}: this Trainer is in a run already", validates ? "validate" : "test");
  check_part(module, validates ? parts.validation_step : parts.test_step, validates ? "validation_step" : "test_step");
  tell_who_moves_batches(s, parts);
  std::vector<MetricMap> metrics =
      telling_ranks(s, [&] { return evaluate_alone(s, stage, module, data, options.ckpt); });
  for (std::size_t l = 0; options.verbose && l < metrics.size(); ++l)
    print_metrics(s.console,
                  std::string(validates ? "validation metrics" : "test metrics") +
                      (metrics.size() > 1 ? format(" of loader {}", l) : ""),
                  metrics[l]);
  return metrics;
}
std::vector<MetricMap> Trainer::run_evaluation(Stage stage, TrainingModule& module, const ModuleParts& parts,
                                               const LoaderSet& loaders, const EvaluateOptions& options) {
  GivenLoaders data(loaders);
  return run_evaluation(stage, module, parts, data, options);
}

std::vector<std::vector<Batch>> Trainer::run_prediction(TrainingModule& module, const ModuleParts& parts,
                                                        DataModule& data, const PredictOptions& options) {
  TrainerState& s = *state_;
  check(!s.module, "predict: this Trainer is in a run already");
  check_part(module, parts.predict_step, "predict_step");
  tell_who_moves_batches(s, parts);
  return telling_ranks(s, [&] {
    std::vector<std::vector<Batch>> predictions;
    run(s, Stage::predict, module, data, [&] {
      load_weights(s, options.ckpt);
      predictions = anneal::predict(s, load_evaluation_loaders(s), options.return_predictions);
    });
    return predictions;
  });
}
std::vector<std::vector<Batch>> Trainer::run_prediction(TrainingModule& module, const ModuleParts& parts,
                                                        const LoaderSet& loaders, const PredictOptions& options) {
  GivenLoaders data(loaders);
  return run_prediction(module, parts, data, options);
}

void Trainer::log(std::string_view name, double value, const LogOptions& options) {
  state_->log.log(name, value, options);
}
void Trainer::log(std::string_view name, const Tensor& value, const LogOptions& options) {
  check(value.defined() && value.numel() == 1, "log: {}: expected a tensor with one element, got {}", name,
        value.defined() ? format("one of shape {}", value.shape()) : "none");
  state_->log.log(name, value.item(), options);
}
void Trainer::stop() { state_->stop_requested = true; }
bool Trainer::should_stop() const { return state_->stop_requested; }

void Trainer::save_checkpoint(const std::filesystem::path& path) {
  const HookPoint point = state_->log.point();
  check(state_->train && state_->module, "save_checkpoint: there is no fit that runs");
  check(point < HookPoint::training_step || point > HookPoint::optimizer_step,
        "save_checkpoint: not possible in {}, where the batch is half done; on_train_batch_end is the place",
        info(point).name);
  if (is_global_zero()) anneal::save_checkpoint(path, take_snapshot(*state_));
}

void Trainer::set_schedule(optim::Schedule schedule, Interval interval, std::size_t i) {
  state_->optimizers.at(i).set_schedule(std::move(schedule), interval);
}
void Trainer::set_accumulate_grad_batches(std::int64_t batches) {
  check(batches >= 1, "set_accumulate_grad_batches: expected at least 1, got {}", batches);
  check(state_->log.point() == HookPoint::on_train_epoch_start,
        "set_accumulate_grad_batches: expected in on_train_epoch_start, was called in {}",
        info(state_->log.point()).name);
  state_->counters.accumulate = batches;
}
void Trainer::update_batch_norm() {
  check(state_->train && state_->module, "update_batch_norm: there is no fit that runs");
  anneal::update_batch_norm(*state_);
}

void Trainer::print(std::string_view line) { state_->console.print(line); }
Console& Trainer::console() { return state_->console; }

const TrainerOptions& Trainer::options() const { return state_->options; }
Stage Trainer::stage() const { return state_->stage; }
std::int64_t Trainer::current_epoch() const { return state_->counters.epoch.completed; }
std::int64_t Trainer::global_step() const { return state_->counters.global_step; }
std::int64_t Trainer::skipped_steps() const { return state_->scaler ? state_->scaler->skipped_steps() : 0; }
std::int64_t Trainer::batch_idx() const { return state_->counters.batch.ready - 1; }
std::int64_t Trainer::total_batch_idx() const {
  const Counters& c = state_->counters;
  return c.total_batches + (c.batch.ready - c.batch.processed) - 1;
}
bool Trainer::is_last_batch() const { return state_->counters.batch.ready == state_->counters.epoch_batches; }
std::int64_t Trainer::num_training_batches() const { return state_->train_batches; }
std::int64_t Trainer::num_val_batches() const { return state_->val.total(); }
std::int64_t Trainer::num_sanity_val_batches() const {
  std::int64_t total = 0;
  for (const std::int64_t batches : state_->val.batches)
    total += std::min(state_->sanity_batches_of(batches), unknown_size - total);
  return total;
}
std::int64_t Trainer::num_test_batches() const { return state_->test_batches; }
std::int64_t Trainer::num_predict_batches() const { return state_->predict_batches; }
std::int64_t Trainer::num_checks() const { return state_->counters.checks; }
std::int64_t Trainer::estimated_stepping_batches() const {
  const TrainerOptions& o = state_->options;
  if (*o.max_epochs == -1 || state_->train_batches == unknown_size) return o.max_steps;
  const auto steps_with = [&](std::int64_t k) { return (state_->train_batches + k - 1) / k; };
  const std::int64_t epochs = std::max<std::int64_t>(*o.max_epochs, 1);
  std::int64_t steps = steps_with(o.accumulate_grad_batches) * epochs;
  for (const Shared<Callback>& callback : state_->callbacks)
    if (const auto* scheduler = dynamic_cast<const GradientAccumulationScheduler*>(callback.get())) {
      steps = 0;
      for (std::int64_t epoch = 0; epoch < epochs; ++epoch) steps += steps_with(scheduler->factor(epoch));
    }
  return o.max_steps == -1 ? steps : std::min(steps, o.max_steps);
}

int Trainer::world_size() const { return state_->ranks(); }
int Trainer::global_rank() const { return state_->rank(); }
int Trainer::local_rank() const { return state_->world ? state_->world->local_rank() : 0; }
bool Trainer::is_global_zero() const { return global_rank() == 0; }
Device Trainer::device() const { return state_->device; }

const MetricMap& Trainer::callback_metrics() const { return state_->log.callback_metrics(); }
const MetricMap& Trainer::logged_metrics() const { return state_->log.logged_metrics(); }
const MetricMap& Trainer::progress_bar_metrics() const { return state_->log.progress_bar_metrics(); }
const std::vector<Shared<Callback>>& Trainer::callbacks() const { return state_->callbacks; }
const std::vector<Shared<Logger>>& Trainer::loggers() const { return state_->loggers; }
std::filesystem::path Trainer::log_dir() const {
  return state_->loggers.empty() ? state_->options.default_root_dir : state_->loggers.front()->log_dir();
}
const std::filesystem::path& Trainer::resumed_from() const { return state_->resumed_from; }
std::vector<optim::Optimizer*> Trainer::optimizers() const {
  std::vector<optim::Optimizer*> all;
  for (const ActiveOptimizer& active : state_->optimizers) all.push_back(&active.optimizer());
  return all;
}
optim::Optimizer* Trainer::optimizer() const {
  return state_->optimizers.empty() ? nullptr : &state_->optimizers[0].optimizer();
}
std::int64_t Trainer::optimizer_steps(std::size_t i) const { return state_->optimizers.at(i).steps; }
const OptimizerEntry& Trainer::optimizer_entry(std::size_t i) const { return state_->optimizers.at(i).entry(); }
std::uint64_t Trainer::seed() const { return state_->seed; }
Generator& Trainer::generator() { return state_->generator; }

}  // namespace v0
}  // namespace anneal
