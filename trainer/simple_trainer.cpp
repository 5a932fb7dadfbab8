#include "anneal/trainer/simple_trainer.h"

#include <algorithm>

#include "anneal/core/ops.h"
#include "anneal/dist/gather.h"
#include "anneal/trainer/checkpoint.h"
#include "anneal/trainer/print_callbacks.h"

namespace anneal {
inline namespace v0 {
namespace {

// The mean loss of an epoch, over all ranks' samples.
struct LossTracker {
  double total = 0, samples = 0;

  void add(const BatchLoss& batch) {
    const auto size = static_cast<double>(batch.batch_size);
    total += batch.loss.item() * size;
    samples += size;
  }
  double mean(SimpleTrainer& trainer) const {
    const Tensor all = trainer.SimpleTrainer::gather(tensor({total, samples}, {1, 2}, {.dtype = DType::f64}));
    const std::vector<double> sums = sum(all, {0}).to_vector();
    return sums[0] / sums[1];
  }
};

constexpr const char* tracker_key = "train_loss";

}  // namespace

// The model as a module of the Trainer: its hooks call the SimpleTrainer's methods, and then the TrainerCallbacks.
class SimpleTrainer::Adapter final : public TrainingModule {
 public:
  explicit Adapter(SimpleTrainer& owner) : owner_(owner) { adopt("model", owner.model_); }

  OptimizerConfig configure_optimizers() override {
    optim::Optimizer& optimizer = *owner_.optimizer_;
    optimizer.rebuild();  // the model may have been moved or converted
    optimizer.zero_grad();
    return {owner_.optimizer_, owner_.create_scheduler(optimizer), Interval::step};
  }

  Tensor training_step(const Batch& batch, StepContext& step) override {
    event(&TrainerCallback::on_train_step_start);
    const BatchLoss result = owner_.calculate_train_batch_loss(batch);
    if (result.loss.defined()) {
      train_loss_.add(result);
      step.log("train_loss", result.loss, options(result, true));
    }
    event(&TrainerCallback::on_train_step_end, batch, result);
    return result.loss;
  }
  void backward(const Tensor& loss) override { owner_.backward_step(loss); }
  void configure_gradient_clipping(optim::Optimizer& optimizer, double value, std::string_view) override {
    if (value > 0) owner_.clip_gradients(optimizer, value);
  }
  void optimizer_step(optim::Optimizer& optimizer) override {
    owner_.optimizer_step(optimizer);
    stale_ = true;
  }
  void lr_scheduler_step(optim::LRScheduler& scheduler) override { owner_.scheduler_step(scheduler); }
  // Gradients are forgotten right after the step, and here only where a rank had no sample in the step's batch.
  void optimizer_zero_grad(optim::Optimizer&) override { forget_gradients(); }
  void on_train_batch_end(const Tensor&, const Batch&, StepContext&) override { forget_gradients(); }
  // A check begins. (The hook before is not called on ranks without a sample in the batch.)
  void on_validation_model_zero_grad() override {
    if (trainer().is_last_batch()) end_train_epoch();
    TrainingModule::on_validation_model_zero_grad();
  }

  void setup(Stage stage) override {
    in_fit_ = stage == Stage::fit;
    in_epoch_ = ending_ = stale_ = false;
  }
  void teardown(Stage) override { in_fit_ = false; }
  bool in_fit() const { return in_fit_; }

  void on_train_start() override {
    owner_.training_run_start();
    event(&TrainerCallback::on_training_run_start);
  }
  void on_train_epoch_start() override {
    train_loss_ = {};
    in_epoch_ = true;
    owner_.train_epoch_start();
  }
  void on_train_epoch_end() override {
    end_train_epoch();  // where no check came before
    ending_ = true;
    owner_.training_run_epoch_end();
    event(&TrainerCallback::on_training_run_epoch_end);
    owner_.history_.end_epoch();
    ending_ = false;
  }
  void on_train_end() override {
    owner_.training_run_end();
    event(&TrainerCallback::on_training_run_end);
  }

  void on_validation_start() override {
    if (trainer().stage() != Stage::validate) return;
    owner_.evaluation_run_start();
    event(&TrainerCallback::on_evaluation_run_start);
  }
  void on_validation_epoch_start() override {
    eval_loss_ = {};
    owner_.eval_epoch_start();
    event(&TrainerCallback::on_eval_epoch_start);
  }
  void validation_step(const Batch& batch, StepContext& step) override {
    event(&TrainerCallback::on_eval_step_start);
    const BatchLoss result = owner_.calculate_eval_batch_loss(batch);
    eval_loss_.add(result);
    if (trainer().stage() == Stage::fit) {
      LogOptions hidden = options(result, false);
      hidden.logger = hidden.prog_bar = false;
      step.log("val_loss", result.loss, options(result, false));
      step.log(eval_name(), result.loss, hidden);
    } else {
      step.log(eval_name(), result.loss, options(result, false));
    }
    event(&TrainerCallback::on_eval_step_end, batch, result);
  }
  void on_validation_epoch_end() override {
    owner_.history_.update(eval_name(), eval_loss_.mean(owner_));
    owner_.eval_epoch_end();
    event(&TrainerCallback::on_eval_epoch_end);
  }
  void on_validation_end() override {
    if (trainer().stage() != Stage::validate) return;
    owner_.evaluation_run_end();
    event(&TrainerCallback::on_evaluation_run_end);
  }

  void on_save_checkpoint(Checkpoint& checkpoint) override {
    RunHistory history = owner_.history_;
    if (ending_) history.end_epoch();  // a run that goes on from here goes on with the next one
    checkpoint.user.merge(history.state());
    checkpoint.user[tracker_key] = std::vector{train_loss_.total, train_loss_.samples, in_epoch_ ? 1.0 : 0.0};
  }
  void on_load_checkpoint(Checkpoint& checkpoint) override {
    owner_.history_.load_state(checkpoint.user);
    const auto it = checkpoint.user.find(tracker_key);
    if (it == checkpoint.user.end()) return;
    const auto& saved = std::get<std::vector<double>>(it->second);
    train_loss_ = {saved.at(0), saved.at(1)};
    in_epoch_ = saved.at(2) != 0;
  }

  template <class... P, class... A>
  void event(void (TrainerCallback::*hook)(SimpleTrainer&, P...), const A&... args) {
    for (const Shared<Callback>& callback : owner_.trainer_->callbacks())
      if (auto* ours = dynamic_cast<TrainerCallback*>(callback.get())) (ours->*hook)(owner_, args...);
  }

 private:
  static LogOptions options(const BatchLoss& batch, bool on_step) {
    return {.prog_bar = true, .on_step = on_step, .on_epoch = true, .sync_dist = true, .batch_size = batch.batch_size};
  }
  const char* eval_name() const {
    if (trainer().stage() == Stage::validate) return "evaluation_loss";
    return trainer().is_last_batch() ? "eval_loss_epoch" : "intermediate_eval_loss";
  }
  void forget_gradients() {
    if (std::exchange(stale_, false)) owner_.optimizer_zero_grad(*owner_.optimizer_);
  }
  // Before the epoch's evaluation, or when it ends early.
  void end_train_epoch() {
    if (!std::exchange(in_epoch_, false)) return;
    owner_.history_.update("train_loss_epoch", train_loss_.mean(owner_));
    owner_.train_epoch_end();
    event(&TrainerCallback::on_epoch_trained);
  }

  SimpleTrainer& owner_;
  LossTracker train_loss_, eval_loss_;
  bool in_epoch_ = false;  // the training part of one
  bool ending_ = false;    // an epoch
  bool stale_ = false;     // gradients that a step has used
  bool in_fit_ = false;
};

SimpleTrainer::SimpleTrainer(nn::Module* model, Loss loss, Shared<optim::Optimizer> optimizer, TrainerOptions options)
    : model_(*model), loss_(std::move(loss)), optimizer_(std::move(optimizer)), options_(std::move(options)) {
  check<ConfigError>(static_cast<bool>(loss_), "loss: expected a function of outputs and targets, got none");
  check<ConfigError>(static_cast<bool>(optimizer_), "optimizer: expected one, got none");
  const TrainerOptions defaults;
  check<ConfigError>(!options_.max_epochs && options_.max_steps == defaults.max_steps &&
                         options_.accumulate_grad_batches == defaults.accumulate_grad_batches &&
                         options_.gradient_clip_val == defaults.gradient_clip_val,
                     "max_epochs, max_steps, accumulate_grad_batches, gradient_clip_val: expected to be unset; train "
                     "takes num_epochs, max_num_train_steps, gradient_accumulation_steps, gradient_clip_value");
  if (options_.callbacks.empty()) options_.callbacks = default_callbacks();
  options_.max_epochs = 1;
  options_.num_sanity_val_steps = 0;  // a run begins with training
  options_.gradient_clip_algorithm = "value";
  trainer_ = std::make_unique<Trainer>(options_);
  options_.seed = trainer_->seed();
  adapter_ = std::make_unique<Adapter>(*this);
  adapter_->event(&TrainerCallback::on_init_end);
}
SimpleTrainer::~SimpleTrainer() = default;

std::vector<Shared<Callback>> SimpleTrainer::default_callbacks() {
  return {TerminateOnNaN(), PrintProgress(), PrintMetrics()};
}

FitResult SimpleTrainer::train(const Shared<const Dataset>& dataset, const TrainOptions& options) {
  check<ConfigError>(static_cast<bool>(dataset), "dataset: expected one, got none");
  check<ConfigError>(options.num_epochs >= 0, "num_epochs: expected at least 0, got {}", options.num_epochs);
  check<ConfigError>(options.max_num_train_steps.value_or(1) >= 1, "max_num_train_steps: expected at least 1, got {}",
                     options.max_num_train_steps.value_or(1));
  check<ConfigError>(options.gradient_accumulation_steps >= 1,
                     "gradient_accumulation_steps: expected at least 1, got {}", options.gradient_accumulation_steps);
  const auto changed = [&](DataLoaderOptions loader, const LoaderChanges& changes) {
    if (changes) changes(loader);
    return loader;
  };
  const DataLoader train = create_train_dataloader(
      dataset, changed(get_default_train_dl_options(options.per_device_batch_size), options.train_dataloader_options));
  eval_.reset();
  if (options.eval_dataset)
    eval_ = create_eval_dataloader(
        options.eval_dataset,
        changed(get_default_eval_dl_options(options.per_device_batch_size), options.eval_dataloader_options));
  config_ = create_run_config(train, eval_ ? &*eval_ : nullptr, options);
  if (options.reset_run_history) history_.reset();
  schedule_ = options.schedule;
  TrainerOptions run = options_;
  run.max_epochs = config_.num_epochs;
  run.max_steps = config_.max_num_train_steps;
  run.accumulate_grad_batches = config_.gradient_accumulation_steps;
  run.gradient_clip_val = config_.gradient_clip_value.value_or(0);
  trainer_ = std::make_unique<Trainer>(std::move(run));
  const FitOptions resume{.resume = options.resume_from};
  model_.train();
  TrainingModule& module = *adapter_;  // not by its own type: that it can evaluate is no sign that a run should
  return eval_ ? trainer_->fit(module, train, *eval_, resume) : trainer_->fit(module, train, resume);
}

MetricMap SimpleTrainer::evaluate(const Shared<const Dataset>& dataset, const EvaluationOptions& options) {
  check<ConfigError>(static_cast<bool>(dataset), "dataset: expected one, got none");
  history_.reset();
  DataLoaderOptions loader = get_default_eval_dl_options(options.per_device_batch_size);
  if (options.dataloader_options) options.dataloader_options(loader);
  return trainer_->validate(*adapter_, create_eval_dataloader(dataset, std::move(loader)), {.verbose = false}).at(0);
}

// A run of its own within the run: with another Trainer, and a module that has the evaluation alone.
double SimpleTrainer::eval_loss() {
  struct Evaluation final : TrainingModule {
    explicit Evaluation(SimpleTrainer& owner) : owner(owner) { adopt("model", owner.model_); }
    void validation_step(const Batch& batch, StepContext& step) override {
      const BatchLoss result = owner.calculate_eval_batch_loss(batch);
      step.log("loss", result.loss, {.sync_dist = true, .batch_size = result.batch_size});
    }
    SimpleTrainer& owner;
  };
  check(eval_.has_value(), "eval_loss: the run has no eval_dataset");
  TrainerOptions options = options_;
  options.callbacks.clear();
  options.limit_val_batches = trainer_->options().limit_val_batches;
  options.logger = false;
  options.enable_checkpointing = options.enable_progress_bar = options.enable_model_summary = false;
  Evaluation evaluation(*this);
  return Trainer(std::move(options)).validate(evaluation, *eval_, {.verbose = false}).at(0)["loss"];
}

Tensor SimpleTrainer::gather(const Tensor& tensor, std::optional<double> padding_value) {
  if (Collective* group = trainer_->group())
    return dist::gather(*group, tensor.to(trainer_->device()), padding_value).to(tensor.device());
  return tensor.rank() == 0 ? tensor.reshape({1}) : tensor;
}

void SimpleTrainer::save_checkpoint(const std::filesystem::path& path, bool save_optimizer) {
  if (adapter_->in_fit() && save_optimizer) return trainer_->save_checkpoint(path);
  if (!trainer_->is_global_zero()) return;
  Checkpoint checkpoint;
  checkpoint.weights_only = true;
  checkpoint.model = adapter_->state_dict();
  if (save_optimizer) {
    Checkpoint::Optimizer& saved = checkpoint.optimizers.emplace_back();
    saved.type = optimizer_->name();
    saved.state = optimizer_->state_dict();
    for (std::size_t g = 0; g < optimizer_->groups(); ++g) {
      saved.groups.push_back(optimizer_->numbers(g));
      saved.base_lr.push_back(optimizer_->lr(g));
    }
  }
  anneal::save_checkpoint(path, checkpoint);
}

void SimpleTrainer::load_checkpoint(const std::filesystem::path& path, bool load_optimizer) {
  const Checkpoint checkpoint = anneal::load_checkpoint(path);
  adapter_->load_state_dict(checkpoint.model);
  if (!load_optimizer) return;
  check(checkpoint.optimizers.size() == 1, "{}: expected the state of one optimizer, got {}", path.string(),
        checkpoint.optimizers.size());
  const Checkpoint::Optimizer& saved = checkpoint.optimizers[0];
  check(saved.type == optimizer_->name() && saved.groups.size() == optimizer_->groups(),
        "{}: the optimizer is {} with {} groups, expected {} with {}", path.string(), saved.type, saved.groups.size(),
        optimizer_->name(), optimizer_->groups());
  optimizer_->load_state_dict(saved.state);
  for (std::size_t g = 0; g < saved.groups.size(); ++g) optimizer_->set_lr(g, saved.groups[g].lr);
}

DataLoaderOptions SimpleTrainer::get_default_train_dl_options(std::int64_t batch_size) {
  return {.batch_size = batch_size, .shuffle = true, .seed = *options_.seed};
}
DataLoaderOptions SimpleTrainer::get_default_eval_dl_options(std::int64_t batch_size) {
  return {.batch_size = batch_size, .seed = *options_.seed};
}
DataLoader SimpleTrainer::create_train_dataloader(const Shared<const Dataset>& dataset, DataLoaderOptions options) {
  return DataLoader(dataset, std::move(options));
}
DataLoader SimpleTrainer::create_eval_dataloader(const Shared<const Dataset>& dataset, DataLoaderOptions options) {
  return DataLoader(dataset, std::move(options));
}
optim::Schedule SimpleTrainer::create_scheduler(optim::Optimizer&) { return schedule_; }

std::int64_t SimpleTrainer::steps_per_epoch(const DataLoader& train, std::int64_t accumulation) const {
  const TrainerOptions& o = trainer_->options();
  const std::int64_t all =
      o.use_distributed_sampler ? train.shard(trainer_->global_rank(), trainer_->world_size()).size() : train.size();
  const std::int64_t batches = limited_batches("limit_train_batches", o.limit_train_batches, all);
  return (batches + accumulation - 1) / accumulation;
}

RunConfig SimpleTrainer::create_run_config(const DataLoader& train, const DataLoader* eval,
                                           const TrainOptions& options) {
  const int ranks = trainer_->world_size();
  const std::int64_t steps = steps_per_epoch(train, options.gradient_accumulation_steps);
  const std::int64_t eval_size = eval ? eval->options().batch_size : 0;
  std::int64_t epochs = options.num_epochs;
  if (options.max_num_train_steps && steps > 0) epochs = (*options.max_num_train_steps + steps - 1) / steps;
  return {.num_epochs = epochs,
          .max_num_train_steps = options.max_num_train_steps.value_or(-1),
          .num_update_steps_per_epoch = steps,
          .train_per_device_batch_size = train.options().batch_size,
          .train_total_batch_size = train.options().batch_size * ranks,
          .eval_per_device_batch_size = eval_size,
          .eval_total_batch_size = eval_size * ranks,
          .gradient_accumulation_steps = options.gradient_accumulation_steps,
          .gradient_clip_value = options.gradient_clip_value,
          .world_size = ranks,
          .precision = options_.precision};
}

BatchLoss SimpleTrainer::loss_of(const Batch& batch) {
  Tensor outputs = model_(batch[0]);
  Tensor loss = loss_(outputs, batch[1]);
  return {std::move(loss), std::move(outputs), batch.size()};
}
BatchLoss SimpleTrainer::calculate_train_batch_loss(const Batch& batch) { return loss_of(batch); }
BatchLoss SimpleTrainer::calculate_eval_batch_loss(const Batch& batch) { return loss_of(batch); }
void SimpleTrainer::backward_step(const Tensor& loss) { loss.backward(); }
void SimpleTrainer::clip_gradients(optim::Optimizer& optimizer, double value) {
  adapter_->TrainingModule::clip_gradients(optimizer, value, "value");
}
void SimpleTrainer::optimizer_step(optim::Optimizer& optimizer) { optimizer.step(); }
void SimpleTrainer::scheduler_step(optim::LRScheduler& scheduler) { scheduler.step(); }
void SimpleTrainer::optimizer_zero_grad(optim::Optimizer& optimizer) { optimizer.zero_grad(); }

}  // namespace v0
}  // namespace anneal
