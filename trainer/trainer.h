// The Trainer: runs the loops of training, validation and test.
#pragma once

#include <concepts>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include "anneal/core/generator.h"
#include "anneal/data/data_loader.h"
#include "anneal/data/dataset.h"
#include "anneal/trainer/batch_size_finder.h"
#include "anneal/trainer/callback.h"
#include "anneal/trainer/csv_logger.h"
#include "anneal/trainer/curve_plot.h"
#include "anneal/trainer/data_module.h"
#include "anneal/trainer/device_stats_monitor.h"
#include "anneal/trainer/early_stopping.h"
#include "anneal/trainer/finetuning.h"
#include "anneal/trainer/gradient_accumulation_scheduler.h"
#include "anneal/trainer/lambda_callback.h"
#include "anneal/trainer/learning_rate_finder.h"
#include "anneal/trainer/learning_rate_monitor.h"
#include "anneal/trainer/loader_set.h"
#include "anneal/trainer/metric.h"
#include "anneal/trainer/model_checkpoint.h"
#include "anneal/trainer/model_pruning.h"
#include "anneal/trainer/model_summary.h"
#include "anneal/trainer/module_parts.h"
#include "anneal/trainer/on_exception_checkpoint.h"
#include "anneal/trainer/ops_profiler.h"
#include "anneal/trainer/options.h"
#include "anneal/trainer/prediction_writer.h"
#include "anneal/trainer/progress_bar.h"
#include "anneal/trainer/simple_profiler.h"
#include "anneal/trainer/spike_detection.h"
#include "anneal/trainer/stochastic_weight_averaging.h"
#include "anneal/trainer/terminate_on_nan.h"
#include "anneal/trainer/throughput_monitor.h"
#include "anneal/trainer/timer.h"
#include "anneal/trainer/trace_profiler.h"
#include "anneal/trainer/training_module.h"
#include "anneal/trainer/weight_averaging.h"

namespace anneal {
inline namespace v0 {

struct TrainerState;
class Collective;
class Console;

struct FitOptions {
  /// A checkpoint to go on from: its path; "last", the one of most steps among the files of OnExceptionCheckpoint and
  /// of preempted Slurm jobs and the `last` files of the ModelCheckpoints, of this run's folder or else the newest
  /// version beside it (none: a warning and a fresh start); "best", the first ModelCheckpoint's; or "preempt", that of
  /// a preempted Slurm job.
  std::string resume = {};
  /// Goes on from where this Trainer's last fit of the same module ended: counters, optimizers and callbacks keep their
  /// state, and limits count from the beginning of that.
  bool continue_run = false;
  bool weights_only = false;   ///< of `resume`, only the weights are loaded: training starts at step 0
  bool strict_loading = true;  ///< false: weights that `resume` lacks, has more of or in other shapes are only reported
  bool override_lr = false;    ///< the learning rate is the code's and not that of `resume`
};

struct SaveOptions {
  bool weights_only = false;  ///< no run can be resumed from it: FitOptions::weights_only or load_state_dict reads it
  HParams extra = {};         ///< values and tensors that load_checkpoint gives back
  StateDict extra_tensors = {};
  /// On each machine its first rank writes the file, for disks that machines do not share; else rank 0 alone does.
  bool save_per_node = false;
};

struct LoadOptions {
  bool load_optimizer = true;  ///< the state and the rates of the optimizers, too
};

/// SaveOptions::extra and extra_tensors.
struct Extras {
  HParams values;
  StateDict tensors;
};

enum class StopReason : std::uint8_t { max_epochs, max_steps, stopped, no_data, signal, bad_number };
std::ostream& operator<<(std::ostream& out, StopReason reason);

struct FitResult {
  StopReason reason;
  std::int64_t epochs;
  std::int64_t global_step;
  double seconds;
  int signal = 0;            ///< its number, if one ended training
  std::string message = {};  ///< more on the reason, if there is more to say
};

/// How the latest run of a Trainer went; a signal or an exception interrupts one.
enum class RunStatus : std::uint8_t { none, running, finished, interrupted };

struct EvaluateOptions {
  bool verbose = true;    ///< print the metrics
  std::string ckpt = {};  ///< load the module's weights first: a path, "last" or "best", as in FitOptions::resume
};

struct PredictOptions {
  bool return_predictions = true;  ///< false: only hooks see them
  std::string ckpt = {};           ///< as in EvaluateOptions
  /// One batch of all samples of a loader, in their order in the dataset, the same on all ranks; predict_step must give
  /// a row for each.
  bool gather = false;
};

/// Runs a TrainingModule:
///
///   Trainer trainer({.max_epochs = 5});
///   trainer.fit(model, train_loader, val_loader);
///
/// An exception from any hook ends the run: callbacks see on_exception, loggers and hooks are closed, and it goes on to
/// the caller. The module, loaders and Trainer are used by the calling thread only.
class Trainer {
 public:
  /// Throws ConfigError for an option that is not permitted.
  explicit Trainer(TrainerOptions options = {});
  ~Trainer();
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  // ---- runs ----

  /// Trains from step 0 with a new optimizer, or goes on from a checkpoint to the bit. Weights stay what they are.
  /// Loaders that are not given are the module's own; so below.
  template <std::derived_from<TrainingModule> M>
  FitResult fit(M& module, const FitOptions& options = {}) {
    nn::check_registered(module, sizeof(M));
    return run_fit(module, parts_of(module), nullptr, nullptr, options);
  }
  template <std::derived_from<TrainingModule> M>
  FitResult fit(M& module, const DataLoader& train, const FitOptions& options = {}) {
    nn::check_registered(module, sizeof(M));
    return run_fit(module, parts_of(module), &train, nullptr, options);
  }
  template <std::derived_from<TrainingModule> M>
  FitResult fit(M& module, const DataLoader& train, const LoaderSet& val, const FitOptions& options = {}) {
    nn::check_registered(module, sizeof(M));
    return run_fit(module, parts_of(module), &train, &val, options);
  }
  /// With a DataModule's loaders; so below.
  template <std::derived_from<TrainingModule> M, std::derived_from<DataModule> D>
  FitResult fit(M& module, D& data, const FitOptions& options = {}) {
    nn::check_registered(module, sizeof(M));
    return run_fit(module, parts_of(module, data), data, options);
  }

  /// The metrics of each loader. Of several loaders, names logged for a batch end with "/dataloader_idx_<i>".
  template <std::derived_from<TrainingModule> M>
  std::vector<MetricMap> validate(M& module, const EvaluateOptions& options = {}) {
    return run_evaluation(Stage::validate, {&module, parts_of(module)}, nullptr, options);
  }
  template <std::derived_from<TrainingModule> M>
  std::vector<MetricMap> validate(M& module, const LoaderSet& loaders, const EvaluateOptions& options = {}) {
    return run_evaluation(Stage::validate, {&module, parts_of(module)}, &loaders, options);
  }
  template <std::derived_from<TrainingModule> M, std::derived_from<DataModule> D>
  std::vector<MetricMap> validate(M& module, D& data, const EvaluateOptions& options = {}) {
    return run_evaluation(Stage::validate, {&module, parts_of(module, data)}, data, options);
  }
  template <std::derived_from<TrainingModule> M>
  std::vector<MetricMap> test(M& module, const EvaluateOptions& options = {}) {
    return run_evaluation(Stage::test, {&module, parts_of(module)}, nullptr, options);
  }
  template <std::derived_from<TrainingModule> M>
  std::vector<MetricMap> test(M& module, const LoaderSet& loaders, const EvaluateOptions& options = {}) {
    return run_evaluation(Stage::test, {&module, parts_of(module)}, &loaders, options);
  }
  template <std::derived_from<TrainingModule> M, std::derived_from<DataModule> D>
  std::vector<MetricMap> test(M& module, D& data, const EvaluateOptions& options = {}) {
    return run_evaluation(Stage::test, {&module, parts_of(module, data)}, data, options);
  }

  /// What predict_step says of each batch, on the CPU; of several loaders, a list for each. With several ranks each
  /// gets what it has predicted (StepContext::samples tells for which samples), or all with `gather`.
  template <std::derived_from<TrainingModule> M>
  std::vector<std::vector<Batch>> predict(M& module, const PredictOptions& options = {}) {
    return run_prediction({&module, parts_of(module)}, nullptr, options);
  }
  template <std::derived_from<TrainingModule> M>
  std::vector<Batch> predict(M& module, const DataLoader& loader, const PredictOptions& options = {}) {
    return predict_one({&module, parts_of(module)}, loader, options);
  }
  template <std::derived_from<TrainingModule> M>
  std::vector<std::vector<Batch>> predict(M& module, const std::vector<DataLoader>& loaders,
                                          const PredictOptions& options = {}) {
    const LoaderSet set(loaders);
    return run_prediction({&module, parts_of(module)}, &set, options);
  }
  template <std::derived_from<TrainingModule> M, std::derived_from<DataModule> D>
  std::vector<std::vector<Batch>> predict(M& module, D& data, const PredictOptions& options = {}) {
    return run_prediction({&module, parts_of(module, data)}, data, options);
  }

  /// Without a module: the one that was fitted last, which must still be there. If its fit has left a best checkpoint,
  /// that is `ckpt` by default. Throws Error if there was no fit.
  std::vector<MetricMap> validate(const EvaluateOptions& options = {}) {
    return run_evaluation(Stage::validate, {}, nullptr, options);
  }
  std::vector<MetricMap> validate(const LoaderSet& loaders, const EvaluateOptions& options = {}) {
    return run_evaluation(Stage::validate, {}, &loaders, options);
  }
  std::vector<MetricMap> validate(DataModule& data, const EvaluateOptions& options = {}) {
    return run_evaluation(Stage::validate, {}, data, options);
  }
  std::vector<MetricMap> test(const EvaluateOptions& options = {}) {
    return run_evaluation(Stage::test, {}, nullptr, options);
  }
  std::vector<MetricMap> test(const LoaderSet& loaders, const EvaluateOptions& options = {}) {
    return run_evaluation(Stage::test, {}, &loaders, options);
  }
  std::vector<MetricMap> test(DataModule& data, const EvaluateOptions& options = {}) {
    return run_evaluation(Stage::test, {}, data, options);
  }
  std::vector<std::vector<Batch>> predict(const PredictOptions& options = {}) {
    return run_prediction({}, nullptr, options);
  }
  std::vector<Batch> predict(const DataLoader& loader, const PredictOptions& options = {}) {
    return predict_one({}, loader, options);
  }
  std::vector<std::vector<Batch>> predict(DataModule& data, const PredictOptions& options = {}) {
    return run_prediction({}, data, options);
  }

  // ---- for hooks ----

  /// Records a metric, where the running hook allows it. Throws Error elsewhere, for a name that was logged there
  /// before with other options, and for a tensor with more than one element.
  void log(std::string_view name, double value, const LogOptions& options = {});
  void log(std::string_view name, const Tensor& value, const LogOptions& options = {});
  /// The batch's value for a step, and the metric's own for an epoch, after which it is set to zero. Throws Error for
  /// one that is logged under another name; a metric that was not updated is left out, with a warning.
  void log(std::string_view name, Metric& metric, const LogOptions& options = {});
  /// Records several with the same options.
  void log_dict(const MetricMap& values, const LogOptions& options = {});
  /// Ends training after this batch (and its accumulation window), once min_epochs and min_steps are reached. May be
  /// called from any thread.
  void stop();
  bool should_stop() const;
  /// Writes the whole state of the run, from which `fit` can resume to the bit: behind the hook that saves. (Callbacks
  /// after the one that saves do not get that hook in the resumed run.) Throws Error between training_step and
  /// optimizer_step, where the batch is half done. After a fit that ended without an error: the state in which it
  /// ended, while its module lives. At other times: Error.
  void save_checkpoint(const std::filesystem::path& path, const SaveOptions& options = {});
  /// What does the same with the state as it is now, of which it has a copy. May be called later, by any thread.
  std::function<void()> save_checkpoint_later(const std::filesystem::path& path, const SaveOptions& options = {});
  /// Takes the module's weights from a checkpoint, where one may be saved; the run stays where it is. All ranks call
  /// it.
  Extras load_checkpoint(const std::filesystem::path& path, const LoadOptions& options = {});
  /// Replaces what moves an optimizer's learning rate from here on; the rates as they are become the schedule's base.
  void set_schedule(optim::Schedule schedule, Interval interval, std::size_t i = 0);
  /// How many batches make a step in the epoch that begins: call it in on_train_epoch_start.
  void set_accumulate_grad_batches(std::int64_t batches);
  /// Computes BatchNorm's running statistics anew, for weights that were not trained as they are: means over an epoch
  /// of the train loader, on which training_step runs in train mode without gradients, metrics and hooks but
  /// on_swa_batch. torch.optim.swa_utils.update_bn. Throws Error outside of a fit.
  void update_batch_norm();
  /// How checkpoints are written, read and removed.
  CheckpointIO& checkpoint_io() const;
  /// A row of its own for the loggers, beside what `log` makes; the epoch is added.
  void log_row(const MetricMap& row, std::int64_t x);
  /// A line of text, without tearing the progress bar.
  void print(std::string_view line);
  Console& console();
  /// options().profiler, or null: for a ProfiledAction.
  Profiler* profiler() const;

  // ---- state ----

  const TrainerOptions& options() const;
  Stage stage() const;
  RunStatus status() const;
  /// Epochs begun and ended: the number, from 0, of the epoch that runs.
  std::int64_t current_epoch() const;
  /// Optimizer steps.
  std::int64_t global_step() const;
  /// Those that the loss scaler skipped, which count as no step. Waits for the device.
  std::int64_t skipped_steps() const;
  /// Accumulation windows of this fit whose loss or gradients were not finite, where on_bad_number looks for them.
  std::int64_t bad_windows() const;
  /// Of the running batch: its number in the epoch and over the run, and whether it is the epoch's last.
  std::int64_t batch_idx() const;
  std::int64_t total_batch_idx() const;
  bool is_last_batch() const;
  /// In on_train_batch_end: whether a validation comes next.
  bool check_follows() const;
  /// In on_validation_end: whether StepContext::skip_epoch broke the check off, so that it left no metrics.
  bool check_broke_off() const;
  /// Of the run, after limits: in an epoch, and in an evaluation with one of its loaders, or all together.
  /// unknown_size if there is a stream that no limit ends.
  std::int64_t num_training_batches() const;
  std::int64_t num_val_batches(std::optional<std::size_t> loader = {}) const;
  std::int64_t num_sanity_val_batches(std::optional<std::size_t> loader = {}) const;
  std::int64_t num_test_batches(std::optional<std::size_t> loader = {}) const;
  std::int64_t num_predict_batches(std::optional<std::size_t> loader = {}) const;
  /// Validations within fit so far.
  std::int64_t num_checks() const;
  /// The optimizer steps that a fit makes by its limits; -1: no limit.
  std::int64_t estimated_stepping_batches() const;

  /// The ranks that train together (options().devices, or a launcher's), this one's number among them all and on its
  /// machine, and the machine's. Only rank 0 writes text, logs and checkpoints.
  int world_size() const;
  int global_rank() const;
  int local_rank() const;
  int node_rank() const;
  bool is_global_zero() const;
  /// A dataset of which the ranks of a machine have one copy together: `make` is called on its first rank, and returns
  /// tensors whose rows are the samples. All ranks call this, in the same order; without other ranks it is make's.
  ///
  ///   void setup(Stage) override { train = trainer().shared_dataset([] { return read_images("data"); }); }
  TensorDataset shared_dataset(const std::function<std::vector<NamedTensor>()>& make);
  /// What these ranks can do together; null without other ranks.
  Collective* group() const;
  /// Where modules and batches are put.
  Device device() const;

  /// The newest value of every metric; of those for loggers; of those for the progress bar.
  const MetricMap& callback_metrics() const;
  const MetricMap& logged_metrics() const;
  const MetricMap& progress_bar_metrics() const;
  /// The value of a metric that decides something, or null: of several ranks rank 0's, with a warning unless it was
  /// logged with sync_dist. Throws ConfigError for one that was logged with rank_zero_only.
  const double* monitored(std::string_view name);

  const std::vector<Shared<Callback>>& callbacks() const;
  const std::vector<Shared<Logger>>& loggers() const;
  /// The first logger's folder, else default_root_dir.
  std::filesystem::path log_dir() const;
  /// The file that this run was resumed from, or empty.
  const std::filesystem::path& resumed_from() const;
  /// Those of the run, in configure_optimizers' order, and the first, or null.
  std::vector<optim::Optimizer*> optimizers() const;
  optim::Optimizer* optimizer() const;
  /// Each one's steps so far, and what configure_optimizers said of it.
  std::int64_t optimizer_steps(std::size_t i = 0) const;
  const OptimizerEntry& optimizer_entry(std::size_t i = 0) const;
  std::uint64_t seed() const;
  /// For the fits to come; as in TrainerOptions. Throw ConfigError as the constructor does, and Error during a run.
  void set_max_epochs(std::int64_t max_epochs);
  void set_max_steps(std::int64_t max_steps);
  /// What the run's random numbers are drawn from.
  Generator& generator();

 private:
  friend class TrainingModule;
  friend struct TrainerState;
  FitResult run_fit(TrainingModule& module, const ModuleParts& parts, DataModule& data, const FitOptions& options);
  FitResult run_fit(TrainingModule& module, const ModuleParts& parts, const DataLoader* train, const LoaderSet* val,
                    const FitOptions& options);
  // What is evaluated. Without a module: the last fitted one, which `complete` fills in.
  struct Subject {
    TrainingModule* module = nullptr;
    ModuleParts parts = {};
  };
  void complete(const char* what, Subject& subject, std::string& ckpt);
  std::vector<MetricMap> run_evaluation(Stage stage, Subject subject, DataModule& data, EvaluateOptions options);
  std::vector<MetricMap> run_evaluation(Stage stage, Subject subject, const LoaderSet* loaders,
                                        EvaluateOptions options);
  std::vector<std::vector<Batch>> run_prediction(Subject subject, DataModule& data, PredictOptions options);
  std::vector<std::vector<Batch>> run_prediction(Subject subject, const LoaderSet* loaders, PredictOptions options);
  std::vector<Batch> predict_one(Subject subject, const DataLoader& loader, const PredictOptions& options);

  std::unique_ptr<TrainerState> state_;
};

}  // namespace v0
}  // namespace anneal
