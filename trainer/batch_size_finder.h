// A search for the largest batch that fits into memory.
#pragma once

#include <cstdint>
#include <string>

#include "anneal/trainer/callback.h"

namespace anneal {
inline namespace v0 {

struct TrainerState;

struct BatchSizeFinderOptions {
  std::string mode = "power";        ///< doubles while that works; "binsearch" then goes on between the last two
  std::int64_t steps_per_trial = 3;  ///< optimizer steps; of validation, test and prediction batches
  std::int64_t init_val = 2;         ///< the first size; if it is too large it is halved until one works
  std::int64_t max_trials = 25;
  double margin = 0.05;          ///< of binsearch: the share of the size that is left free when one did not fit
  std::int64_t max_val = 8192;   ///< the largest size; the data set's is one as well
  std::int64_t* attr = nullptr;  ///< where the size is kept. Default: the module's `batch_size`, if it has one
  std::string method = "fit";    ///< of a Tuner: what is tried; or "validate", "test", "predict"
};

/// Tries batch sizes when a run begins (fit, validate, test or predict), undoes the trials, and gives the run's loader
/// the largest size that throws no OutOfMemory. A resumed run gets the size that its checkpoint was made with. Needs
/// one rank and one loader. To search in other epochs, derive from it:
///
///   struct FromTimeToTime : BatchSizeFinder {
///     void on_train_epoch_start(Trainer& trainer, TrainingModule& module) override {
///       if (trainer.current_epoch() % 10 == 0) scale_batch_size(trainer, module);
///     }
///   };
class BatchSizeFinder : public Callback {
 public:
  /// Throws ConfigError for options out of range.
  explicit BatchSizeFinder(BatchSizeFinderOptions options = {});

  /// One search. Throws Error when batches have begun (of fit on_fit_start, on_train_start and on_train_epoch_start are
  /// the places) or no size works, and ConfigError for several ranks or loaders, and for a stream.
  void scale_batch_size(Trainer& trainer, TrainingModule& module);
  /// What the last search found; 0: there was none.
  std::int64_t optimal_batch_size() const { return found_; }

  void setup(Trainer& trainer, TrainingModule& module, Stage stage) override;
  void on_fit_start(Trainer& trainer, TrainingModule& module) override;
  void on_validation_start(Trainer& trainer, TrainingModule& module) override;
  void on_test_start(Trainer& trainer, TrainingModule& module) override;
  void on_predict_start(Trainer& trainer, TrainingModule& module) override;
  std::string state_key() const override { return "BatchSizeFinder"; }
  StateMap state() const override;
  void load_state(const StateMap& state) override;

 private:
  void use(TrainerState& state) const;

  BatchSizeFinderOptions options_;
  std::int64_t found_ = 0;
};

}  // namespace v0
}  // namespace anneal
