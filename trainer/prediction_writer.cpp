#include "anneal/trainer/prediction_writer.h"

namespace anneal {
inline namespace v0 {

void PredictionWriter::on_predict_epoch_start(Trainer&, TrainingModule&) {
  predictions_.clear();
  samples_.clear();
}

void PredictionWriter::on_predict_batch_end(Trainer& trainer, TrainingModule& module, const Batch& prediction,
                                            const Batch& batch, StepContext& step) {
  if (interval_ != WriteInterval::epoch) write_on_batch_end(trainer, module, prediction, step.samples(), batch, step);
  if (interval_ == WriteInterval::batch) return;
  const auto loader = static_cast<std::size_t>(step.dataloader_idx());
  predictions_.resize(loader + 1);
  samples_.resize(loader + 1);
  predictions_[loader].push_back(prediction);
  samples_[loader].insert(samples_[loader].end(), step.samples().begin(), step.samples().end());
}

void PredictionWriter::on_predict_epoch_end(Trainer& trainer, TrainingModule& module) {
  if (interval_ != WriteInterval::batch) write_on_epoch_end(trainer, module, predictions_, samples_);
}

}  // namespace v0
}  // namespace anneal
