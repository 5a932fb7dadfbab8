#include "anneal/trainer/terminate_on_nan.h"

#include "anneal/trainer/trainer.h"

namespace anneal {
inline namespace v0 {

void TerminateOnNaN::configure(TrainerOptions& options) {
  if (options.on_bad_number == "ignore") options.on_bad_number = "stop";
}
void TerminateOnNaN::setup(Trainer&, TrainingModule&, Stage stage) {
  if (stage == Stage::fit) triggered_ = false;
}
void TerminateOnNaN::on_train_end(Trainer& trainer, TrainingModule&) { triggered_ = trainer.bad_windows() > 0; }

}  // namespace v0
}  // namespace anneal
