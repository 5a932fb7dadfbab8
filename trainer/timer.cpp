#include "anneal/trainer/timer.h"

#include <algorithm>

#include "anneal/trainer/trainer.h"

namespace anneal {
inline namespace v0 {

namespace {

Stage stage_of_validation(const Trainer& trainer) {
  return trainer.stage() == Stage::sanity_check ? Stage::sanity_check : Stage::validate;
}

}  // namespace

double Timer::seconds(const Stopwatch& watch) const {
  return watch.before + (watch.start ? (watch.end ? *watch.end : clock_()) - *watch.start : 0);
}

double Timer::time_remaining() const { return std::max(options_.duration.seconds() - time_elapsed(), 0.0); }

void Timer::stop_if_due(Trainer& trainer) const {
  if (time_remaining() > 0 || trainer.should_stop()) return;
  if (options_.verbose) trainer.print(format("training ends: its {} seconds are over", options_.duration.seconds()));
  trainer.stop();
}

void Timer::setup(Trainer& trainer, TrainingModule&, Stage stage) {
  clock_ = trainer.options().clock;
  if (stage == Stage::fit) watch(stage) = {};
}
void Timer::teardown(Trainer&, TrainingModule&, Stage) {
  for (Stopwatch& watch : watches_)
    if (watch.start && !watch.end) watch.end = clock_();
}
// What the checkpoint brings may be all the time there is.
void Timer::on_fit_start(Trainer& trainer, TrainingModule&) { stop_if_due(trainer); }
void Timer::on_train_start(Trainer&, TrainingModule&) { watch(Stage::fit).start = clock_(); }
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
void Timer::on_train_end(Trainer&, TrainingModule&) { end(Stage::fit); }
void Timer::on_validation_start(Trainer& trainer, TrainingModule&) { begin(stage_of_validation(trainer)); }
void Timer::on_validation_end(Trainer& trainer, TrainingModule&) { end(stage_of_validation(trainer)); }
void Timer::on_test_start(Trainer&, TrainingModule&) { begin(Stage::test); }
void Timer::on_test_end(Trainer&, TrainingModule&) { end(Stage::test); }
void Timer::on_predict_start(Trainer&, TrainingModule&) { begin(Stage::predict); }
void Timer::on_predict_end(Trainer&, TrainingModule&) { end(Stage::predict); }

StateMap Timer::state() const { return {{"seconds", time_elapsed()}}; }
void Timer::load_state(const StateMap& state) { watch(Stage::fit).before = std::get<double>(state.at("seconds")); }

}  // namespace v0
}  // namespace anneal
