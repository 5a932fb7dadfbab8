// Parts of a model that join in later.
#include <gtest/gtest.h>

#include <cmath>

#include "anneal/tests/trainer/support.h"
#include "anneal/trainer/checkpoint.h"

namespace anneal_test {
namespace {

using Values = std::vector<double>;

struct Finetuned : TrainingModule {
  nn::Sequential backbone{{this, "backbone"}, nn::Linear(1, 2), nn::Tanh(), nn::BatchNorm1d(2)};
  nn::Linear head{{this, "head"}, 2, 1};
  bool filters = true, scheduled = false;
  Values rates;   // of the last group in each epoch, none before there is a second one
  Values firsts;  // of the first group
  Tensor training_step(const Batch& batch, StepContext&) override {
    return 0.05 * mean(square(head(backbone(batch["x"])) - 0.5));
  }
  OptimizerConfig configure_optimizers() override {
    auto all = filters ? nn::filter_params(*this) : parameters();
    return {optim::SGD(std::move(all), {.lr = 1, .momentum = 0.5}),
            scheduled ? optim::exponential_lr(0.9) : optim::Schedule(), Interval::step};
  }
  void on_train_epoch_start() override {
    const optim::Optimizer& optimizer = *trainer().optimizer();
    firsts.push_back(optimizer.lr());
    if (optimizer.groups() > 1) rates.push_back(optimizer.lr(1));
  }
  Values all() const {
    Values values;
    for (const NamedTensor& entry : state_dict())
      for (const double v : entry.tensor.to_vector()) values.push_back(v);
    return values;
  }
};

void expect_near(const Values& got, const Values& wanted) {
  ASSERT_EQ(got.size(), wanted.size());
  for (std::size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], wanted[i], 1e-12) << i;
}

Values backbone_rates(BackboneFinetuningOptions options, std::int64_t epochs = 7) {
  options.unfreeze_backbone_at_epoch = 2;
  Finetuned module;
  Trainer(quiet({.max_epochs = epochs, .callbacks = {BackboneFinetuning(options)}})).fit(module, counting_loader(1, 2));
  return module.rates;
}

// C-174
TEST(BackboneFinetuning, TheBackbonesRateGrowsToThatOfTheRest) {
  expect_near(backbone_rates({}), {0.1, 0.2, 0.4, 0.8, 1});
  expect_near(backbone_rates({.should_align = false}), {0.1, 0.2, 0.4, 0.8, 1.6});
  expect_near(backbone_rates({.backbone_initial_lr = 0.3}, 4), {0.3, 0.6});
  expect_near(backbone_rates({.lambda = [](std::int64_t epoch) { return epoch == 4 ? 3.0 : 1.0; }}),
              {0.1, 0.3, 0.3, 0.3, 0.3});
}

TEST(BackboneFinetuning, WithoutABackboneItThrows) {
  Probe probe;
  Trainer trainer(quiet({.max_epochs = 1, .callbacks = {BackboneFinetuning()}}));
  EXPECT_NE(message_of<ConfigError>([&] { trainer.fit(probe, counting_loader(1)); }).find("backbone"),
            std::string::npos);
  EXPECT_THROW(BackboneFinetuning({.unfreeze_backbone_at_epoch = -1}), ConfigError);
  EXPECT_THROW(BackboneFinetuning({.lambda = nullptr}), ConfigError);
  EXPECT_THROW(BackboneFinetuning({.backbone_initial_ratio_lr = -1}), ConfigError);
}

TEST(BackboneFinetuning, TheBackboneStandsStillUntilItsEpoch) {
  for (const bool train_bn : {true, false}) {
    Finetuned module;
    nn::Linear& linear = static_cast<nn::Linear&>(module.backbone[0]);
    nn::BatchNorm1d& norm = static_cast<nn::BatchNorm1d&>(module.backbone[2]);
    const Values weight = linear.weight.to_vector(), scale = norm.weight.to_vector();
    Values weight_then, scale_then;
    double batches_then = 0;
    Trainer trainer(quiet({.max_epochs = 2,
                           .callbacks = {BackboneFinetuning({.unfreeze_backbone_at_epoch = 1, .train_bn = train_bn}),
                                         LambdaCallback({.on_train_epoch_end = [&](Trainer& t, TrainingModule&) {
                                           if (t.current_epoch() > 0) return;
                                           weight_then = linear.weight.to_vector();
                                           scale_then = norm.weight.to_vector();
                                           batches_then = norm.num_batches_tracked.item();
                                         }})}}));
    trainer.fit(module, counting_loader(3, 2));
    EXPECT_EQ(weight_then, weight);
    EXPECT_EQ(scale_then == scale, !train_bn);
    EXPECT_EQ(batches_then, train_bn ? 3 : 0);
    EXPECT_NE(linear.weight.to_vector(), weight);
    EXPECT_EQ(norm.weight.to_vector() == scale, !train_bn);
    EXPECT_EQ(norm.num_batches_tracked.item(), train_bn ? 6 : 0);
  }
}

TEST(BackboneFinetuning, WhatTheOptimizerHasStaysInItsGroup) {
  std::string text;
  TrainerOptions options =
      quiet({.max_epochs = 2, .callbacks = {BackboneFinetuning({.unfreeze_backbone_at_epoch = 1})}});
  options.sink = [&](std::string_view line) { text += line; };
  Finetuned module;
  module.filters = false;
  const Values before = static_cast<nn::Linear&>(module.backbone[0]).weight.to_vector();
  Trainer(options).fit(module, counting_loader(2, 2));
  EXPECT_EQ(module.rates, Values());
  EXPECT_NE(text.find("filter_params"), std::string::npos);
  EXPECT_NE(static_cast<nn::Linear&>(module.backbone[0]).weight.to_vector(), before) << "it is trained all the same";
}

TEST(BackboneFinetuning, PrintsTheRates) {
  std::string text;
  TrainerOptions options =
      quiet({.max_epochs = 3,
             .callbacks = {BackboneFinetuning({.unfreeze_backbone_at_epoch = 1, .verbose = true, .rounding = 1})}});
  options.sink = [&](std::string_view line) { text += line; };
  Finetuned module;
  Trainer(options).fit(module, counting_loader(1, 2));
  EXPECT_NE(text.find("epoch 1: the learning rate is 1, the backbone's 0.1\n"), std::string::npos) << text;
  EXPECT_NE(text.find("epoch 2: the learning rate is 1, the backbone's 0.2\n"), std::string::npos) << text;
}

TEST(BackboneFinetuning, ResumesToTheBit) {
  const TempFolder dir;
  const auto run = [&](std::int64_t save_at, bool resume) {
    manual_seed(3);
    Finetuned module;
    module.scheduled = true;
    Trainer trainer(quiet({.max_epochs = 4,
                           .callbacks = {BackboneFinetuning({.unfreeze_backbone_at_epoch = 2, .train_bn = false}),
                                         AtBatchEnd([&](Trainer& t, std::int64_t) {
                                           if (t.total_batch_idx() == save_at) t.save_checkpoint(dir / "c.safetensors");
                                         })}}));
    trainer.fit(module, counting_loader(3, 2), {.resume = resume ? (dir / "c.safetensors").string() : ""});
    EXPECT_EQ(trainer.optimizer()->groups(), 2);
    return module.all();
  };
  const Values whole = run(-1, false);
  for (const std::int64_t at : {2, 5, 6, 10}) {
    EXPECT_EQ(run(at, false), whole);
    EXPECT_EQ(run(-1, true), whole) << "from batch " << at;
  }
}

// T-621
TEST(BackboneFinetuning, TheMonitorSeesTheNewGroupAlsoInAResumedRun) {
  struct Rows : Logger {
    std::vector<std::string> rows;
    void log_metrics(const MetricMap& metrics, std::int64_t step) override {
      rows.push_back(format("{}: {}", step, metrics.names()));
    }
    fs::path log_dir() const override { return "."; }
  };
  const TempFolder dir;
  const auto run = [&](std::int64_t save_at, const std::string& resume) {
    const auto rows = std::make_shared<Rows>();
    Finetuned module;
    Trainer(quiet({.max_epochs = 3,
                   .log_every_n_steps = 1,
                   .logger = rows,
                   .callbacks = {LearningRateMonitor({.logging_interval = Interval::step}),
                                 BackboneFinetuning({.unfreeze_backbone_at_epoch = 1}),
                                 AtBatchEnd([&](Trainer& t, std::int64_t) {
                                   if (t.total_batch_idx() == save_at) t.save_checkpoint(dir / "c.safetensors");
                                 })}}))
        .fit(module, counting_loader(2, 2), {.resume = resume});
    return rows->rows;
  };
  const std::vector<std::string> whole = run(3, "");
  ASSERT_EQ(whole.size(), 6);
  EXPECT_EQ(whole[1], "2: lr-SGD, epoch");
  EXPECT_EQ(whole[2], "3: lr-SGD/pg1, lr-SGD/pg2, epoch");
  EXPECT_EQ(run(-1, (dir / "c.safetensors").string()), (std::vector(whole.begin() + 3, whole.end())))
      << "from the row of the step in which it was saved";
}

TEST(BackboneFinetuning, NoScheduleMovesTheNewGroup) {
  Finetuned module;
  module.scheduled = true;
  Trainer(quiet({.max_epochs = 4,
                 .callbacks = {BackboneFinetuning({.unfreeze_backbone_at_epoch = 1,
                                                   .lambda = [](std::int64_t) { return 1.0; },
                                                   .should_align = false})}}))
      .fit(module, counting_loader(2, 2));
  const double first = std::pow(0.9, 2);
  expect_near(module.firsts, {1, first, std::pow(0.9, 4), std::pow(0.9, 6)});
  expect_near(module.rates, {first * 0.1, first * 0.1, first * 0.1});
}

TEST(BaseFinetuning, UnfreezesWhatItsFunctionSays) {
  struct ByEpoch : BaseFinetuning {
    std::vector<std::int64_t> epochs;
    void freeze_before_training(TrainingModule& module) override {
      nn::freeze(static_cast<Finetuned&>(module).backbone, false);
    }
    void finetune_function(TrainingModule& module, std::int64_t epoch, optim::Optimizer& optimizer) override {
      epochs.push_back(epoch);
      if (epoch != 1) return;
      EXPECT_TRUE(unfreeze_and_add_param_group(module, static_cast<Finetuned&>(module).backbone[0], optimizer, {}));
    }
  };
  const auto callback = std::make_shared<ByEpoch>();
  Finetuned module;
  Trainer(quiet({.max_epochs = 3, .callbacks = {callback}})).fit(module, counting_loader(1, 2));
  EXPECT_EQ(callback->epochs, (std::vector<std::int64_t>{0, 1, 2}));
  expect_near(module.rates, {0.1, 0.1});
}

}  // namespace
}  // namespace anneal_test
