// Shows on the console how far a run is.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "anneal/trainer/bar_text.h"
#include "anneal/trainer/callback.h"

namespace anneal {
inline namespace v0 {

struct ProgressBarOptions {
  /// Batches from one drawing to the next, of which there are at most ten a second; 0: off.
  std::int64_t refresh_rate = 1;
  std::int64_t process_position = 0;  ///< lines that are left free above, for other programs' bars; below 0: 0
  bool leave = false;                 ///< in a terminal each epoch's bar stays; false: the last one's
  double plain_interval = 0;          ///< without a terminal: seconds from line to line within an epoch; 0: none there
};

/// In a terminal a line for the epoch and, while a check runs, one below for that:
///
///   Epoch 0:  80%|########  | 4/5 [00:00<00:00, 719.34it/s, v_num=0, loss=1.230]
///
/// Elsewhere one line for each epoch and each check.
class ProgressBar : public Callback {
 public:
  /// Throws ConfigError for a refresh_rate or plain_interval below 0.
  explicit ProgressBar(ProgressBarOptions options = {});

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
  void on_signal(Trainer& trainer, TrainingModule& module, int signal) override;
  void on_train_end(Trainer& trainer, TrainingModule& module) override;
  bool monitors() const override { return true; }
  bool rank_zero_only() const override { return true; }
  /// There is one bar: a module's takes the place of the Trainer's, of whichever kind.
  bool replaces(const Callback& other) const override;

 protected:
  /// A metric's value, and a bar's lines in so many columns of a terminal.
  virtual std::string metric(double value) const;
  virtual std::vector<std::string> draw(const Bar& bar, std::size_t columns) const;

 private:
  using Clock = std::chrono::steady_clock;
  // A loop that is shown, while it has a title.
  struct Loop {
    std::string title;
    std::int64_t done = 0, total = 0, first = 0;
    Clock::time_point start = {};
  };
  Bar bar_of(Trainer& trainer, const Loop& loop) const;
  void begin(Loop& loop, std::string title, std::int64_t total, std::int64_t first = 0);
  void advance(Trainer& trainer, Loop& loop, std::int64_t done);
  void show(Trainer& trainer);
  void begin_evaluation(std::string title, std::int64_t total);
  void advance_evaluation(Trainer& trainer, const StepContext& step);
  void end_evaluation(Trainer& trainer, bool keep);
  void print(Trainer& trainer, const Loop& loop) const;

  ProgressBarOptions options_;
  Loop train_, evaluation_;
  std::string evaluates_;
  Clock::time_point drawn_ = {};
};

struct RichProgressBarOptions {
  std::int64_t refresh_rate = 100;    ///< as in ProgressBarOptions
  std::int64_t process_position = 0;  ///< as there
  bool leave = false;                 ///< as there
  RichProgressBarTheme theme = {};
};

/// The same with colours, and with the metrics in a line of their own. It is the default, with a refresh_rate of 1,
/// where the terminal shows colours and UTF-8 (Console::is_rich).
class RichProgressBar final : public ProgressBar {
 public:
  explicit RichProgressBar(RichProgressBarOptions options = {});

 protected:
  std::string metric(double value) const override;
  std::vector<std::string> draw(const Bar& bar, std::size_t columns) const override;

 private:
  RichProgressBarTheme theme_;
};

}  // namespace v0
}  // namespace anneal
