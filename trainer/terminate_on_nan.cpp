#include "anneal/trainer/terminate_on_nan.h"

#include <cmath>

#include "anneal/trainer/simple_trainer.h"
#include "anneal/trainer/trainer_state.h"

namespace anneal {
inline namespace v0 {

void TerminateOnNaN::configure(TrainerOptions& options) {
  if (options.on_bad_number == "ignore") options.on_bad_number = "stop";
}
void TerminateOnNaN::setup(Trainer&, TrainingModule&, Stage stage) {
  if (stage == Stage::fit) triggered_ = false;
}
void TerminateOnNaN::on_eval_step_end(SimpleTrainer& trainer, const Batch&, const BatchLoss& result) {
  TrainerState& s = TrainerState::of(trainer.trainer());
  if (s.stage == Stage::fit && !std::isfinite(result.loss.item()))
    s.end_on_bad_number(format("an evaluation's loss is not finite, in epoch {}", s.counters.epoch.completed));
}
void TerminateOnNaN::on_train_end(Trainer& trainer, TrainingModule&) {
  triggered_ = TrainerState::of(trainer).ends_on_bad_number;
}

}  // namespace v0
}  // namespace anneal
