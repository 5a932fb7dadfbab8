#include "anneal/trainer/timer.h"

#include <algorithm>

#include "anneal/trainer/trainer.h"

namespace anneal {
inline namespace v0 {

double Timer::Stopwatch::seconds() const {
  return before + (start ? std::chrono::duration<double>(Clock::now() - *start).count() : 0);
}
void Timer::Stopwatch::stop() { *this = {.before = seconds()}; }

const Timer::Stopwatch& Timer::watch(Stage stage) const {
  if (stage == Stage::fit) return train_;
  return stage == Stage::test ? test_ : validation_;
}

double Timer::time_remaining() const { return std::max(options_.duration.seconds() - train_.seconds(), 0.0); }

void Timer::stop_if_due(Trainer& trainer) const {
  if (time_remaining() > 0 || trainer.should_stop()) return;
  if (options_.verbose) trainer.print(format("training ends: its {} seconds are over", options_.duration.seconds()));
  trainer.stop();
}

void Timer::setup(Trainer&, TrainingModule&, Stage stage) {
  if (stage == Stage::fit) train_ = {};
}
void Timer::teardown(Trainer&, TrainingModule&, Stage) {
  for (Stopwatch* watch : {&train_, &validation_, &test_}) watch->stop();
}
// What the checkpoint brings may be all the time there is.
void Timer::on_fit_start(Trainer& trainer, TrainingModule&) { stop_if_due(trainer); }
void Timer::on_train_start(Trainer&, TrainingModule&) { train_.start = Clock::now(); }
void Timer::on_train_batch_end(Trainer& trainer, TrainingModule&, const Tensor&, const Batch&, StepContext&) {
  if (options_.interval == Interval::step) stop_if_due(trainer);
}
void Timer::on_train_epoch_end(Trainer& trainer, TrainingModule&) {
  if (options_.interval == Interval::epoch) stop_if_due(trainer);
}
void Timer::on_validation_batch_end(Trainer& trainer, TrainingModule&, const Batch&, StepContext& step) {
  const TrainerOptions& o = trainer.options();
  if (trainer.stage() != Stage::fit || options_.interval == Interval::epoch || time_remaining() > 0) return;
  stop_if_due(trainer);
  if (trainer.current_epoch() >= *o.min_epochs && trainer.global_step() >= *o.min_steps) step.skip_epoch();
}
void Timer::on_train_end(Trainer&, TrainingModule&) { train_.stop(); }
void Timer::on_validation_start(Trainer&, TrainingModule&) { validation_ = {.start = Clock::now()}; }
void Timer::on_validation_end(Trainer&, TrainingModule&) { validation_.stop(); }
void Timer::on_test_start(Trainer&, TrainingModule&) { test_ = {.start = Clock::now()}; }
void Timer::on_test_end(Trainer&, TrainingModule&) { test_.stop(); }

StateMap Timer::state() const { return {{"seconds", train_.seconds()}}; }
void Timer::load_state(const StateMap& state) { train_.before = std::get<double>(state.at("seconds")); }

}  // namespace v0
}  // namespace anneal
