// Measures a run, and ends it when its time is up.
#pragma once

#include <array>
#include <functional>
#include <optional>
#include <string>

#include "anneal/trainer/callback.h"
#include "anneal/trainer/duration.h"
#include "anneal/trainer/training_module.h"

namespace anneal {
inline namespace v0 {

struct TimerOptions {
  Duration duration = {};              ///< of training, those before a resume included. Default: it only measures
  Interval interval = Interval::step;  ///< whether it looks after each batch or each epoch
  bool verbose = true;                 ///< says when time is up
};

/// Ends training as if it were done, once min_epochs and min_steps are reached; a validation within it is broken off.
class Timer final : public Callback {
 public:
  explicit Timer(TimerOptions options = {}) : options_(options) {}

  /// Seconds of training (Stage::fit) with all that lies between its start and its end, or of the latest evaluation of
  /// the kind: Stage::validate is that of checks, too.
  double time_elapsed(Stage stage = Stage::fit) const { return seconds(watch(stage)); }
  /// When that began and ended, in seconds of TrainerOptions::clock; empty before.
  std::optional<double> start_time(Stage stage = Stage::fit) const { return watch(stage).start; }
  std::optional<double> end_time(Stage stage = Stage::fit) const { return watch(stage).end; }
  /// Seconds until training is to end, not below 0; infinity without a duration.
  double time_remaining() const;

  void setup(Trainer& trainer, TrainingModule& module, Stage stage) override;
  void teardown(Trainer& trainer, TrainingModule& module, Stage stage) override;
  void on_fit_start(Trainer& trainer, TrainingModule& module) override;
  void on_train_start(Trainer& trainer, TrainingModule& module) override;
  void on_train_batch_end(Trainer& trainer, TrainingModule& module, const Tensor& loss, const Batch& batch,
                          StepContext& step) override;
  void on_train_epoch_end(Trainer& trainer, TrainingModule& module) override;
  void on_train_end(Trainer& trainer, TrainingModule& module) override;
  void on_validation_batch_end(Trainer& trainer, TrainingModule& module, const Batch& batch,
                               StepContext& step) override;
  void on_validation_start(Trainer& trainer, TrainingModule& module) override;
  void on_validation_end(Trainer& trainer, TrainingModule& module) override;
  void on_test_start(Trainer& trainer, TrainingModule& module) override;
  void on_test_end(Trainer& trainer, TrainingModule& module) override;
  void on_predict_start(Trainer& trainer, TrainingModule& module) override;
  void on_predict_end(Trainer& trainer, TrainingModule& module) override;
  std::string state_key() const override { return "Timer"; }
  StateMap state() const override;
  void load_state(const StateMap& state) override;

 private:
  struct Stopwatch {
    double before = 0;  // seconds, of the run that is gone on with
    std::optional<double> start = {}, end = {};
  };
  const Stopwatch& watch(Stage stage) const { return watches_[static_cast<std::size_t>(stage)]; }
  Stopwatch& watch(Stage stage) { return watches_[static_cast<std::size_t>(stage)]; }
  double seconds(const Stopwatch& watch) const;
  void begin(Stage stage) { watch(stage) = {.before = 0, .start = clock_()}; }
  void end(Stage stage) { watch(stage).end = clock_(); }
  void stop_if_due(Trainer& trainer) const;

  TimerOptions options_;
  std::function<double()> clock_;
  std::array<Stopwatch, 5> watches_;
};

}  // namespace v0
}  // namespace anneal
