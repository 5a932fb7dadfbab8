// Base of callbacks that write predictions where they shall go.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "anneal/trainer/callback.h"
#include "anneal/trainer/step_context.h"

namespace anneal {
inline namespace v0 {

enum class WriteInterval : std::uint8_t { batch, epoch, batch_and_epoch };

/// Override one or both functions. `samples` are the dataset's indices of what was predicted; with several ranks each
/// writes its own.
class PredictionWriter : public Callback {
 public:
  explicit PredictionWriter(WriteInterval interval = WriteInterval::batch) : interval_(interval) {}

  virtual void write_on_batch_end(Trainer&, TrainingModule&, const Batch& /*prediction*/,
                                  std::span<const std::int64_t> /*samples*/, const Batch&, StepContext&) {}
  /// All predictions, of each loader those of each batch.
  virtual void write_on_epoch_end(Trainer&, TrainingModule&, const std::vector<std::vector<Batch>>& /*predictions*/,
                                  const std::vector<std::vector<std::int64_t>>& /*samples*/) {}

  void on_predict_epoch_start(Trainer& trainer, TrainingModule& module) override;
  void on_predict_batch_end(Trainer& trainer, TrainingModule& module, const Batch& prediction, const Batch& batch,
                            StepContext& step) override;
  void on_predict_epoch_end(Trainer& trainer, TrainingModule& module) override;

 private:
  WriteInterval interval_;
  std::vector<std::vector<Batch>> predictions_;
  std::vector<std::vector<std::int64_t>> samples_;
};

}  // namespace v0
}  // namespace anneal
