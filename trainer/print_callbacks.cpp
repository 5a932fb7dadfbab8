#include "anneal/trainer/print_callbacks.h"

#include "anneal/trainer/simple_trainer.h"

namespace anneal {
inline namespace v0 {
namespace {

void print_metrics(SimpleTrainer& trainer, bool of_training) {
  const RunHistory& history = trainer.run_history();
  for (const std::string& name : history.metric_names())
    if ((name.find("train") != std::string::npos) == of_training)
      trainer.print(format("{}: {}", name, history.latest(name)));
}

}  // namespace

void PrintProgress::on_training_run_start(SimpleTrainer& trainer) { trainer.print("training run begins"); }
void PrintProgress::on_train_epoch_start(Trainer& trainer, TrainingModule&) {
  trainer.print(format("epoch {}", trainer.current_epoch() + 1));
}
void PrintProgress::on_training_run_end(SimpleTrainer& trainer) { trainer.print("training run ends"); }

void PrintMetrics::on_epoch_trained(SimpleTrainer& trainer) { print_metrics(trainer, true); }
void PrintMetrics::on_eval_epoch_end(SimpleTrainer& trainer) { print_metrics(trainer, false); }

}  // namespace v0
}  // namespace anneal
