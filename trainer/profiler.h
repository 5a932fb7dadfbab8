// Where a run's time goes.
#pragma once

#include <concepts>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

namespace anneal {
inline namespace v0 {

struct ProfilerOptions {
  std::filesystem::path dirpath = {};  ///< default: the Trainer's log_dir()
  std::string filename = {};           ///< writes `<dirpath>/<stage>-<filename>.txt`; empty: the report is printed
};

/// Base of profilers. A run tells it of its actions: "run_training_epoch", "run_training_batch",
/// "train_dataloader_next", "optimizer_step", evaluations' "run_validation_batch" and "validation_dataloader_next" (or
/// test, predict), each hook by its owner, such as "[Callback]EarlyStopping.on_validation_end" and
/// "[Module]Net.training_step", and those of ProfiledAction. All calls come from the run's thread. Of several ranks,
/// each has its own; rank r > 0 prints nothing, and its file ends with `-<r>`.
class Profiler {
 public:
  explicit Profiler(ProfilerOptions options = {}) : options_(std::move(options)) {}
  virtual ~Profiler() = default;
  const ProfilerOptions& options() const { return options_; }

  virtual void start(std::string_view action) = 0;
  virtual void stop(std::string_view action) = 0;

  /// What was seen in earlier runs is forgotten.
  virtual void begin_run() {}
  /// Also after an exception; the report follows.
  virtual void end_run() {}
  /// In fit a batch of training is over, in other runs one of theirs.
  virtual void end_batch() {}

  virtual std::string report() const = 0;
  /// Of the report's file.
  virtual std::string_view extension() const { return "txt"; }

 private:
  ProfilerOptions options_;
};

/// An action, from here to the end of the scope. Without a profiler it does nothing:
///
///   const ProfiledAction action(trainer().profiler(), "augment");
class ProfiledAction {
 public:
  /// The name must stay where it is.
  ProfiledAction(Profiler* profiler, std::string_view action) : profiler_(profiler), action_(action) {
    if (profiler_) [[unlikely]]
      profiler_->start(action_);
  }
  ~ProfiledAction() {
    if (profiler_) [[unlikely]]
      profiler_->stop(action_);
  }
  ProfiledAction(const ProfiledAction&) = delete;
  ProfiledAction& operator=(const ProfiledAction&) = delete;

 private:
  Profiler* profiler_;
  std::string_view action_;
};

/// "simple"; "ops" or "advanced"; "trace" or "pytorch": a SimpleProfiler, OpsProfiler or TraceProfiler as they are by
/// default. Or an object, by value or by shared pointer.
class ProfilerOption {
 public:
  ProfilerOption() = default;
  ProfilerOption(std::string name) : name_(std::move(name)) {}
  ProfilerOption(const char* name) : name_(name) {}
  template <std::derived_from<Profiler> P>
  ProfilerOption(P profiler) : object_(std::make_shared<P>(std::move(profiler))) {}
  template <std::derived_from<Profiler> P>
  ProfilerOption(std::shared_ptr<P> profiler) : object_(std::move(profiler)) {}

  /// Empty: an object, or none.
  const std::string& name() const { return name_; }
  bool given() const { return object_ || !name_.empty(); }
  /// Null if there is none. Throws ConfigError for an unknown name.
  std::shared_ptr<Profiler> profiler() const;

 private:
  std::string name_;
  std::shared_ptr<Profiler> object_;
};

}  // namespace v0
}  // namespace anneal
