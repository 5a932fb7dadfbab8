// Averages of weights during a run, and rates that follow a metric.
#include <gtest/gtest.h>

#include "anneal/core/autograd.h"
#include "anneal/tests/trainer/support.h"
#include "anneal/trainer/checkpoint.h"

namespace anneal_test {
namespace {

using Values = std::vector<double>;

// A weight that is 1, 2, 3, ... after each step.
struct Climbing : TrainingModule {
  nn::Parameter weight{{this, "weight"}, zeros({1}, {.dtype = DType::f64})};
  nn::Buffer seen{{this, "seen"}, zeros({1}, {.dtype = DType::i64})};
  Values validated;
  Tensor training_step(const Batch&, StepContext&) override {
    seen.fill_(seen.item() + 1);
    return -sum(weight);
  }
  void validation_step(const Batch&, StepContext&) override { validated.push_back(weight.item()); }
  OptimizerConfig configure_optimizers() override { return {optim::SGD(parameters(), {.lr = 1})}; }
};

double average_after_four(Shared<Callback> averaging) {
  Climbing module;
  Trainer(quiet({.max_epochs = 1, .callbacks = {std::move(averaging)}})).fit(module, counting_loader(4));
  return module.weight.item();
}

TEST(WeightAveraging, FollowsItsRule) {
  EXPECT_DOUBLE_EQ(average_after_four(WeightAveraging()), 2.5);
  EXPECT_DOUBLE_EQ(average_after_four(EMAWeightAveraging({.decay = 0.9})), 1.561);
  EXPECT_DOUBLE_EQ(average_after_four(EMAWeightAveraging({.decay = 0.9, .update_every_n_steps = 2})), 1.2);
  EXPECT_DOUBLE_EQ(average_after_four(EMAWeightAveraging({.decay = 0.9, .update_starting_at_step = 2})), 3.1);
  EXPECT_DOUBLE_EQ(average_after_four(EMAWeightAveraging({.decay = 0.9, .update_starting_at_step = 100})), 4)
      << "none was taken, and the model keeps its own";
  // At the epoch's end alone: a copy of its last weight.
  EXPECT_DOUBLE_EQ(average_after_four(EMAWeightAveraging({.update_every_n_steps = 0, .update_starting_at_epoch = 0})),
                   4);
  EXPECT_THROW(EMAWeightAveraging({.decay = 1.5}), ConfigError);
  EXPECT_THROW(EMAWeightAveraging({.update_every_n_steps = -1}), ConfigError);
}

TEST(WeightAveraging, CountsStepsAndNotMicroBatches) {
  auto averaging = std::make_shared<EMAWeightAveraging>(EMAWeightAveragingOptions{.decay = 0.5});
  std::int64_t count = 0;
  Climbing module;
  Trainer(quiet({.max_epochs = 1,
                 .accumulate_grad_batches = 2,
                 .callbacks = {averaging,
                               LambdaCallback(
                                   {.on_train_end = [&](Trainer&, TrainingModule&) { count = averaging->count(); }})}}))
      .fit(module, counting_loader(4));
  EXPECT_EQ(count, 2);
}

TEST(WeightAveraging, ChecksSeeTheAverageAndTrainingItsOwn) {
  const auto fit = [](EMAWeightAveragingOptions options) {
    Climbing module;
    Trainer(quiet({.max_epochs = 1, .val_check_interval = 1, .callbacks = {EMAWeightAveraging(options)}}))
        .fit(module, counting_loader(3), counting_loader(1));
    return std::pair(module.validated, module.weight.item());
  };
  // The sanity check comes first.
  EXPECT_EQ(fit({.decay = 0.5}), std::pair(Values({0, 1, 1.5, 2.25}), 2.25));
  EXPECT_EQ(fit({.decay = 0.5, .evaluate_average = false}), std::pair(Values({0, 1, 2, 3}), 2.25));
  EXPECT_EQ(fit({.decay = 0.5, .update_starting_at_step = 100}), std::pair(Values({0, 1, 2, 3}), 3.0));
}

TEST(WeightAveraging, ACheckpointHoldsBoth) {
  const TempFolder dir;
  Climbing module;
  Trainer(quiet({.max_epochs = 1,
                 .callbacks = {EMAWeightAveraging({.decay = 0.5}), AtBatchEnd([&](Trainer& trainer, std::int64_t) {
                                 trainer.save_checkpoint(dir / "c.safetensors");
                               })}}))
      .fit(module, counting_loader(3));
  const Checkpoint checkpoint = load_checkpoint(dir / "c.safetensors");
  EXPECT_EQ(checkpoint.model.at(0).name, "weight");
  EXPECT_EQ(checkpoint.model.at(0).tensor.item(), 2.25);
  EXPECT_EQ(checkpoint.model.at(1).tensor.item(), 3) << "integer buffers are copied";
  EXPECT_EQ(checkpoint.extra.at("current_model").at(0).tensor.item(), 3);
  EXPECT_EQ(checkpoint.extra.at("averaging").back().tensor.item(), 3);

  Climbing other;
  Trainer trainer(quiet({.max_epochs = 2}));
  EXPECT_THROW(trainer.save_checkpoint(dir / "d"), Error);
  trainer.fit(other, counting_loader(3), {.resume = (dir / "c.safetensors").string()});
  EXPECT_EQ(other.weight.item(), 2.25 + 3) << "without the callback the averages are the weights";
}

TEST(WeightAveraging, OneWithoutAveragesIsWhereTheyStart) {
  const TempFolder dir;
  const std::string path = (dir / "c.safetensors").string();
  Climbing module;
  Trainer(quiet({.max_epochs = 1,
                 .callbacks = {AtBatchEnd([&](Trainer& trainer, std::int64_t) { trainer.save_checkpoint(path); })}}))
      .fit(module, counting_loader(3));
  std::string text;
  TrainerOptions options = quiet({.max_epochs = 2, .callbacks = {WeightAveraging()}});
  options.sink = [&](std::string_view line) { text += line; };
  Climbing other;
  Trainer(options).fit(other, counting_loader(3), {.resume = path});
  EXPECT_EQ(other.weight.item(), (4 + 5 + 6) / 3.0) << "it trained from 3 on";
  EXPECT_NE(text.find("no averages of weights"), std::string::npos) << text;
}

TEST(WeightAveraging, BuffersMayStayTheModels) {
  struct Filling : Climbing {
    nn::Buffer level{{this, "level"}, zeros({1}, {.dtype = DType::f64})};
    Tensor training_step(const Batch& batch, StepContext& step) override {
      level.fill_(static_cast<double>(step.batch_idx()));
      return Climbing::training_step(batch, step);
    }
  };
  for (const bool use_buffers : {true, false}) {
    Filling module;
    Trainer(quiet({.max_epochs = 1, .callbacks = {WeightAveraging({.use_buffers = use_buffers})}}))
        .fit(module, counting_loader(4));
    EXPECT_EQ(module.weight.item(), 2.5);
    EXPECT_EQ(module.level.item(), use_buffers ? 1.5 : 3);
  }
}

TEST(WeightAveraging, ResumesToTheBit) {
  for (const char* precision : {"32-true", "bf16-true", "16-mixed"}) {
    const TempFolder dir;
    struct Noisy : TrainingModule {
      nn::Linear layer{{this, "layer"}, 3, 2};
      nn::BatchNorm1d norm{{this, "norm"}, 2};
      Tensor training_step(const Batch& batch, StepContext&) override {
        return mean(square(norm(layer(batch["x"].expand({batch.size(), 3}))) - 1.5));
      }
      void validation_step(const Batch&, StepContext&) override {}
      OptimizerConfig configure_optimizers() override { return {optim::AdamW(parameters(), {.lr = 0.01})}; }
    };
    const auto run = [&](std::int64_t save_at, const std::string& resume) {
      manual_seed(4);
      Noisy module;
      Trainer trainer(quiet(
          {.precision = precision,
           .max_epochs = 2,
           .val_check_interval = 2,
           .callbacks = {EMAWeightAveraging({.decay = 0.7, .warmup = true}), AtBatchEnd([&](Trainer& t, std::int64_t) {
                           if (t.total_batch_idx() == save_at) t.save_checkpoint(dir / "c.safetensors");
                         })}}));
      trainer.fit(module, counting_loader(4, 4), counting_loader(1), {.resume = resume});
      Values all;
      for (const NamedTensor& entry : module.state_dict())
        for (const double v : entry.tensor.to_vector()) all.push_back(v);
      return all;
    };
    const Values whole = run(-1, "");
    for (std::int64_t at = 0; at < 8; at += 3) {
      EXPECT_EQ(run(at, ""), whole);
      EXPECT_EQ(run(-1, (dir / "c.safetensors").string()), whole) << precision << " from batch " << at;
    }
  }
}

// The rate in each epoch's end, where val_loss never gets better.
Values rates_on_a_plateau(OptimizerEntry entry, TrainerOptions options, bool validates = true) {
  struct Flat : Probe {
    OptimizerEntry entry;
    Values rates;
    OptimizerConfig configure_optimizers() override {
      entry.optimizer = optim::SGD(parameters(), {.lr = 1});
      return {entry};
    }
    void on_train_epoch_end() override { rates.push_back(trainer().optimizer()->lr()); }
  } module;
  module.entry = std::move(entry);
  module.in_training_step = [](const Batch&, StepContext& step) { step.log("train_loss", 1, {.on_epoch = true}); };
  module.in_validation_step = [](const Batch&, StepContext& step) { step.log("val_loss", 1); };
  Trainer trainer(quiet(std::move(options)));
  if (validates) trainer.fit(module, counting_loader(4), counting_loader(1));
  else trainer.fit(module, counting_loader(4));
  return module.rates;
}

TEST(Plateau, LooksAtTheMetricOfTheEpochThatEnded) {
  const optim::PlateauOptions now{.factor = 0.5, .patience = 0};
  EXPECT_EQ(rates_on_a_plateau({.plateau = now, .monitor = "val_loss"}, {.max_epochs = 3}), (Values{1, 1, 0.5}));
  EXPECT_EQ(rates_on_a_plateau({.plateau = now, .monitor = "train_loss_epoch"}, {.max_epochs = 3}, false),
            (Values{1, 1, 0.5}));
  // Two checks in an epoch are two looks of a plateau that looks by steps.
  EXPECT_EQ(rates_on_a_plateau({.interval = Interval::step, .plateau = now, .monitor = "val_loss"},
                               {.max_epochs = 2, .val_check_interval = 2}),
            (Values{0.5, 0.125}));
}

TEST(Plateau, ACheckThatDidNotRunIsNoLook) {
  EXPECT_EQ(rates_on_a_plateau({.plateau = optim::PlateauOptions{.factor = 0.5, .patience = 0}, .monitor = "val_loss"},
                               {.max_epochs = 6, .check_val_every_n_epoch = 2}),
            (Values{1, 1, 1, 1, 0.5, 0.5}));
}

TEST(Plateau, AMissingMetricIsAnErrorUnlessItMayMiss) {
  const auto fit = [](bool strict) {
    return rates_on_a_plateau({.plateau = optim::PlateauOptions{}, .monitor = "nothing", .strict = strict},
                              {.max_epochs = 2});
  };
  EXPECT_NE(message_of<ConfigError>([&] { fit(true); }).find("val_loss"), std::string::npos)
      << "it names those there are";
  EXPECT_EQ(fit(false), (Values{1, 1}));
  EXPECT_THROW(rates_on_a_plateau({.plateau = optim::PlateauOptions{}}, {.max_epochs = 1}), ConfigError);
  EXPECT_THROW(
      rates_on_a_plateau({.schedule = optim::constant_lr(), .plateau = optim::PlateauOptions{}, .monitor = "a"},
                         {.max_epochs = 1}),
      ConfigError);
}

TEST(Schedules, KnowTheRunsNumbers) {
  struct Scheduled : Probe {
    double last = 0;
    OptimizerConfig configure_optimizers() override {
      return {optim::SGD(parameters(), {.lr = 1}), optim::linear_lr(1, 0.5, optim::total_steps), Interval::step};
    }
    void on_train_epoch_end() override { last = trainer().optimizer()->lr(); }
  } module;
  Trainer(quiet({.max_epochs = 3, .accumulate_grad_batches = 2})).fit(module, counting_loader(4));
  EXPECT_DOUBLE_EQ(module.last, 0.5);

  struct OneCycle : Probe {
    Interval interval = Interval::epoch;
    OptimizerConfig configure_optimizers() override {
      return {optim::SGD(parameters(), {.lr = 1}), optim::one_cycle_lr(optim::total_steps, {.cycle_momentum = false}),
              interval};
    }
  } cycle;
  std::string text;
  TrainerOptions options = quiet({.max_epochs = 2, .limit_val_batches = 0});
  options.sink = [&](std::string_view line) { text += line; };
  Trainer(options).fit(cycle, counting_loader(4));
  EXPECT_NE(text.find("one_cycle_lr, moves by epochs"), std::string::npos) << text;
  text.clear();
  cycle.interval = Interval::step;
  Trainer(options).fit(cycle, counting_loader(4));
  EXPECT_EQ(text, "");
  EXPECT_THROW(Trainer(quiet({.max_epochs = -1})).fit(module, counting_loader(4)), ConfigError);
}

}  // namespace
}  // namespace anneal_test
