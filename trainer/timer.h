// Measures a run, and ends it when its time is up.
#pragma once

#include <chrono>
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

  /// Seconds of training (Stage::fit) with all that lies between its start and its end, or of the latest validation or
  /// test.
  double time_elapsed(Stage stage = Stage::fit) const { return watch(stage).seconds(); }
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
  std::string state_key() const override { return "Timer"; }
  StateMap state() const override;
  void load_state(const StateMap& state) override;

 private:
  using Clock = std::chrono::steady_clock;
  struct Stopwatch {
    double before = 0;                            // seconds
    std::optional<Clock::time_point> start = {};  // while it runs
    double seconds() const;
    void stop();
  };
  const Stopwatch& watch(Stage stage) const;
  void stop_if_due(Trainer& trainer) const;

  TimerOptions options_;
  Stopwatch train_, validation_, test_;
};

}  // namespace v0
}  // namespace anneal
