// Shows on the console how far a run is.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "anneal/trainer/callback.h"

namespace anneal {
inline namespace v0 {

/// In a terminal one line, drawn again at most ten times a second:
///
///   Epoch 0:  80%|########  | 4/5 [00:00<00:00, 719.34it/s, v_num=0, loss=1.230]
///
/// Elsewhere one line for each epoch and each check.
class ProgressBar final : public Callback {
 public:
  void on_sanity_check_end(Trainer& trainer, TrainingModule& module) override;
  void on_train_epoch_start(Trainer& trainer, TrainingModule& module) override;
  void on_train_batch_end(Trainer& trainer, TrainingModule& module, const Tensor& loss, const Batch& batch,
                          StepContext& step) override;
  void on_train_epoch_end(Trainer& trainer, TrainingModule& module) override;
  void on_validation_start(Trainer& trainer, TrainingModule& module) override;
  void on_validation_batch_end(Trainer& trainer, TrainingModule& module, const Batch& batch,
                               StepContext& step) override;
  void on_validation_end(Trainer& trainer, TrainingModule& module) override;
  void on_test_start(Trainer& trainer, TrainingModule& module) override;
  void on_test_batch_end(Trainer& trainer, TrainingModule& module, const Batch& batch, StepContext& step) override;
  void on_test_end(Trainer& trainer, TrainingModule& module) override;
  void on_predict_start(Trainer& trainer, TrainingModule& module) override;
  void on_predict_batch_end(Trainer& trainer, TrainingModule& module, const Batch& prediction, const Batch& batch,
                            StepContext& step) override;
  void on_predict_end(Trainer& trainer, TrainingModule& module) override;
  void on_exception(Trainer& trainer, TrainingModule& module, const std::exception_ptr& error) override;
  void on_train_end(Trainer& trainer, TrainingModule& module) override;
  bool monitors() const override { return true; }
  bool rank_zero_only() const override { return true; }

 private:
  using Clock = std::chrono::steady_clock;
  // One loop: what it is called, how far it is, and since when.
  struct Bar {
    std::string title;
    std::int64_t done = 0, total = 0, first = 0;
    Clock::time_point start = {};
  };
  static std::string line(const Trainer& trainer, const Bar& bar, bool with_bar);
  void begin(Bar& bar, std::string title, std::int64_t total, std::int64_t first = 0);
  void advance(Trainer& trainer, Bar& bar, std::int64_t done);
  void advance_evaluation(Trainer& trainer, const StepContext& step);
  void end(Trainer& trainer, const Bar& bar, bool keep);

  Bar train_, evaluation_;
  Clock::time_point drawn_ = {};
};

}  // namespace v0
}  // namespace anneal
