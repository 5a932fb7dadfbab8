#include "anneal/trainer/trainer.h"

#include <algorithm>
#include <cstdio>

#include "anneal/dist/shared_tensors.h"
#include "anneal/trainer/batch_norm_update.h"
#include "anneal/trainer/callback_list.h"
#include "anneal/trainer/find_checkpoint.h"
#include "anneal/trainer/run.h"
#include "anneal/trainer/run_loaders.h"
#include "anneal/trainer/snapshot.h"
#include "anneal/trainer/tensorboard_logger.h"

namespace anneal {
inline namespace v0 {
namespace {

// Of a run that `what` began.
void enter(TrainerState& s, const char* what, const ModuleParts& parts) {
  check(!s.module, "{}: this Trainer is in a run already", what);
  s.parts = parts;
  if (parts.moves_batches_twice)
    s.console.warn("the DataModule's hooks around a batch's way to the device come in place of the module's");
}

void check_part(const TrainingModule& module, bool there, const char* part) {
  check<ConfigError>(there, "{}: the module ({}) does not override it, and this run needs it", part,
                     module.type_name());
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
  constexpr const char* names[] = {"max_epochs", "max_steps", "stopped", "no_data", "signal", "bad_number"};
  return out << names[static_cast<std::size_t>(reason)];
}

Trainer::Trainer(TrainerOptions options) {
  const std::vector<std::string> notices = notices_of(options);
  const bool epochs_unset = !options.max_epochs && options.max_steps == -1 && options.fast_dev_run == 0;
  state_ = std::make_unique<TrainerState>(*this, std::move(options));
  TrainerState& s = *state_;
  set_callbacks(s, with_standard_callbacks(s.options, s.console.is_rich()));
  if (s.rank() == 0) s.loggers = s.options.logger.loggers();
  if (s.options.logger.standard() && s.rank() == 0) {
    TensorBoardLogger tensorboard({.save_dir = s.options.default_root_dir});
    CsvLogger csv({}, tensorboard.folder());
    s.loggers = {std::move(tensorboard), std::move(csv)};
  }
  const bool has_timer = std::any_of(s.options.callbacks.begin(), s.options.callbacks.end(), [](const auto& callback) {
    return dynamic_cast<const Timer*>(callback.get()) != nullptr;
  });
  if (s.options.max_time && has_timer)
    s.console.print("max_time is ignored: the callbacks have a Timer, which decides");
  if (epochs_unset && *s.options.max_epochs >= 0)
    s.console.print(format("max_epochs is not set: training runs for {} epochs", *s.options.max_epochs));
  for (const std::string& notice : notices) s.console.print(notice);
  if (!s.options.seed) s.console.print(format("seed: {}", s.seed));
}

Trainer::~Trainer() = default;

FitResult Trainer::run_fit(TrainingModule& module, const ModuleParts& parts, DataModule& data,
                           const FitOptions& options) {
  enter(*state_, "fit", parts);
  check_part(module, parts.training_step, "training_step");
  check_part(module, parts.configure_optimizers, "configure_optimizers");
  return train_module(*state_, module, data, options);
}
FitResult Trainer::run_fit(TrainingModule& module, const ModuleParts& parts, const DataLoader* train,
                           const LoaderSet* val, const FitOptions& options) {
  GivenLoaders data(module, train, val);
  return run_fit(module, parts, data, options);
}

void Trainer::complete(const char* what, Subject& subject, std::string& ckpt) {
  TrainerState& s = *state_;
  if (subject.module) return;
  check(s.fitted, "{}: expected a module, as this Trainer has fitted none", what);
  subject = {s.fitted, s.fitted_parts};
  if (!ckpt.empty()) return;
  const std::string best = best_checkpoint(s);
  if (best.empty()) return;
  ckpt = "best";
  s.console.print(format("{}: the module has the weights of its best checkpoint, {}", what, best));
}

std::vector<MetricMap> Trainer::run_evaluation(Stage stage, Subject subject, DataModule& data,
                                               EvaluateOptions options) {
  const bool validates = stage == Stage::validate;
  const char* const what = validates ? "validate" : "test";
  complete(what, subject, options.ckpt);
  const ModuleParts& parts = subject.parts;
  enter(*state_, what, parts);
  check_part(*subject.module, validates ? parts.validation_step : parts.test_step,
             validates ? "validation_step" : "test_step");
  std::vector<MetricMap> metrics = evaluate_module(*state_, stage, *subject.module, data, options.ckpt);
  for (std::size_t l = 0; options.verbose && l < metrics.size(); ++l)
    print_metrics(state_->console,
                  std::string(validates ? "validation metrics" : "test metrics") +
                      (metrics.size() > 1 ? format(" of loader {}", l) : ""),
                  metrics[l]);
  return metrics;
}
std::vector<MetricMap> Trainer::run_evaluation(Stage stage, Subject subject, const LoaderSet* loaders,
                                               EvaluateOptions options) {
  complete(stage == Stage::validate ? "validate" : "test", subject, options.ckpt);
  GivenLoaders data(*subject.module, nullptr, loaders);
  return run_evaluation(stage, subject, data, options);
}

std::vector<std::vector<Batch>> Trainer::run_prediction(Subject subject, DataModule& data, PredictOptions options) {
  complete("predict", subject, options.ckpt);
  enter(*state_, "predict", subject.parts);
  check_part(*subject.module, subject.parts.predict_step, "predict_step or forward");
  return predict_module(*state_, *subject.module, data, options);
}
std::vector<std::vector<Batch>> Trainer::run_prediction(Subject subject, const LoaderSet* loaders,
                                                        PredictOptions options) {
  complete("predict", subject, options.ckpt);
  GivenLoaders data(*subject.module, nullptr, loaders);
  return run_prediction(subject, data, options);
}
std::vector<Batch> Trainer::predict_one(Subject subject, const DataLoader& loader, const PredictOptions& options) {
  const LoaderSet set(loader);
  return std::move(run_prediction(std::move(subject), &set, options)[0]);
}

void Trainer::log(std::string_view name, double value, const LogOptions& options) {
  state_->log.log(name, value, options);
}
void Trainer::log(std::string_view name, const Tensor& value, const LogOptions& options) {
  check(value.defined(), "log: {}: expected a tensor with one element, got none", name);
  check(value.numel() == 1, "log: {}: expected a tensor with one element, got one of shape {}", name, value.shape());
  state_->log.log(name, HostValue(value), options);
}
void Trainer::log(std::string_view name, Metric& metric, const LogOptions& options) {
  state_->log.log(name, metric, options);
}
void Trainer::log_dict(const MetricMap& values, const LogOptions& options) {
  for (const auto& [name, value] : values) log(name, value, options);
}
void Trainer::stop() { state_->stop_requested = true; }
bool Trainer::should_stop() const { return state_->stop_requested; }

namespace {

void check_may_save(const TrainerState& s, const char* what = "save_checkpoint") {
  if (!s.module && s.fitted_data) return;
  const HookPoint point = s.log.point();
  check(s.train && s.module, "{}: there is no fit that runs", what);
  check(point < HookPoint::training_step || point > HookPoint::optimizer_step,
        "{}: not possible in {}, where the batch is half done; on_train_batch_end is the place", what,
        info(point).name);
}

Checkpoint snapshot_of(TrainerState& s, const SaveOptions& options) {
  Checkpoint c = s.module ? take_snapshot(s, options.weights_only) : snapshot_after_fit(s, options.weights_only);
  c.given = options.extra;
  if (!options.extra_tensors.empty()) c.extra[Checkpoint::given_section] = options.extra_tensors;
  return c;
}

bool writes(const Trainer& trainer, const SaveOptions& options) {
  return trainer.is_global_zero() || (options.save_per_node && trainer.local_rank() == 0);
}

}  // namespace

void Trainer::save_checkpoint(const std::filesystem::path& path, const SaveOptions& options) {
  check_may_save(*state_);
  if (writes(*this, options)) state_->checkpoint_io->save(path, snapshot_of(*state_, options));
}

std::function<void()> Trainer::save_checkpoint_later(const std::filesystem::path& path, const SaveOptions& options) {
  check_may_save(*state_);
  if (!writes(*this, options)) return [] {};
  auto checkpoint = std::make_shared<Checkpoint>(snapshot_of(*state_, options));
  own_tensors(*checkpoint);
  return [io = state_->checkpoint_io, checkpoint, path] { io->save(path, *checkpoint); };
}

Extras Trainer::load_checkpoint(const std::filesystem::path& path, const LoadOptions& options) {
  check_may_save(*state_, "load_checkpoint");
  Checkpoint c = state_->checkpoint_io->load(path);
  (state_->module ? state_->module : state_->fitted)->load_state_dict(c.model);
  if (options.load_optimizer) restore_optimizers(*state_, c);
  return {std::move(c.given), std::move(c.extra[Checkpoint::given_section])};
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

void Trainer::log_row(const MetricMap& row, std::int64_t x) { state_->write_row(row, x); }
void Trainer::print(std::string_view line) { state_->console.print(line); }
CheckpointIO& Trainer::checkpoint_io() const { return *state_->checkpoint_io; }
Console& Trainer::console() { return state_->console; }
Profiler* Trainer::profiler() const { return state_->profiler.get(); }

const TrainerOptions& Trainer::options() const { return state_->options; }
Stage Trainer::stage() const { return state_->stage; }
RunStatus Trainer::status() const { return state_->status; }
std::int64_t Trainer::current_epoch() const { return state_->counters.epoch.completed; }
std::int64_t Trainer::global_step() const { return state_->counters.global_step; }
std::int64_t Trainer::skipped_steps() const { return state_->scaler ? state_->scaler->skipped_steps() : 0; }
std::int64_t Trainer::bad_windows() const { return state_->bad_windows; }
std::int64_t Trainer::batch_idx() const { return state_->counters.batch.ready - 1; }
std::int64_t Trainer::total_batch_idx() const {
  const Counters& c = state_->counters;
  return c.total_batches + (c.batch.ready - c.batch.processed) - 1;
}
bool Trainer::is_last_batch() const { return state_->counters.batch.ready == state_->counters.epoch_batches; }
bool Trainer::check_follows() const { return state_->check_follows; }
bool Trainer::check_broke_off() const { return state_->check_broke_off; }
std::int64_t Trainer::num_training_batches() const { return state_->train_batches; }
std::int64_t Trainer::num_val_batches(std::optional<std::size_t> loader) const { return state_->val.number(loader); }
std::int64_t Trainer::num_sanity_val_batches(std::optional<std::size_t> loader) const {
  return state_->sanity_loaders().number(loader);
}
std::int64_t Trainer::num_test_batches(std::optional<std::size_t> loader) const {
  return stage() == Stage::test ? state_->own_run.number(loader) : 0;
}
std::int64_t Trainer::num_predict_batches(std::optional<std::size_t> loader) const {
  return stage() == Stage::predict ? state_->own_run.number(loader) : 0;
}
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

TensorDataset Trainer::shared_dataset(const std::function<std::vector<NamedTensor>()>& make) {
  return TensorDataset(state_->world ? dist::share_tensors(*state_->world, make) : make());
}

int Trainer::world_size() const { return state_->ranks(); }
int Trainer::global_rank() const { return state_->rank(); }
int Trainer::local_rank() const { return state_->world ? state_->world->local_rank() : 0; }
int Trainer::node_rank() const { return state_->world ? state_->world->node() : 0; }
bool Trainer::is_global_zero() const { return global_rank() == 0; }
Collective* Trainer::group() const { return state_->world ? &state_->world->group() : nullptr; }
Device Trainer::device() const { return state_->device; }

const MetricMap& Trainer::callback_metrics() const { return state_->log.callback_metrics(); }
const MetricMap& Trainer::logged_metrics() const { return state_->log.logged_metrics(); }
const MetricMap& Trainer::progress_bar_metrics() const { return state_->log.progress_bar_metrics(); }
const double* Trainer::monitored(std::string_view name) { return state_->log.monitored(name); }
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
void Trainer::set_max_epochs(std::int64_t max_epochs) {
  check(!state_->module, "set_max_epochs: not possible during a run");
  TrainerOptions options = state_->options;
  options.max_epochs = max_epochs;
  state_->options = resolve(std::move(options));
}
void Trainer::set_max_steps(std::int64_t max_steps) {
  check(!state_->module, "set_max_steps: not possible during a run");
  TrainerOptions options = state_->options;
  options.max_steps = max_steps;
  state_->options = resolve(std::move(options));
}
Generator& Trainer::generator() { return state_->generator; }

}  // namespace v0
}  // namespace anneal
