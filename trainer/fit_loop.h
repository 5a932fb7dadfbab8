// The loop of training. Not for users.
#pragma once

#include <set>

#include "anneal/trainer/trainer_state.h"

namespace anneal {
inline namespace v0 {

class FitLoop {
 public:
  explicit FitLoop(TrainerState& state) : s_(state), c_(state.counters) {}

  /// Batches of the loader before training, as a trial of the validation code; leaves no trace.
  void sanity_check();
  /// From where the counters stand to the end.
  StopReason run();

 private:
  std::optional<StopReason> done();
  bool stop_is_due();
  bool steps_are_done() const { return s_.options.max_steps >= 0 && c_.global_step >= s_.options.max_steps; }
  bool window_is_complete() const;
  bool check_is_due();
  void begin_check_interval();
  void look_at_clock();

  void run_epoch();
  bool next_batch();
  void end_epoch();
  void finish_epoch();
  bool run_batch(Batch& batch, std::span<const std::int64_t> samples);
  Tensor call_training_step(const Batch& batch, StepContext& context);
  Tensor repeat(const Batch& batch, StepContext& context, Generator generator);
  Tensor automatic_step(const Batch& batch, StepContext& context, double share);
  void finish_batch();
  void write_step_row();
  void run_check();
  void zero_grad();
  void prepare_reducer();
  void end_window();
  bool reduce();
  void step();
  void drop_window(const char* why);
  void roll_back();
  void count_step();
  void end_manual_step(bool counted);
  void step_schedules(Interval interval, std::int64_t count);
  void look_at_plateaus(Interval interval, std::int64_t count);

  TrainerState& s_;
  Counters& c_;
  optim::Closure repeat_;      // the window's last step, for an optimizer that looks at the loss more than once
  bool prepared_ = false;      // the reducer, for this window
  bool told_to_wait_ = false;  // a request to stop, for the minima
  int batches_without_step_ = 0;
  double check_time_ = 0;           // when the last check ended, or training began
  bool time_is_up_ = false;         // for the next one, where checks go by time
  std::set<std::int64_t> returns_;  // to a checkpoint after so many batches
};

}  // namespace v0
}  // namespace anneal
