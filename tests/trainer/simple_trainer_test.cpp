// The simple form: a model, a loss and an optimizer.
#include "anneal/trainer/simple_trainer.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "anneal/core/autograd.h"
#include "anneal/tests/trainer/support.h"
#include "anneal/trainer/batch_limits.h"
#include "anneal/trainer/checkpoint.h"
#include "anneal/trainer/print_callbacks.h"
#include "anneal/trainer/save_callbacks.h"

namespace anneal_test {
namespace {

using Names = std::vector<std::string>;
using Values = std::vector<double>;

Tensor mse(const Tensor& outputs, const Tensor& targets) { return mse_loss(outputs, targets); }

TensorDataset line(std::int64_t n) {
  const Tensor x = arange(n).to(DType::f32).reshape({n, 1}) * (1 / static_cast<double>(n));
  return TensorDataset{{"x", x}, {"y", x * 2 + 1.0}};
}

Shared<optim::Optimizer> sgd(const nn::Module& model, double lr = 0.1) {
  return optim::SGD(model.parameters(), {.lr = lr, .momentum = 0.5});
}

TrainerOptions quiet_with(std::vector<Shared<Callback>> callbacks = {}) {
  return quiet({.callbacks = std::move(callbacks)});
}

// Its methods and callbacks write their names down.
struct Recording : SimpleTrainer {
  using SimpleTrainer::SimpleTrainer;
  Names* calls = nullptr;

  void training_run_start() override { calls->push_back("training_run_start"); }
  void train_epoch_start() override { calls->push_back("train_epoch_start"); }
  BatchLoss calculate_train_batch_loss(const Batch& batch) override {
    calls->push_back("calculate_train_batch_loss");
    return SimpleTrainer::calculate_train_batch_loss(batch);
  }
  void backward_step(const Tensor& loss) override {
    calls->push_back("backward_step");
    SimpleTrainer::backward_step(loss);
  }
  void clip_gradients(optim::Optimizer& optimizer, double value) override {
    calls->push_back("clip_gradients");
    SimpleTrainer::clip_gradients(optimizer, value);
  }
  void optimizer_step(optim::Optimizer& optimizer) override {
    calls->push_back("optimizer_step");
    SimpleTrainer::optimizer_step(optimizer);
  }
  void scheduler_step(optim::LRScheduler& scheduler) override {
    calls->push_back("scheduler_step");
    SimpleTrainer::scheduler_step(scheduler);
  }
  void optimizer_zero_grad(optim::Optimizer& optimizer) override {
    calls->push_back("optimizer_zero_grad");
    SimpleTrainer::optimizer_zero_grad(optimizer);
  }
  void train_epoch_end() override { calls->push_back("train_epoch_end"); }
  void eval_epoch_start() override { calls->push_back("eval_epoch_start"); }
  BatchLoss calculate_eval_batch_loss(const Batch& batch) override {
    calls->push_back("calculate_eval_batch_loss");
    return SimpleTrainer::calculate_eval_batch_loss(batch);
  }
  void eval_epoch_end() override { calls->push_back("eval_epoch_end"); }
  void training_run_epoch_end() override { calls->push_back("training_run_epoch_end"); }
  void training_run_end() override { calls->push_back("training_run_end"); }
  void evaluation_run_start() override { calls->push_back("evaluation_run_start"); }
  void evaluation_run_end() override { calls->push_back("evaluation_run_end"); }
};
struct RecordingCallback : TrainerCallback {
  explicit RecordingCallback(Names& calls) : calls(calls) {}
  Names& calls;
  void on_init_end(SimpleTrainer&) override { calls.push_back("on_init_end"); }
  void on_training_run_start(SimpleTrainer&) override { calls.push_back("on_training_run_start"); }
  void on_train_step_start(SimpleTrainer&) override { calls.push_back("on_train_step_start"); }
  void on_train_step_end(SimpleTrainer&, const Batch&, const BatchLoss& result) override {
    EXPECT_EQ(result.model_outputs.size(0), result.batch_size);
    calls.push_back("on_train_step_end");
  }
  void on_epoch_trained(SimpleTrainer&) override { calls.push_back("on_epoch_trained"); }
  void on_eval_epoch_start(SimpleTrainer&) override { calls.push_back("on_eval_epoch_start"); }
  void on_eval_step_start(SimpleTrainer&) override { calls.push_back("on_eval_step_start"); }
  void on_eval_step_end(SimpleTrainer&, const Batch&, const BatchLoss&) override {
    calls.push_back("on_eval_step_end");
  }
  void on_eval_epoch_end(SimpleTrainer&) override { calls.push_back("on_eval_epoch_end"); }
  void on_training_run_epoch_end(SimpleTrainer&) override { calls.push_back("on_training_run_epoch_end"); }
  void on_training_run_end(SimpleTrainer&) override { calls.push_back("on_training_run_end"); }
  void on_evaluation_run_start(SimpleTrainer&) override { calls.push_back("on_evaluation_run_start"); }
  void on_evaluation_run_end(SimpleTrainer&) override { calls.push_back("on_evaluation_run_end"); }
};

// C-187
TEST(SimpleTrainer, CallsItsMethodsInOrder) {
  Names calls;
  nn::Linear model(1, 1);
  Recording trainer(model, mse, sgd(model), quiet_with({RecordingCallback(calls)}));
  EXPECT_EQ(calls, Names{"on_init_end"});
  calls.clear();
  trainer.calls = &calls;
  trainer.train(line(6), {.eval_dataset = line(2),
                          .per_device_batch_size = 2,
                          .gradient_accumulation_steps = 2,
                          .gradient_clip_value = 1,
                          .schedule = optim::constant_lr()});
  const Names batch{"on_train_step_start", "calculate_train_batch_loss", "on_train_step_end", "backward_step"},
      step{"clip_gradients", "optimizer_step", "scheduler_step", "optimizer_zero_grad"};
  Names wanted{"training_run_start", "on_training_run_start", "train_epoch_start"};
  const auto add = [&](const Names& more) { wanted.insert(wanted.end(), more.begin(), more.end()); };
  add(batch);
  for (int i = 0; i < 2; ++i) {
    add(batch);
    add(step);
  }
  const Names evaluation{"eval_epoch_start", "on_eval_epoch_start", "on_eval_step_start", "calculate_eval_batch_loss",
                         "on_eval_step_end", "eval_epoch_end",      "on_eval_epoch_end"};
  add({"train_epoch_end", "on_epoch_trained"});
  add(evaluation);
  add({"training_run_epoch_end", "on_training_run_epoch_end", "training_run_end", "on_training_run_end"});
  EXPECT_EQ(calls, wanted);

  calls.clear();
  trainer.evaluate(line(2));
  wanted = {"evaluation_run_start", "on_evaluation_run_start"};
  add(evaluation);
  add({"evaluation_run_end", "on_evaluation_run_end"});
  EXPECT_EQ(calls, wanted);
}

// C-188
TEST(SimpleTrainer, ANumberOfStepsOverridesThatOfEpochs) {
  nn::Linear model(1, 1);
  SimpleTrainer trainer(model, mse, sgd(model), quiet_with());
  const FitResult result =
      trainer.train(line(8), {.num_epochs = 5, .per_device_batch_size = 2, .max_num_train_steps = 6});
  EXPECT_EQ(result.global_step, 6);
  EXPECT_EQ(result.epochs, 2);
  const RunConfig& config = trainer.run_config();
  EXPECT_EQ(config.num_epochs, 2);
  EXPECT_EQ(config.max_num_train_steps, 6);
  EXPECT_EQ(config.num_update_steps_per_epoch, 4);
  EXPECT_EQ(config.train_total_batch_size, 2);
  EXPECT_EQ(config.eval_per_device_batch_size, 0);
  EXPECT_EQ(config.world_size, 1);
  EXPECT_EQ(config.precision, "32-true");
  EXPECT_FALSE(config.gradient_clip_value);
}

// C-190
TEST(SimpleTrainer, TheHistoryHasTheLosses) {
  nn::Linear model(1, 1);
  SimpleTrainer trainer(model, mse, sgd(model), quiet_with());
  trainer.train(line(8), {.num_epochs = 3, .eval_dataset = line(4)});
  RunHistory& history = trainer.run_history();
  EXPECT_EQ(history.metric_names(), (Names{"eval_loss_epoch", "train_loss_epoch"}));
  EXPECT_EQ(history.values("train_loss_epoch").size(), 3);
  EXPECT_LT(history.latest("eval_loss_epoch"), history.values("eval_loss_epoch")[0]);
  EXPECT_EQ(history.current_epoch(), 4);
  const MetricMap metrics = trainer.evaluate(line(4));
  EXPECT_EQ(history.metric_names(), Names{"evaluation_loss"});
  EXPECT_NEAR(history.latest("evaluation_loss"), metrics["evaluation_loss"], 1e-6);
  EXPECT_EQ(metrics.size(), 1);
  trainer.train(line(8), {.reset_run_history = false});
  EXPECT_EQ(history.metric_names(), (Names{"evaluation_loss", "train_loss_epoch"}));
}

// T-206: the module form gives the same weights.
TEST(SimpleTrainer, IsAModuleWithTheseSteps) {
  struct Whole : TrainingModule {
    nn::Linear model{{this, "model"}, 1, 1};
    Tensor training_step(const Batch& batch, StepContext&) override { return mse(model(batch[0]), batch[1]); }
    OptimizerConfig configure_optimizers() override { return {sgd(model), optim::exponential_lr(0.9), Interval::step}; }
  } whole;
  manual_seed(2);
  nn::Linear model(1, 1);
  {
    const NoGrad no_grad;
    whole.model.weight.copy_(model.weight);
    whole.model.bias.copy_(model.bias);
  }
  SimpleTrainer trainer(model, mse, sgd(model), quiet_with());
  const LoaderChanges in_order = [](DataLoaderOptions& options) {
    options.shuffle = false;
    options.batch_size = 3;
  };
  trainer.train(line(8), {.num_epochs = 2,
                          .eval_dataset = line(2),
                          .gradient_accumulation_steps = 2,
                          .schedule = optim::exponential_lr(0.9),
                          .train_dataloader_options = in_order});
  Trainer(quiet({.max_epochs = 2, .accumulate_grad_batches = 2})).fit(whole, DataLoader(line(8), {.batch_size = 3}));
  EXPECT_EQ(model.weight.item(), whole.model.weight.item());
  EXPECT_EQ(trainer.run_config().train_per_device_batch_size, 3) << "the loader's own options win";
  const MetricMap& metrics = trainer.trainer().callback_metrics();
  for (const char* name : {"train_loss_step", "train_loss_epoch", "val_loss", "eval_loss_epoch"})
    EXPECT_TRUE(metrics.contains(name)) << name;
  EXPECT_FALSE(trainer.trainer().logged_metrics().contains("eval_loss_epoch")) << "val_loss is";
  EXPECT_NEAR(metrics["train_loss_epoch"], trainer.run_history().latest("train_loss_epoch"), 1e-6);
}

TEST(SimpleTrainer, TheReportedLossIsNotDivided) {
  nn::Linear model(1, 1);
  SimpleTrainer trainer(
      model, [](const Tensor& outputs, const Tensor&) { return sum(outputs) * 0 + 8.0; }, sgd(model), quiet_with());
  trainer.train(line(4), {.per_device_batch_size = 1, .gradient_accumulation_steps = 4});
  EXPECT_EQ(trainer.run_history().latest("train_loss_epoch"), 8);
}

TEST(SimpleTrainer, GradientsAreClippedByValue) {
  nn::Linear model(1, 1);
  const double before = model.weight.item();
  SimpleTrainer trainer(
      model, [](const Tensor& outputs, const Tensor&) { return sum(outputs) * 1000; },
      optim::SGD(model.parameters(), {.lr = 1}), quiet_with());
  trainer.train(TensorDataset{{"x", ones({1, 1})}, {"y", ones({1, 1})}}, {.gradient_clip_value = 0.5});
  EXPECT_NEAR(model.weight.item(), before - 0.5, 1e-6);
}

TEST(SimpleTrainer, AModelMayBeConverted) {
  nn::Linear model(1, 1);
  TrainerOptions options = quiet_with();
  options.precision = "64-true";
  SimpleTrainer trainer(model, mse, sgd(model), options);
  trainer.train(line(8), {.num_epochs = 20, .per_device_batch_size = 2});
  EXPECT_EQ(model.weight.dtype(), DType::f64);
  EXPECT_LT(trainer.run_history().latest("train_loss_epoch"), 0.1);
}

TEST(SimpleTrainer, BadArgumentsAreNamed) {
  nn::Linear model(1, 1);
  const auto make = [&](TrainerOptions options) {
    return message_of<ConfigError>([&] { SimpleTrainer(model, mse, sgd(model), quiet(std::move(options))); });
  };
  EXPECT_NE(make({.max_epochs = 2}).find("num_epochs"), std::string::npos);
  EXPECT_NE(make({.gradient_clip_val = 2}).find("gradient_clip_value"), std::string::npos);
  EXPECT_THROW(SimpleTrainer(model, nullptr, sgd(model), quiet_with()), ConfigError);
  SimpleTrainer trainer(model, mse, sgd(model), quiet_with());
  EXPECT_THROW(trainer.train(line(2), {.num_epochs = -1}), ConfigError);
  EXPECT_THROW(trainer.train(line(2), {.max_num_train_steps = 0}), ConfigError);
  EXPECT_THROW(trainer.train(line(2), {.gradient_accumulation_steps = 0}), ConfigError);
  EXPECT_THROW(trainer.train({}), ConfigError);
  EXPECT_THROW(trainer.evaluate({}), ConfigError);
}

TEST(SimpleTrainer, ResumesToTheBitWithItsHistory) {
  const TempFolder dir;
  const std::string file = (dir / "c.safetensors").string();
  const auto run = [&](std::int64_t save_at, bool resume) {
    manual_seed(4);
    nn::Linear model(1, 1);
    SimpleTrainer trainer(model, mse, sgd(model), quiet_with({AtBatchEnd([&](Trainer& t, std::int64_t) {
                            if (t.total_batch_idx() == save_at) t.save_checkpoint(file);
                          })}));
    trainer.train(line(12), {.num_epochs = 3,
                             .eval_dataset = line(4),
                             .per_device_batch_size = 3,
                             .schedule = optim::exponential_lr(0.95),
                             .resume_from = resume ? file : ""});
    Values all = trainer.run_history().values("train_loss_epoch");
    for (const double v : trainer.run_history().values("eval_loss_epoch")) all.push_back(v);
    all.push_back(model.weight.item());
    all.push_back(static_cast<double>(trainer.run_history().current_epoch()));
    return all;
  };
  const Values whole = run(-1, false);
  for (const std::int64_t at : {1, 3, 6}) {
    run(at, false);
    EXPECT_EQ(run(-1, true), whole) << "from batch " << at;
  }
}

TEST(SimpleTrainer, SavesAndLoadsBetweenRuns) {
  const TempFolder dir;
  nn::Linear model(1, 1);
  SimpleTrainer trainer(model, mse, sgd(model), quiet_with());
  trainer.train(line(8), {});
  trainer.save_checkpoint(dir / "all.safetensors");
  trainer.save_checkpoint(dir / "model.safetensors", false);
  const double weight = model.weight.item();

  nn::Linear other(1, 1);
  SimpleTrainer second(other, mse, sgd(other, 0.7), quiet_with());
  second.load_checkpoint(dir / "model.safetensors", false);
  EXPECT_EQ(other.weight.item(), weight);
  EXPECT_EQ(second.optimizer().lr(), 0.7);
  EXPECT_THROW(second.load_checkpoint(dir / "model.safetensors"), Error);
  second.load_checkpoint(dir / "all.safetensors");
  EXPECT_EQ(second.optimizer().lr(), 0.1);
  EXPECT_EQ(second.optimizer().state_dict()[0].tensor.item(), trainer.optimizer().state_dict()[0].tensor.item());
}

// ---- callbacks ----

TEST(PrintCallbacks, SayWhereTheRunIs) {
  std::string text;
  TrainerOptions options = quiet();
  options.sink = [&](std::string_view lines) { text += lines; };
  nn::Linear model(1, 1);
  SimpleTrainer trainer(
      model, [](const Tensor& outputs, const Tensor&) { return sum(outputs) * 0 + 2.0; }, sgd(model), options);
  trainer.train(line(4), {.eval_dataset = line(4)});
  EXPECT_EQ(text, "training run begins\nepoch 1\ntrain_loss_epoch: 2\neval_loss_epoch: 2\ntraining run ends\n");
  text.clear();
  trainer.evaluate(line(4));
  EXPECT_EQ(text, "evaluation_loss: 2\n");
}

// The loss of epoch e is values[e].
struct Given : SimpleTrainer {
  using SimpleTrainer::SimpleTrainer;
  Values values;
  BatchLoss calculate_eval_batch_loss(const Batch& batch) override {
    const auto epoch = static_cast<std::size_t>(run_history().current_epoch() - 1);
    return {scalar(values[epoch]), {}, batch.size()};
  }
};

TEST(SaveBestModel, TheRunEndsWithTheBest) {
  for (const bool whole : {true, false}) {
    const TempFolder dir;
    const auto best = std::make_shared<SaveBestModel>(
        SaveBestModelOptions{.save_path = dir / "kept" / "best.safetensors", .save_optimizer = whole});
    Values weights;
    nn::Linear model(1, 1);
    Given trainer(model, mse, sgd(model),
                  quiet_with({best, LambdaCallback({.on_train_epoch_end = [&](Trainer&, TrainingModule&) {
                                weights.push_back(model.weight.item());
                              }})}));
    trainer.values = {5, 3, 3, 4};
    trainer.train(line(8), {.num_epochs = 4, .eval_dataset = line(1)});
    EXPECT_EQ(best->best_metric(), 3);
    EXPECT_EQ(model.weight.item(), weights[1]) << "strictly better: the first of equals";
    trainer.values = {9};
    trainer.train(line(8), {.eval_dataset = line(1)});
    EXPECT_EQ(best->best_metric(), 9) << "a new run begins anew";
  }
}

TEST(SaveTrainingState, KeepsTheNewest) {
  const TempFolder dir;
  const auto run = [&](SaveTrainingStateOptions options) {
    options.save_dir = dir / "states";
    fs::remove_all(options.save_dir);
    Probe probe;
    Trainer(quiet({.max_epochs = 3, .callbacks = {SaveTrainingState(options)}})).fit(probe, counting_loader(4));
    return stems(options.save_dir);
  };
  EXPECT_EQ(run({}), Names{"step_12"});
  EXPECT_EQ(run({.save_every_n_epochs = 2}), (Names{"step_12", "step_8"}));
  EXPECT_EQ(run({.save_every_n_steps = 5, .save_at_end = false}), (Names{"step_10", "step_5"}));
  EXPECT_EQ(run({.save_every_n_epochs = 1, .save_every_n_steps = 3, .max_checkpoints = 2}),
            (Names{"step_12", "step_9"}));
  EXPECT_THROW(SaveTrainingState({.save_every_n_epochs = -1}), ConfigError);
  EXPECT_THROW(SaveTrainingState({.max_checkpoints = 0}), ConfigError);
}

TEST(WSDCheckpoint, SavesAroundTheDecays) {
  const TempFolder dir;
  Probe probe;
  const optim::WSDOptions schedule{.decay_phase_ratio = 0.25, .num_checkpoints = 2};
  Trainer(quiet({.max_epochs = 2, .callbacks = {WSDCheckpoint({.save_dir = dir.path(), .schedule = schedule})}}))
      .fit(probe, counting_loader(8));
  Names wanted;
  for (const optim::DecayPhase& decay : optim::wsd_decays(16, schedule)) {
    wanted.push_back(format("after_decay_{}", decay.end));
    wanted.push_back(format("before_decay_{}", decay.begin));
  }
  std::sort(wanted.begin(), wanted.end());
  EXPECT_EQ(stems(dir.path()), wanted);
  EXPECT_EQ(wanted.size(), 4);
  EXPECT_EQ(load_checkpoint(dir / "before_decay_3.safetensors").counters.global_step, 3);
  EXPECT_EQ(load_checkpoint(dir / "after_decay_4.safetensors").optimizers.size(), 0);
}

// T-681: pytorch-accelerated's early stopping, by the names here.
TEST(SimpleTrainer, StopsEarlyByTheEvaluationsLoss) {
  nn::Linear model(1, 1);
  Given trainer(model, mse, sgd(model),
                quiet_with({EarlyStopping({.monitor = "eval_loss_epoch", .min_delta = 0.01, .patience = 1})}));
  trainer.values = {5, 4, 3.995, 1};
  EXPECT_EQ(trainer.train(line(2), {.num_epochs = 4, .eval_dataset = line(1)}).epochs, 3);
}

// T-663
TEST(LimitBatches, CutsEpochsAndEvaluations) {
  nn::Linear model(1, 1);
  SimpleTrainer trainer(model, mse, sgd(model), quiet_with({LimitBatches(3)}));
  EXPECT_EQ(trainer.train(line(8), {.eval_dataset = line(8), .per_device_batch_size = 1}).global_step, 3);
  EXPECT_EQ(trainer.run_config().num_update_steps_per_epoch, 3);
  EXPECT_EQ(trainer.trainer().num_training_batches(), 3);
  EXPECT_THROW(LimitBatches(0), ConfigError);

  ::setenv("ANNEAL_LIMIT_BATCHES", "2", 1);
  Probe probe;
  EXPECT_EQ(Trainer(quiet({.max_epochs = 1})).fit(probe, counting_loader(5)).global_step, 2);
  ::setenv("ANNEAL_LIMIT_BATCHES", "two", 1);
  EXPECT_TRUE(message_of<ConfigError>([] { Trainer(quiet({.max_epochs = 1})); }).starts_with("ANNEAL_LIMIT_BATCHES"));
  ::unsetenv("ANNEAL_LIMIT_BATCHES");
}

TEST(StepBasedEvaluation, NamesWhatIsNotTheEpochs) {
  nn::Linear model(1, 1);
  SimpleTrainer trainer(model, mse, sgd(model), quiet_with({StepBasedEvaluation(2)}));
  trainer.train(line(6), {.eval_dataset = line(2), .per_device_batch_size = 1});
  EXPECT_EQ(trainer.run_history().values("intermediate_eval_loss").size(), 2);
  EXPECT_EQ(trainer.run_history().values("eval_loss_epoch").size(), 1);
  EXPECT_THROW(StepBasedEvaluation(0), ConfigError);
}

TEST(SimpleTrainer, GathersWhatOneRankHas) {
  nn::Linear model(1, 1);
  SimpleTrainer trainer(model, mse, sgd(model), quiet_with());
  EXPECT_EQ(trainer.gather(scalar(3)).to_vector(), Values{3});
  EXPECT_EQ(trainer.gather(ones({2, 2})).shape(), Shape({2, 2}));
}

}  // namespace
}  // namespace anneal_test
