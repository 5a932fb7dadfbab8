#include "anneal/trainer/model_checkpoint.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <limits>
#include <tuple>

#include "anneal/trainer/console.h"
#include "anneal/trainer/trainer.h"

namespace anneal {
inline namespace v0 {
namespace {

namespace fs = std::filesystem;
constexpr const char* extension = ".safetensors";
constexpr double none = std::numeric_limits<double>::quiet_NaN();

// 1.0, 0.25: the shortest that reads back equal.
std::string text_of(double value) {
  char text[32];
  std::string s(text, std::to_chars(std::begin(text), std::end(text), value).ptr);
  return s.find_first_of(".einf") == std::string::npos ? s + ".0" : s;
}

// By a format such as "02d" or ".3f".
std::string text_of(double value, const std::string& key, const std::string& spec) {
  const std::size_t digits = spec.find_first_not_of("0123456789.");
  const bool good = digits != std::string::npos && digits + 1 == spec.size() &&
                    std::string("dfeg").find(spec.back()) != std::string::npos && spec.size() <= 6;
  check<ConfigError>(good, "filename: {}: the format is \"{}\"; expected one like d, 02d, .2f, .3e", key, spec);
  char text[400];
  if (spec.back() == 'd')
    std::snprintf(text, sizeof text, ("%" + spec.substr(0, digits) + "lld").c_str(), static_cast<long long>(value));
  else std::snprintf(text, sizeof text, ("%" + spec).c_str(), value);
  return text;
}

bool is_last_file(const fs::path& path) {
  const std::string stem = path.stem().string();
  return path.extension() == extension && (stem == "last" || stem.starts_with("last-v"));
}

void add_last_files(const fs::path& folder, std::vector<fs::path>& files) {
  std::error_code missing;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, missing))
    if (is_last_file(entry.path())) files.push_back(entry.path());
}

std::vector<std::string> texts(const std::vector<ModelCheckpoint::Kept>& kept) {
  std::vector<std::string> paths;
  for (const auto& k : kept) paths.push_back(k.path.string());
  return paths;
}

}  // namespace

ModelCheckpoint::ModelCheckpoint(ModelCheckpointOptions options) : options_(std::move(options)), best_score_(none) {
  const auto& o = options_;
  check<ConfigError>(o.save_top_k >= -1, "save_top_k: expected at least -1, got {}", o.save_top_k);
  check<ConfigError>(!o.monitor.empty() || o.save_top_k <= 1,
                     "save_top_k: expected -1, 0 or 1 without a monitor, got {}", o.save_top_k);
  check<ConfigError>(o.mode == "min" || o.mode == "max", "mode: expected \"min\" or \"max\", got \"{}\"", o.mode);
  check<ConfigError>(o.every_n_epochs >= 0, "every_n_epochs: expected at least 0, got {}", o.every_n_epochs);
}

fs::path ModelCheckpoint::folder(const Trainer& trainer) const {
  return options_.dirpath.empty() ? trainer.log_dir() / "checkpoints" : options_.dirpath;
}

void ModelCheckpoint::setup(Trainer& trainer, TrainingModule&, Stage stage) {
  if (stage != Stage::fit) return;
  folder_ = folder(trainer);
  kept_.clear();
  best_path_.clear();
  last_path_.clear();
  best_score_ = none;
  saved_step_ = 0;
  continues_ = false;
  std::error_code missing;
  if (trainer.resumed_from().empty() && fs::directory_iterator(folder_, missing) != fs::directory_iterator())
    trainer.console().warn(format("the folder of the checkpoints is not empty: {}", folder_.string()));
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

void ModelCheckpoint::on_train_epoch_end(Trainer& trainer, TrainingModule&) {
  if (saves_at_epoch_end(trainer)) save(trainer);
}
void ModelCheckpoint::on_validation_end(Trainer& trainer, TrainingModule&) {
  if (!saves_at_epoch_end(trainer)) save(trainer);
}
void ModelCheckpoint::on_train_end(Trainer& trainer, TrainingModule&) {
  if (options_.save_last && may_save(trainer)) save_last(trainer);
}

void ModelCheckpoint::save(Trainer& trainer) {
  if (!may_save(trainer)) return;
  if (options_.every_n_epochs == 0 || (trainer.current_epoch() + 1) % options_.every_n_epochs != 0) return;
  if (options_.save_top_k != 0) save_top_k(trainer);
  if (options_.save_last) save_last(trainer);
  saved_step_ = trainer.global_step();
}

bool ModelCheckpoint::better(double a, double b) const {
  if (std::isnan(a) || std::isnan(b)) return !std::isnan(a);
  return options_.mode == "min" ? a < b : a > b;
}

void ModelCheckpoint::save_top_k(Trainer& trainer) {
  double score = none;
  std::optional<std::size_t> replaced;
  const bool full = options_.save_top_k > 0 && static_cast<std::int64_t>(kept_.size()) == options_.save_top_k;
  if (options_.monitor.empty()) {
    if (full) replaced = 0;
  } else {
    const MetricMap& metrics = trainer.callback_metrics();
    const double* value = metrics.find(options_.monitor);
    if (!value) {
      // Before the first check it may still come.
      check<ConfigError>(trainer.num_val_batches() > 0 && trainer.num_checks() == 0,
                         "monitor: there is no metric {}; there are: {}", options_.monitor, metrics.names());
      trainer.console().warn(format("monitor: {} is not there yet; nothing was saved", options_.monitor));
      return;
    }
    score = *value;
    if (full) {
      replaced = 0;
      for (std::size_t i = 1; i < kept_.size(); ++i)
        if (!better(kept_[i].score, kept_[*replaced].score)) replaced = i;
      if (!better(score, kept_[*replaced].score)) return;
    }
  }
  // The file holds the state that counts it in.
  const auto before = std::tuple(kept_, best_path_, best_score_, saved_step_);
  const fs::path dropped = replaced ? kept_[*replaced].path : fs::path();
  const fs::path path = new_path(trainer, dropped);
  keep({path, score}, replaced);
  saved_step_ = trainer.global_step();
  try {
    trainer.save_checkpoint(path);
  } catch (...) {
    std::tie(kept_, best_path_, best_score_, saved_step_) = before;
    throw;
  }
  if (dropped != path) remove(trainer, dropped);
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

void ModelCheckpoint::save_last(Trainer& trainer) {
  for (int version = 0; last_path_.empty(); ++version) {
    fs::path path = folder_ / ("last" + (version > 0 ? "-v" + std::to_string(version) : std::string()) + extension);
    if (!is_taken(trainer, path)) last_path_ = std::move(path);
  }
  saved_step_ = trainer.global_step();
  fs::create_directories(folder_);
  trainer.save_checkpoint(last_path_);
}

fs::path ModelCheckpoint::new_path(const Trainer& trainer, const fs::path& replaced) const {
  const std::string name = expand_name(trainer);
  fs::path path = folder_ / (name + extension);
  check(path.lexically_normal().parent_path() == folder_.lexically_normal() ||
            folder_.lexically_normal().filename().empty(),
        "filename: {} lies outside of {}", name, folder_.string());
  for (int version = 1; path != replaced && is_taken(trainer, path); ++version)
    path = folder_ / (name + "-v" + std::to_string(version) + extension);
  fs::create_directories(folder_);
  return path;
}

// What was written after the file that the run resumed from is the run's own, of the time before it was interrupted.
bool ModelCheckpoint::is_taken(const Trainer& trainer, const fs::path& path) const {
  if (!options_.enable_version_counter || !fs::exists(path)) return false;
  const fs::path& source = trainer.resumed_from();
  if (!continues_ || fs::equivalent(path, source)) return true;
  if (std::any_of(kept_.begin(), kept_.end(), [&](const Kept& k) { return k.path == path; })) return true;
  return fs::last_write_time(path) < fs::last_write_time(source);
}

std::string ModelCheckpoint::expand_name(const Trainer& trainer) const {
  const std::string& pattern = options_.filename;
  std::string name;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const std::size_t end = pattern[i] == '{' ? pattern.find('}', i) : std::string::npos;
    if (end == std::string::npos) {
      name += pattern[i];
      continue;
    }
    const std::string inside = pattern.substr(i + 1, end - i - 1);
    const std::size_t colon = inside.find(':');
    const std::string key = inside.substr(0, colon);
    const std::string spec = colon == std::string::npos ? "" : inside.substr(colon + 1);
    const bool whole = key == "epoch" || key == "step";
    const double* metric = trainer.callback_metrics().find(key);
    check<ConfigError>(whole || metric, "filename: there is no metric {}; there are: epoch, step, {}", key,
                       trainer.callback_metrics().names());
    const double value = key == "epoch"  ? static_cast<double>(trainer.current_epoch())
                         : key == "step" ? static_cast<double>(trainer.global_step())
                                         : *metric;
    std::string shown = key;
    std::replace(shown.begin(), shown.end(), '/', '_');
    if (options_.auto_insert_metric_name) name += shown + "=";
    name += spec.empty() && !whole ? text_of(value) : text_of(value, key, spec.empty() ? "d" : spec);
    i = end;
  }
  return name;
}

// Never a file that the run came from, nor one outside of the folder.
void ModelCheckpoint::remove(const Trainer& trainer, const fs::path& path) const {
  std::error_code gone;
  if (path.empty() || path.parent_path() != folder_ || fs::equivalent(path, trainer.resumed_from(), gone)) return;
  trainer.checkpoint_io().remove(path);
}

std::vector<fs::path> ModelCheckpoint::last_files(const Trainer& trainer) const {
  std::vector<fs::path> files;
  add_last_files(folder(trainer), files);
  const fs::path run = trainer.log_dir();
  // A new run's folder is empty: then the earlier versions beside it.
  if (files.empty() && options_.dirpath.empty() && run.filename().string().starts_with("version_")) {
    std::error_code missing;
    for (const fs::directory_entry& entry : fs::directory_iterator(run.parent_path(), missing))
      if (entry.path().filename().string().starts_with("version_")) add_last_files(entry.path() / "checkpoints", files);
  }
  return files;
}

std::vector<fs::path> ModelCheckpoint::best_files() const {
  return best_path_.empty() ? std::vector<fs::path>() : std::vector{best_path_};
}

std::string ModelCheckpoint::state_key() const {
  return format("ModelCheckpoint monitor={} mode={} every_n_epochs={}", options_.monitor, options_.mode,
                options_.every_n_epochs);
}

StateMap ModelCheckpoint::state() const {
  std::vector<double> scores;
  for (const Kept& k : kept_) scores.push_back(k.score);
  return {{"folder", folder_.string()}, {"best_path", best_path_.string()},
          {"best_score", best_score_},  {"last_path", last_path_.string()},
          {"kept", texts(kept_)},       {"scores", scores},
          {"saved_step", saved_step_}};
}

void ModelCheckpoint::load_state(const StateMap& state) {
  best_path_ = std::get<std::string>(state.at("best_path"));
  best_score_ = std::get<double>(state.at("best_score"));
  if (std::get<std::string>(state.at("folder")) != folder_.string()) return;  // those files belong to another run
  continues_ = true;
  last_path_ = std::get<std::string>(state.at("last_path"));
  saved_step_ = std::get<std::int64_t>(state.at("saved_step"));
  const auto& paths = std::get<std::vector<std::string>>(state.at("kept"));
  const auto& scores = std::get<std::vector<double>>(state.at("scores"));
  kept_.clear();
  for (std::size_t i = 0; i < std::min(paths.size(), scores.size()); ++i)
    if (fs::exists(paths[i])) kept_.push_back({paths[i], scores[i]});
}

}  // namespace v0
}  // namespace anneal
