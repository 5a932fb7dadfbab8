// Callbacks of the simple form, and what they limit, print and save.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "anneal/core/autograd.h"
#include "anneal/tests/trainer/simple_support.h"
#include "anneal/trainer/batch_limits.h"
#include "anneal/trainer/checkpoint.h"
#include "anneal/trainer/model_ema.h"
#include "anneal/trainer/print_callbacks.h"
#include "anneal/trainer/save_callbacks.h"

namespace anneal_test {
namespace {

using Names = std::vector<std::string>;
using Values = std::vector<double>;

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

// T-680
TEST(SaveBestModel, MayLookForTheGreatestAndLeaveTheModelAsItIs) {
  const TempFolder dir;
  const auto best = std::make_shared<SaveBestModel>(SaveBestModelOptions{.save_path = dir / "best.safetensors",
                                                                         .greater_is_better = true,
                                                                         .reset_on_train = false,
                                                                         .load_saved_checkpoint = false});
  Values weights;
  nn::Linear model(1, 1);
  Given trainer(model, mse, sgd(model),
                quiet_with({best, LambdaCallback({.on_train_epoch_end = [&](Trainer&, TrainingModule&) {
                              weights.push_back(model.weight.item());
                            }})}));
  trainer.values = {5, 7, 6};
  trainer.train(line(8), {.num_epochs = 3, .eval_dataset = line(1)});
  EXPECT_EQ(best->best_metric(), 7);
  EXPECT_EQ(model.weight.item(), weights[2]) << "that of the last epoch";
  trainer.load_checkpoint(dir / "best.safetensors", false);
  EXPECT_EQ(model.weight.item(), weights[1]);
  trainer.values = {6};
  trainer.train(line(8), {.eval_dataset = line(1)});
  EXPECT_EQ(best->best_metric(), 7) << "a new run knows of the best before";
}

// C-117: the weight is 1, 2, 3, ... after each step, two to an epoch.
TEST(ModelEma, AveragesBesideTheModel) {
  const auto run = [](bool per_step, double& weight, double& average, RunHistory& history, double* saved) {
    const TempFolder dir;
    nn::Linear model(1, 1, {.bias = false});
    {
      const NoGrad no_grad;
      model.weight.fill_(0);
    }
    const auto ema = std::make_shared<ModelEma>(
        ModelEmaOptions{.decay = 0.5, .save_path = dir / "ema.safetensors", .per_step = per_step});
    // The training's gradient is -1, the evaluation's loss the weight.
    struct Climbing : SimpleTrainer {
      using SimpleTrainer::SimpleTrainer;
      BatchLoss calculate_train_batch_loss(const Batch& batch) override {
        return {-sum(get_model()(batch[0])), {}, batch.size()};
      }
      BatchLoss calculate_eval_batch_loss(const Batch& batch) override {
        return {sum(get_model()(batch[0])), {}, batch.size()};
      }
    } trainer(model, mse, optim::SGD(model.parameters(), {.lr = 1}),
              quiet_with({ema, LambdaCallback({.on_train_end = [&](Trainer&, TrainingModule&) {
                            average = ema->averages().at(0).tensor.item();
                          }})}));
    const TensorDataset one{{"x", ones({2, 1})}, {"y", ones({2, 1})}}, single{{"x", ones({1, 1})}, {"y", ones({1, 1})}};
    trainer.train(one, {.num_epochs = 2, .eval_dataset = single, .per_device_batch_size = 1});
    weight = model.weight.item();
    history = trainer.run_history();
    const Checkpoint file = load_checkpoint(dir / "ema.safetensors");
    EXPECT_TRUE(file.weights_only);
    *saved = file.model.at(0).tensor.item();
  };
  double weight = 0, average = 0, saved = 0;
  RunHistory history;
  run(false, weight, average, history, &saved);
  EXPECT_EQ(weight, 4) << "its own";
  EXPECT_EQ(average, 2.5) << "from 0: half of 2 is 1, and the mean of that and 4";
  EXPECT_EQ(history.values("ema_model_eval_loss_epoch"), (Values{1, 2.5}));
  EXPECT_EQ(history.values("eval_loss_epoch"), (Values{2, 4})) << "of the model as it trains";
  EXPECT_EQ(saved, 1) << "the better of the two";
  run(true, weight, average, history, &saved);
  EXPECT_EQ(average, (((0.5 / 1 + 2) / 2 + 3) / 2 + 4) / 2);
  EXPECT_THROW(ModelEma({.decay = 2}), ConfigError);
}

TEST(ModelEma, ResumesToTheBit) {
  const TempFolder dir;
  const std::string file = (dir / "c.safetensors").string();
  const auto run = [&](std::int64_t save_at, bool resume) {
    manual_seed(4);
    nn::Linear model(1, 1);
    SimpleTrainer trainer(model, mse, sgd(model),
                          quiet_with({ModelEma({.decay = 0.9, .save_path = dir / "ema.safetensors"}),
                                      AtBatchEnd([&](Trainer& t, std::int64_t) {
                                        if (t.total_batch_idx() == save_at) t.save_checkpoint(file);
                                      })}));
    trainer.train(
        line(8),
        {.num_epochs = 3, .eval_dataset = line(4), .per_device_batch_size = 4, .resume_from = resume ? file : ""});
    return trainer.run_history().values("ema_model_eval_loss_epoch");
  };
  const Values whole = run(-1, false);
  EXPECT_EQ(run(3, false), whole);
  EXPECT_EQ(run(-1, true), whole);
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
  EXPECT_TRUE(load_checkpoint(dir / "after_decay_4.safetensors").weights_only);
  EXPECT_NE(message_of<Error>([&] {
              Trainer(quiet({.max_epochs = 3}))
                  .fit(probe, counting_loader(8), {.resume = (dir / "after_decay_4.safetensors").string()});
            }).find("weights only"),
            std::string::npos);
}

// T-114
TEST(SaveCallbacks, WriteNothingInAFastDevRun) {
  const TempFolder dir;
  nn::Linear model(1, 1);
  for (const bool evaluates : {true, false}) {
    TrainerOptions options = quiet_with({ModelEma({.save_path = dir / "ema.safetensors"}),
                                         SaveTrainingState({.save_dir = dir / "states", .save_every_n_steps = 1}),
                                         WSDCheckpoint({.save_dir = dir / "wsd"})});
    if (evaluates) options.callbacks.push_back(SaveBestModel({.save_path = dir / "best.safetensors"}));
    options.fast_dev_run = 4;
    SimpleTrainer trainer(model, mse, sgd(model), options);
    TrainOptions run{.per_device_batch_size = 1};
    if (evaluates) run.eval_dataset = line(2);
    EXPECT_EQ(trainer.train(line(8), run).global_step, 4);
  }
  EXPECT_EQ(stems(dir.path()), Names());
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

  const auto watch = std::make_shared<Watch>();
  SimpleTrainer evaluated_less(model, mse, sgd(model), quiet_with({LimitEvalSteps(3, false), watch}));
  EXPECT_EQ(evaluated_less.train(line(8), {.eval_dataset = line(8), .per_device_batch_size = 1}).global_step, 8);
  EXPECT_EQ(watch->val_batches, 3);
  EXPECT_THROW(LimitEvalSteps(0), ConfigError);

  // Of the checks within an epoch, here after 3 and 6 batches of 8 and at the end, only those.
  *watch = {};
  SimpleTrainer checked(model, mse, sgd(model), quiet_with({StepBasedEvaluation(3), LimitEvalSteps(2), watch}));
  checked.train(line(8), {.eval_dataset = line(5), .per_device_batch_size = 1});
  EXPECT_EQ(watch->checks.size(), 2U);
  EXPECT_EQ(watch->val_batches, 4);
  *watch = {};
  SimpleTrainer to_the_end(model, mse, sgd(model), quiet_with({StepBasedEvaluation(4), LimitEvalSteps(2), watch}));
  to_the_end.train(line(8), {.eval_dataset = line(5), .per_device_batch_size = 1});
  EXPECT_EQ(watch->val_batches, 2 + 5);

  ::setenv("ANNEAL_LIMIT_BATCHES", "2", 1);
  Probe probe;
  EXPECT_EQ(Trainer(quiet({.max_epochs = 1})).fit(probe, counting_loader(5)).global_step, 2);
  ::setenv("ANNEAL_LIMIT_BATCHES", "two", 1);
  EXPECT_TRUE(message_of<ConfigError>([] { Trainer(quiet({.max_epochs = 1})); }).starts_with("ANNEAL_LIMIT_BATCHES"));
  ::unsetenv("ANNEAL_LIMIT_BATCHES");
}

// T-661
TEST(TerminateOnNaN, EndsARunWhoseEvaluationHasNoNumber) {
  nn::Linear model(1, 1);
  const auto guard = std::make_shared<TerminateOnNaN>();
  Given trainer(model, mse, sgd(model), quiet_with({guard}));
  trainer.values = {1, NAN, 1};
  const FitResult result = trainer.train(line(2), {.num_epochs = 3, .eval_dataset = line(1)});
  EXPECT_EQ(result.reason, StopReason::bad_number);
  EXPECT_EQ(result.epochs, 2);
  EXPECT_NE(result.message.find("epoch 1"), std::string::npos) << result.message;
  EXPECT_TRUE(guard->triggered());
  trainer.values = {1, 1, 1};
  EXPECT_EQ(trainer.train(line(2), {.num_epochs = 3, .eval_dataset = line(1)}).epochs, 3);
  EXPECT_FALSE(guard->triggered());
}

TEST(StepBasedEvaluation, NamesWhatIsNotTheEpochs) {
  nn::Linear model(1, 1);
  SimpleTrainer trainer(model, mse, sgd(model), quiet_with({StepBasedEvaluation(2)}));
  trainer.train(line(6), {.eval_dataset = line(2), .per_device_batch_size = 1});
  EXPECT_EQ(trainer.run_history().values("intermediate_eval_loss").size(), 2);
  EXPECT_EQ(trainer.run_history().values("eval_loss_epoch").size(), 1);
  EXPECT_THROW(StepBasedEvaluation(0), ConfigError);
}

}  // namespace
}  // namespace anneal_test
