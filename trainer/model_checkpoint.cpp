#include "anneal/trainer/model_checkpoint.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

#include "anneal/core/file.h"
#include "anneal/trainer/checkpoint.h"
#include "anneal/trainer/checkpoint_name.h"
#include "anneal/trainer/checkpoint_writer.h"
#include "anneal/trainer/console.h"
#include "anneal/trainer/trainer.h"

namespace anneal {
inline namespace v0 {
namespace {

namespace fs = std::filesystem;
constexpr double none = std::numeric_limits<double>::quiet_NaN();

// Within a handler: on_save_error says whether it matters.
void save_failed(Trainer& trainer, const std::exception& error) {
  if (trainer.options().on_save_error == "throw") throw;
  trainer.console().warn(std::string("a checkpoint was not written: ") + error.what());
}

std::vector<std::string> texts(const std::vector<ModelCheckpoint::Kept>& kept) {
  std::vector<std::string> paths;
  for (const auto& k : kept) paths.push_back(k.path.string());
  return paths;
}

}  // namespace

SaveLast::SaveLast(const char* text) : on_(true), links_(true) {
  check<ConfigError>(std::string_view(text) == "link", "save_last: expected true, false or \"link\", got \"{}\"", text);
}

ModelCheckpoint::ModelCheckpoint(ModelCheckpointOptions options)
    : options_(std::move(options)), best_score_(none), current_score_(none) {
  const auto& o = options_;
  check<ConfigError>(o.save_top_k >= -1, "save_top_k: expected at least -1, got {}", o.save_top_k);
  check<ConfigError>(!o.monitor.empty() || o.save_top_k <= 1,
                     "save_top_k: expected -1, 0 or 1 without a monitor, got {}", o.save_top_k);
  check<ConfigError>(o.mode == "min" || o.mode == "max", "mode: expected \"min\" or \"max\", got \"{}\"", o.mode);
  const std::int64_t epochs = o.every_n_epochs.value_or(0), steps = o.every_n_train_steps;
  check<ConfigError>(epochs >= 0, "every_n_epochs: expected at least 0, got {}", epochs);
  check<ConfigError>(steps >= 0, "every_n_train_steps: expected at least 0, got {}", steps);
  check<ConfigError>((epochs > 0) + (steps > 0) + o.train_time_interval.has_value() <= 1,
                     "every_n_train_steps, every_n_epochs, train_time_interval: expected at most one of them");
  every_n_epochs_ = o.every_n_epochs.value_or(steps > 0 || o.train_time_interval ? 0 : 1);
}

fs::path ModelCheckpoint::folder_of(const fs::path& run) const {
  return options_.dirpath.empty() ? run / "checkpoints" : options_.dirpath;
}

void ModelCheckpoint::setup(Trainer& trainer, TrainingModule&, Stage stage) {
  training_ = false;
  if (stage != Stage::fit) return;
  folder_ = folder_of(trainer.log_dir());
  writer_ = std::make_shared<CheckpointWriter>(options_.async_save);
  written_.clear();
  kept_.clear();
  best_path_.clear();
  last_path_.clear();
  best_score_ = current_score_ = none;
  saved_step_ = 0;
  waits_ = continues_ = false;
  warning_.clear();
  std::error_code missing;
  if (trainer.resumed_from().empty() && fs::directory_iterator(folder_, missing) != fs::directory_iterator())
    trainer.console().warn(format("the folder of the checkpoints is not empty: {}", folder_.string()));
  remove_left_temporaries(folder_);
}

bool ModelCheckpoint::saves_at_epoch_end(const Trainer& trainer) const {
  if (options_.save_on_train_epoch_end) return *options_.save_on_train_epoch_end;
  if (trainer.num_val_batches() == 0) return true;
  return trainer.options().check_val_every_n_epoch == 1 && trainer.options().val_check_interval.is_all();
}

bool ModelCheckpoint::may_save(const Trainer& trainer) const {
  return trainer.stage() == Stage::fit && trainer.options().fast_dev_run == 0 && trainer.global_step() > 0 &&
         trainer.global_step() != saved_step_;
}

void ModelCheckpoint::on_train_start(Trainer& trainer, TrainingModule&) {
  if (!warning_.empty()) trainer.console().warn(warning_);
  training_ = true;
  last_step_ = trainer.global_step();
  saved_at_ = Clock::now();
}
void ModelCheckpoint::on_train_batch_end(Trainer& trainer, TrainingModule&, const Tensor&, const Batch&, StepContext&) {
  const std::int64_t step = trainer.global_step();
  const bool stepped = std::exchange(last_step_, step) != step;
  bool due = options_.every_n_train_steps > 0 && stepped && step % options_.every_n_train_steps == 0;
  if (const auto interval = options_.train_time_interval)
    due = std::chrono::duration<double>(Clock::now() - saved_at_).count() >= interval->seconds();
  waits_ = due && trainer.check_follows();
  if (due && !waits_) save(trainer);
}
void ModelCheckpoint::on_train_epoch_end(Trainer& trainer, TrainingModule&) {
  if (saves_at_epoch_end(trainer)) save_epoch(trainer);
}
void ModelCheckpoint::on_validation_end(Trainer& trainer, TrainingModule&) {
  if (trainer.check_broke_off()) return;
  if (std::exchange(waits_, false)) save(trainer);
  else if (!saves_at_epoch_end(trainer)) save_epoch(trainer);
}
void ModelCheckpoint::on_train_end(Trainer& trainer, TrainingModule&) {
  if (options_.save_last && may_save(trainer)) save_last_alone(trainer);
  finish_writing(trainer);
}
// Also in the middle of an accumulation window, and without save_last.
void ModelCheckpoint::on_signal(Trainer& trainer, TrainingModule&, int) {
  if (trainer.options().fast_dev_run == 0) save_last_alone(trainer);
  finish_writing(trainer);
}
void ModelCheckpoint::on_exception(Trainer& trainer, TrainingModule&, const std::exception_ptr&) {
  if (!training_) return;
  if (options_.save_on_exception && may_save(trainer)) save_beside_best(trainer);
  finish_writing(trainer);
}

// Where a run goes back to in its middle, the steps after it are made again.
void ModelCheckpoint::on_load_checkpoint(Trainer&, TrainingModule&, Checkpoint& checkpoint) {
  last_step_ = checkpoint.counters.global_step;
}

void ModelCheckpoint::save_epoch(Trainer& trainer) {
  if (every_n_epochs_ == 0) return;
  if ((trainer.current_epoch() + 1) % every_n_epochs_ == 0) save(trainer);
  else if (options_.save_last && may_save(trainer)) save_last_alone(trainer);
}

void ModelCheckpoint::save(Trainer& trainer) {
  if (!may_save(trainer)) return;
  finish_writing(trainer);
  before_ = record();
  const Change change = options_.save_top_k != 0 ? save_top_k(trainer) : Change{};
  if (options_.save_last) save_last(trainer, change.written);
  if (change.dropped != change.written) remove(trainer, change.dropped);
  saved_step_ = trainer.global_step();
  saved_at_ = Clock::now();
  writer_->begin();
}

// Another file, whatever the best are.
void ModelCheckpoint::save_beside_best(Trainer& trainer) {
  finish_writing(trainer);
  before_ = record();
  const fs::path path = new_path(trainer, {});
  saved_step_ = trainer.global_step();
  if (!write(trainer, path)) return;
  tell(trainer, path);
  if (options_.save_last) save_last(trainer, path);
  writer_->begin();
}

bool ModelCheckpoint::better(double a, double b) const {
  if (std::isnan(a) || std::isnan(b)) return !std::isnan(a);
  return options_.mode == "min" ? a < b : a > b;
}

std::size_t ModelCheckpoint::worst() const {
  std::size_t found = 0;
  for (std::size_t i = 1; i < kept_.size() && !options_.monitor.empty(); ++i)
    if (!better(kept_[i].score, kept_[found].score)) found = i;
  return found;
}
fs::path ModelCheckpoint::kth_best_model_path() const { return kept_.empty() ? fs::path() : kept_[worst()].path; }

ModelCheckpoint::Change ModelCheckpoint::save_top_k(Trainer& trainer) {
  double score = none;
  if (!options_.monitor.empty()) {
    const MetricMap& metrics = trainer.callback_metrics();
    const double* value = trainer.monitored(options_.monitor);
    if (!value) {
      // Before the first check it may still come.
      check<ConfigError>(trainer.num_val_batches() > 0 && trainer.num_checks() == 0,
                         "monitor: there is no metric {}; there are: {}", options_.monitor, metrics.names());
      trainer.console().warn(format("monitor: {} is not there yet; nothing was saved", options_.monitor));
      return {};
    }
    current_score_ = score = *value;
  }
  std::optional<std::size_t> replaced;
  if (options_.save_top_k > 0 && static_cast<std::int64_t>(kept_.size()) == options_.save_top_k) {
    replaced = worst();
    if (!options_.monitor.empty() && !better(score, kept_[*replaced].score)) {
      tell(trainer, {});
      return {};
    }
  }
  // The file holds the state that counts it in.
  const fs::path dropped = replaced ? kept_[*replaced].path : fs::path();
  const fs::path path = new_path(trainer, dropped);
  keep({path, score}, replaced);
  saved_step_ = trainer.global_step();
  try {
    if (!write(trainer, path)) {
      record() = before_;
      return {};
    }
  } catch (...) {
    record() = before_;
    throw;
  }
  tell(trainer, path);
  return {path, dropped};
}

void ModelCheckpoint::tell(Trainer& trainer, const fs::path& written) const {
  if (!options_.verbose) return;
  const std::string place = format("epoch {}, step {}: ", trainer.current_epoch(), trainer.global_step());
  const std::string metric = options_.monitor.empty() ? "" : format("{} is {}", options_.monitor, current_score_);
  if (written.empty()) return trainer.print(format("{}{}, not among the best {}", place, metric, options_.save_top_k));
  const std::string best = options_.monitor.empty() ? "" : format("{}, the best is {}; ", metric, best_score_);
  trainer.print(format("{}{}saved as {}", place, best, written.string()));
}

void ModelCheckpoint::keep(Kept added, std::optional<std::size_t> replaced) {
  if (replaced) kept_.erase(kept_.begin() + static_cast<std::ptrdiff_t>(*replaced));
  kept_.push_back(std::move(added));
  if (options_.monitor.empty()) {
    best_path_ = kept_.back().path;
    return;
  }
  best_path_.clear();
  best_score_ = none;
  for (const Kept& k : kept_)
    if (better(k.score, best_score_)) {
      best_path_ = k.path;
      best_score_ = k.score;
    }
}

void ModelCheckpoint::save_last_alone(Trainer& trainer) {
  finish_writing(trainer);
  before_ = record();
  save_last(trainer);
  writer_->begin();
}

void ModelCheckpoint::save_last(Trainer& trainer, const fs::path& written) {
  for (int version = 0; last_path_.empty(); ++version) {
    fs::path path = path_of("last", version);
    if (!is_taken(trainer, path)) last_path_ = std::move(path);
  }
  saved_step_ = trainer.global_step();
  if (options_.save_last.links() && !written.empty()) writer_->link(last_path_, written);
  else write(trainer, last_path_);
}

// Whether that went well, or is to be done.
bool ModelCheckpoint::write(Trainer& trainer, const fs::path& path) {
  try {
    fs::create_directories(folder_);
    writer_->save(trainer, path, {.weights_only = options_.save_weights_only});
  } catch (const std::exception& error) {
    save_failed(trainer, error);
    return false;
  }
  if (writer_->is_async()) written_.push_back(path);
  else tell_loggers(trainer, path);
  return true;
}

void ModelCheckpoint::finish_writing(Trainer& trainer) {
  const std::vector<fs::path> written = std::exchange(written_, {});
  try {
    writer_->finish();
  } catch (const std::exception& error) {
    record() = before_;
    save_failed(trainer, error);
    return;
  }
  for (const fs::path& path : written) tell_loggers(trainer, path);
}

void ModelCheckpoint::tell_loggers(const Trainer& trainer, const fs::path& written) {
  for (const Shared<Logger>& logger : trainer.loggers()) logger->after_save_checkpoint(written);
}

fs::path ModelCheckpoint::path_of(const std::string& name, int version) const {
  return folder_ / (name + (version > 0 ? "-v" + std::to_string(version) : std::string()) + options_.extension);
}

fs::path ModelCheckpoint::new_path(const Trainer& trainer, const fs::path& replaced) const {
  const std::string name = checkpoint_name(options_.filename, options_.auto_insert_metric_name, trainer);
  fs::path path = path_of(name);
  check(path.lexically_normal().parent_path() == folder_.lexically_normal() ||
            folder_.lexically_normal().filename().empty(),
        "filename: {} lies outside of {}", name, folder_.string());
  for (int version = 1; path != replaced && is_taken(trainer, path); ++version) path = path_of(name, version);
  return path;
}

bool ModelCheckpoint::holds(const fs::path& path) const {
  std::error_code missing;
  return std::ranges::find(kept_, path, &Kept::path) != kept_.end() || path == last_path_ ||
         fs::equivalent(path, last_path_, missing);
}

bool ModelCheckpoint::is_anothers(const Trainer& trainer, const fs::path& path) const {
  return std::ranges::any_of(trainer.callbacks(), [&](const auto& callback) {
    const auto* other = dynamic_cast<const ModelCheckpoint*>(callback.get());
    return other && other != this && other->holds(path);
  });
}

// What was written after the file that the run resumed from is the run's own, of the time before it was interrupted.
bool ModelCheckpoint::is_taken(const Trainer& trainer, const fs::path& path) const {
  if (is_anothers(trainer, path)) return true;
  if (!options_.enable_version_counter || !fs::exists(path)) return false;
  const fs::path& source = trainer.resumed_from();
  if (!continues_ || source.empty() || fs::equivalent(path, source)) return true;
  if (std::any_of(kept_.begin(), kept_.end(), [&](const Kept& k) { return k.path == path; })) return true;
  return fs::last_write_time(path) < fs::last_write_time(source);
}

// Never a file that the run came from, nor one outside of the folder or another's, nor what `last` points to.
void ModelCheckpoint::remove(const Trainer& trainer, const fs::path& path) {
  std::error_code gone;
  if (path.empty() || path.parent_path() != folder_ || is_anothers(trainer, path) ||
      fs::equivalent(path, trainer.resumed_from(), gone))
    return;
  writer_->perform([&io = trainer.checkpoint_io(), path, last = last_path_] {
    std::error_code missing;
    if (!fs::is_symlink(last, missing) || !fs::equivalent(path, last, missing)) io.remove(path);
  });
}

std::vector<fs::path> ModelCheckpoint::last_files(const fs::path& run) const {
  std::vector<fs::path> paths;
  std::error_code missing;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_of(run), missing)) {
    const std::string name = entry.path().filename().string();
    const bool is_last = name == "last" + options_.extension || name.starts_with("last-v");
    if (is_last && name.ends_with(options_.extension) && fs::exists(entry.path())) paths.push_back(entry.path());
  }
  return paths;
}

std::vector<fs::path> ModelCheckpoint::files() const {
  if (writer_) writer_->wait();
  std::vector<fs::path> paths;
  for (const Kept& k : kept_) paths.push_back(k.path);
  if (!last_path_.empty() && fs::exists(last_path_)) paths.push_back(last_path_);
  return paths;
}

std::string ModelCheckpoint::state_key() const {
  const auto& o = options_;
  std::string key = format("ModelCheckpoint monitor={} mode={} every_n_epochs={}", o.monitor, o.mode, every_n_epochs_);
  if (o.every_n_train_steps > 0) key += format(" every_n_train_steps={}", o.every_n_train_steps);
  if (o.train_time_interval) key += format(" train_time_interval={}", o.train_time_interval->seconds());
  return key;
}

StateMap ModelCheckpoint::state() const {
  std::vector<double> scores;
  for (const Kept& k : kept_) scores.push_back(k.score);
  return {{"folder", folder_.string()},     {"best_path", best_path_.string()},
          {"best_score", best_score_},      {"last_path", last_path_.string()},
          {"kept", texts(kept_)},           {"scores", scores},
          {"saved_step", saved_step_},      {"waits", std::int64_t{waits_}},
          {"current_score", current_score_}};
}

void ModelCheckpoint::load_state(const StateMap& state) {
  best_path_ = std::get<std::string>(state.at("best_path"));
  best_score_ = std::get<double>(state.at("best_score"));
  if (const std::string folder = std::get<std::string>(state.at("folder")); folder != folder_.string()) {
    warning_ = format("the checkpoints of the resumed run are in {}; of them only the best is known here", folder);
    return;
  }
  continues_ = true;
  last_path_ = std::get<std::string>(state.at("last_path"));
  saved_step_ = std::get<std::int64_t>(state.at("saved_step"));
  if (const auto score = state.find("current_score"); score != state.end())
    current_score_ = std::get<double>(score->second);
  if (const auto waits = state.find("waits"); waits != state.end()) waits_ = std::get<std::int64_t>(waits->second) != 0;
  const auto& paths = std::get<std::vector<std::string>>(state.at("kept"));
  const auto& scores = std::get<std::vector<double>>(state.at("scores"));
  kept_.clear();
  for (std::size_t i = 0; i < std::min(paths.size(), scores.size()); ++i) {
    if (fs::exists(paths[i])) kept_.push_back({paths[i], scores[i]});
    else warning_ += format("{}a checkpoint of the resumed run is gone: {}", warning_.empty() ? "" : "\n", paths[i]);
  }
}

}  // namespace v0
}  // namespace anneal
