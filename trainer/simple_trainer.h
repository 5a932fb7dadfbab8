// The simple form: a model, a loss and an optimizer, and nothing else to write.
#pragma once

#include <concepts>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "anneal/trainer/run_history.h"
#include "anneal/trainer/trainer.h"
#include "anneal/trainer/trainer_callback.h"

namespace anneal {
inline namespace v0 {

/// What became of a batch.
struct BatchLoss {
  Tensor loss;  ///< a scalar
  Tensor model_outputs = {};
  std::int64_t batch_size = 0;  ///< the loss's weight in the epoch's mean
};

/// Changes the options that a loader has by default.
using LoaderChanges = std::function<void(DataLoaderOptions& options)>;

/// How SimpleTrainer::train runs.
struct TrainOptions {
  std::int64_t num_epochs = 1;
  Shared<const Dataset> eval_dataset = {};  ///< evaluated after each epoch
  std::int64_t per_device_batch_size = 8;
  std::optional<std::int64_t> max_num_train_steps = {};  ///< so many optimizer steps, instead of num_epochs
  std::int64_t gradient_accumulation_steps = 1;
  std::optional<double> gradient_clip_value = {};  ///< largest magnitude of an element
  optim::Schedule schedule = {};                   ///< of the learning rate; it moves with every optimizer step
  LoaderChanges train_dataloader_options = {};     ///< a batch_size set here wins
  LoaderChanges eval_dataloader_options = {};
  bool reset_run_history = true;
  std::string resume_from = {};  ///< FitOptions::resume
};

/// How SimpleTrainer::evaluate runs.
struct EvaluationOptions {
  std::int64_t per_device_batch_size = 8;
  LoaderChanges dataloader_options = {};
};

/// The numbers of a run.
struct RunConfig {
  std::int64_t num_epochs;
  std::int64_t max_num_train_steps;  ///< -1: no limit
  std::int64_t num_update_steps_per_epoch;
  std::int64_t train_per_device_batch_size, train_total_batch_size;  ///< of one rank, and of all
  std::int64_t eval_per_device_batch_size, eval_total_batch_size;    ///< 0: nothing is evaluated
  std::int64_t gradient_accumulation_steps;
  std::optional<double> gradient_clip_value;
  int world_size;
  std::string precision;
};

/// Trains a model on batches of inputs and targets, the first and second tensor of each:
///
///   SimpleTrainer trainer(model, [](const Tensor& out, const Tensor& y) { return cross_entropy(out, y); },
///                         optim::AdamW(model.parameters()));
///   trainer.train(train_set, {.num_epochs = 5, .eval_dataset = eval_set, .per_device_batch_size = 32});
///   trainer.evaluate(test_set);
///
/// It logs `train_loss`, by step and by epoch, and `val_loss`, which callbacks also find as `eval_loss_epoch`. The run
/// history has `train_loss_epoch`, `eval_loss_epoch` and, after evaluate, `evaluation_loss`. Each part of the loop is a
/// method that a derived class may override; the names are pytorch-accelerated's.
class SimpleTrainer {
 public:
  using Loss = std::function<Tensor(const Tensor& outputs, const Tensor& targets)>;

  /// The model must outlive this. Callbacks given replace the default ones. Throws ConfigError for options that are not
  /// permitted, or that TrainOptions decides.
  template <std::derived_from<nn::Module> M>
  SimpleTrainer(M& model, Loss loss, Shared<optim::Optimizer> optimizer, TrainerOptions options = {})
      : SimpleTrainer(checked(model), std::move(loss), std::move(optimizer), std::move(options)) {}
  virtual ~SimpleTrainer();
  SimpleTrainer(const SimpleTrainer&) = delete;
  SimpleTrainer& operator=(const SimpleTrainer&) = delete;

  /// PrintProgress and PrintMetrics.
  static std::vector<Shared<Callback>> default_callbacks();

  FitResult train(const Shared<const Dataset>& dataset, const TrainOptions& options = {});
  /// Forgets the run history, and returns the metrics.
  MetricMap evaluate(const Shared<const Dataset>& dataset, const EvaluationOptions& options = {});

  /// Of the run, or the next one, or the last.
  Trainer& trainer() const { return *trainer_; }
  RunHistory& run_history() { return history_; }
  const RunConfig& run_config() const { return config_; }
  optim::Optimizer& optimizer() const { return *optimizer_; }
  virtual nn::Module& get_model() { return model_; }
  virtual void print(std::string_view line) { trainer_->print(line); }
  /// All ranks' tensors, joined along the first dimension: dist::gather.
  virtual Tensor gather(const Tensor& tensor, std::optional<double> padding_value = {});

  /// In a run its whole state, to resume from; at other times the model and, if wanted, the optimizer.
  virtual void save_checkpoint(const std::filesystem::path& path, bool save_optimizer = true);
  /// The model's weights and, if wanted, the optimizer's state and rates.
  virtual void load_checkpoint(const std::filesystem::path& path, bool load_optimizer = true);

 protected:
  // ---- what a run is made of ----

  virtual DataLoaderOptions get_default_train_dl_options(std::int64_t batch_size);
  virtual DataLoaderOptions get_default_eval_dl_options(std::int64_t batch_size);
  virtual DataLoader create_train_dataloader(const Shared<const Dataset>& dataset, DataLoaderOptions options);
  virtual DataLoader create_eval_dataloader(const Shared<const Dataset>& dataset, DataLoaderOptions options);
  /// TrainOptions::schedule.
  virtual optim::Schedule create_scheduler(optim::Optimizer& optimizer);
  virtual RunConfig create_run_config(const DataLoader& train, const DataLoader* eval, const TrainOptions& options);

  // ---- the loop, in its order ----

  virtual void training_run_start() {}
  virtual void train_epoch_start() {}
  virtual BatchLoss calculate_train_batch_loss(const Batch& batch);
  virtual void backward_step(const Tensor& loss);
  /// With a gradient_clip_value, once for each optimizer step.
  virtual void clip_gradients(optim::Optimizer& optimizer, double value);
  virtual void optimizer_step(optim::Optimizer& optimizer);
  virtual void scheduler_step(optim::LRScheduler& scheduler);
  virtual void optimizer_zero_grad(optim::Optimizer& optimizer);
  virtual void train_epoch_end() {}
  virtual void eval_epoch_start() {}
  virtual BatchLoss calculate_eval_batch_loss(const Batch& batch);
  virtual void eval_epoch_end() {}
  virtual void training_run_epoch_end() {}
  virtual void training_run_end() {}
  virtual void evaluation_run_start() {}
  virtual void evaluation_run_end() {}

 private:
  class Adapter;
  template <class M>
  static nn::Module* checked(M& model) {
    nn::check_registered(model, sizeof(M));
    return &model;
  }
  SimpleTrainer(nn::Module* model, Loss loss, Shared<optim::Optimizer> optimizer, TrainerOptions options);
  BatchLoss loss_of(const Batch& batch);
  std::int64_t steps_per_epoch(const DataLoader& train, std::int64_t accumulation) const;

  nn::Module& model_;
  Loss loss_;
  Shared<optim::Optimizer> optimizer_;
  TrainerOptions options_;
  RunHistory history_;
  RunConfig config_{};
  optim::Schedule schedule_;
  std::unique_ptr<Adapter> adapter_;
  std::unique_ptr<Trainer> trainer_;
};

}  // namespace v0
}  // namespace anneal
