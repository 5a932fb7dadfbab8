// What a module may do within a micro-batch: weights, early ends of epochs, clipping of its own, batches on their way.
#include <gtest/gtest.h>

#include <cmath>

#include "anneal/core/autograd.h"
#include "anneal/tests/trainer/support.h"
#include "anneal/trainer/checkpoint.h"

namespace anneal_test {
namespace {

// Words of sentences that differ in length: the loss is a sum over the words of a batch.
struct WeightedProbe : TrainingModule {
  nn::Parameter weight{{this, "weight"}, full({3}, 0.5, {.dtype = DType::f64})};
  bool sets_weight = true;

  Tensor training_step(const Batch& batch, StepContext& step) override {
    const Tensor words = batch["x"];  // [samples, 4, 3], zeros behind a sentence's end
    const Tensor loss = sum(square(matmul(words, weight.reshape({3, 1})) - 1.0) * batch["mask"]);
    const double count = sum(batch["mask"]).item();
    if (!sets_weight) return loss / count;
    step.set_weight(count);
    return loss;
  }
  OptimizerConfig configure_optimizers() override { return {optim::SGD(parameters(), {.lr = 0.1, .momentum = 0.9})}; }
};

DataLoader sentences(std::int64_t batch_size) {
  const std::int64_t n = 10;
  Generator generator(3);
  const GeneratorScope scope(generator);
  const Tensor x = randn({n, 4, 3}, {.dtype = DType::f64});
  const Tensor mask = zeros({n, 4, 1}, {.dtype = DType::f64});
  for (std::int64_t i = 0; i < n; ++i) mask.select(0, i).slice(0, 0, 1 + i % 4).fill_(1);
  return DataLoader(TensorDataset{{"x", x}, {"mask", mask}}, {.batch_size = batch_size});
}

Tensor trained_on(const DataLoader& loader, std::int64_t accumulate, bool sets_weight) {
  WeightedProbe probe;
  probe.sets_weight = sets_weight;
  Trainer(quiet({.max_epochs = 5, .accumulate_grad_batches = accumulate})).fit(probe, loader);
  return probe.weight;
}

double difference(const Tensor& a, const Tensor& b) {
  const std::vector<double> x = a.to_vector(), y = b.to_vector();
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) worst = std::max(worst, std::abs(x[i] - y[i]));
  return worst;
}

TEST(SetWeight, AWindowIsAsOneBatchOfItsItems) {
  // Windows of 4, 4 and 2 sentences: cut into single ones they hold as many words as the batches do.
  const Tensor batches = trained_on(sentences(4), 1, false);
  EXPECT_LT(difference(trained_on(sentences(4), 1, true), batches), 1e-12);
  EXPECT_LT(difference(trained_on(sentences(1), 4, true), batches), 1e-12);
  EXPECT_LT(difference(trained_on(sentences(2), 2, true), batches), 1e-12);
  EXPECT_GT(difference(trained_on(sentences(1), 4, false), batches), 1e-4) << "the mean of means is another thing";
  Probe probe;
  probe.in_training_step = [](const Batch&, StepContext& step) { step.set_weight(step.batch_idx() == 0 ? 3 : 5); };
  Trainer(quiet({.max_epochs = 1, .accumulate_grad_batches = 2})).fit(probe, counting_loader(2));
  EXPECT_NEAR(probe.weight.item(), -0.1 * (1 + 2) / 8, 1e-7);
}

TEST(SetWeight, AllStepsOfAWindowOrNone) {
  Probe probe;
  probe.in_training_step = [](const Batch&, StepContext& step) {
    if (step.batch_idx() == 1) step.set_weight(2);
  };
  const auto fit = [&] {
    Trainer(quiet({.max_epochs = 1, .accumulate_grad_batches = 2})).fit(probe, counting_loader(4));
  };
  EXPECT_NE(message_of<Error>(fit).find("set_weight"), std::string::npos);
  probe.in_training_step = [](const Batch&, StepContext& step) { step.set_weight(std::nan("")); };
  EXPECT_NE(message_of<Error>(fit).find("got nan"), std::string::npos);
}

TEST(SetWeight, AWindowWithoutItemsIsNoStep) {
  Probe probe;
  probe.in_training_step = [](const Batch&, StepContext& step) { step.set_weight(step.batch_idx() < 2 ? 0 : 1); };
  Trainer trainer(quiet({.max_epochs = 1, .accumulate_grad_batches = 2}));
  EXPECT_EQ(trainer.fit(probe, counting_loader(4)).global_step, 1);
}

TEST(SkipEpoch, EndsTheEpochAndStepsTheOpenWindow) {
  struct Skipping : Probe {
    std::vector<double> rates;
    void on_train_batch_start(const Batch&, StepContext& step) override {
      if (step.batch_idx() == 3) step.skip_epoch();
    }
    void on_train_epoch_end() override { rates.push_back(trainer().optimizer()->lr()); }
    OptimizerConfig configure_optimizers() override {
      return {optim::SGD(parameters(), {.lr = 1}), optim::exponential_lr(0.5)};
    }
  } probe;
  auto watch = std::make_shared<Watch>();
  Trainer trainer(quiet({.max_epochs = 2, .accumulate_grad_batches = 2, .callbacks = {watch}}));
  const FitResult result = trainer.fit(probe, counting_loader(5), counting_loader(1));
  EXPECT_EQ(result.epochs, 2);
  EXPECT_EQ(result.global_step, 4) << "two windows in each epoch, the second one of one batch";
  EXPECT_EQ(watch->batches, 6);
  EXPECT_TRUE(watch->checks.empty());
  EXPECT_EQ(watch->epoch_ends, 2);
  EXPECT_EQ(probe.rates, (std::vector<double>{0.5, 0.25}));
  // Steps of 1 and 0.5 on the means of (1, 2), (3): gradients 1.5 and 3.
  EXPECT_FLOAT_EQ(static_cast<float>(probe.weight.item()), -(1 + 0.5f) * (1.5f + 3));

  struct Early : Probe {
    void on_train_batch_start(const Batch&, StepContext& step) override {
      if (step.batch_idx() == 1) step.skip_epoch();
    }
  } early;
  watch = std::make_shared<Watch>();
  Trainer single(quiet({.max_epochs = 1, .callbacks = {watch}}));
  EXPECT_EQ(single.fit(early, counting_loader(4), counting_loader(1)).global_step, 1);
  EXPECT_TRUE(watch->checks.empty());
  EXPECT_EQ(watch->epoch_ends, 1);
}

TEST(Clipping, AModuleMayChooseItsOwn) {
  struct Own : Probe {
    double seen = 0;
    void configure_gradient_clipping(optim::Optimizer& optimizer, double value, std::string_view) override {
      seen = weight.grad().item();
      clip_gradients(optimizer, value > 0 ? value : 0.25, "value");
    }
  } own;
  Trainer(quiet({.max_epochs = 1})).fit(own, counting_loader(2));
  EXPECT_EQ(own.seen, 2) << "before it is clipped";
  EXPECT_FLOAT_EQ(static_cast<float>(own.weight.item()), -0.1f * 2 * 0.25f);
  const std::string message = message_of<ConfigError>(
      [&] { Trainer(quiet({.max_epochs = 1, .gradient_clip_val = 1})).fit(own, counting_loader(2)); });
  EXPECT_NE(message.find("gradient_clip_val is 1 by norm, got 1 by value"), std::string::npos) << message;

  struct Other : Probe {
    double limit = 0;  // none
    void configure_gradient_clipping(optim::Optimizer& optimizer, double, std::string_view algorithm) override {
      if (limit > 0) clip_gradients(optimizer, limit, algorithm);
    }
  } other;
  Trainer trainer(quiet({.max_epochs = 1, .gradient_clip_val = 1}));
  trainer.fit(other, counting_loader(2));
  EXPECT_NEAR(other.weight.item(), -0.1 * (1 + 2), 1e-6) << "the second gradient is above 1";
  other.limit = 2;
  EXPECT_NE(message_of<ConfigError>([&] { trainer.fit(other, counting_loader(2)); }).find("got 2 by norm"),
            std::string::npos);
}

TEST(BatchTransfer, HooksChangeTheBatchInOrder) {
  struct Changing : Probe {
    std::vector<std::string> log;
    void on_before_batch_transfer(Batch& batch) override {
      log.push_back("before");
      batch.set("x", batch["x"] + 1.0);
    }
    void transfer_batch_to_device(Batch& batch, Device device) override {
      log.push_back("transfer");
      Probe::transfer_batch_to_device(batch, device);
    }
    void on_after_batch_transfer(Batch& batch) override {
      log.push_back("after");
      batch.set("x", batch["x"] * 2.0);
    }
  } probe;
  std::vector<double> seen;
  probe.in_training_step = [&](const Batch& batch, StepContext&) { seen.push_back(batch["x"].item()); };
  probe.in_validation_step = probe.in_training_step;
  Trainer(quiet({.max_epochs = 1, .num_sanity_val_steps = 0})).fit(probe, counting_loader(2), counting_loader(1));
  EXPECT_EQ(seen, (std::vector<double>{2, 4, 2}));
  EXPECT_EQ(probe.log.size(), 9U);
  EXPECT_EQ((std::vector<std::string>{probe.log.begin(), probe.log.begin() + 3}),
            (std::vector<std::string>{"before", "transfer", "after"}));
}

TEST(EmptyBatches, AreSkippedWithAWarning) {
  struct Emptying : Probe {
    std::vector<std::int64_t> seen;
    Tensor training_step(const Batch& batch, StepContext& step) override {
      seen.push_back(step.batch_idx());
      return Probe::training_step(batch, step);
    }
  } probe;
  std::string text;
  TrainerOptions options = quiet({.max_epochs = 1});
  options.sink = [&](std::string_view line) { text += line; };
  const Transform drop = [](Batch& batch, Generator&) {
    if (batch["x"].item() == 1) batch = Batch{{"x", zeros({0, 1})}};
  };
  const DataLoader loader(TensorDataset{{"x", arange(3).to(DType::f32).reshape({3, 1})}}, {.transform = drop});
  EXPECT_EQ(Trainer(options).fit(probe, loader).global_step, 2);
  EXPECT_EQ(probe.seen, (std::vector<std::int64_t>{0, 2}));
  EXPECT_NE(text.find("empty batch"), std::string::npos);
}

TEST(ModuleParts, WhatIsMissingIsFoundBeforeAnyHook) {
  struct NoStep : TrainingModule {
    bool was_set_up = false;
    void setup(Stage) override { was_set_up = true; }
    OptimizerConfig configure_optimizers() override { return {}; }
  } no_step;
  EXPECT_NE(message_of<ConfigError>([&] {
              Trainer(quiet({.max_epochs = 1})).fit(no_step, counting_loader(1));
            }).find("training_step"),
            std::string::npos);
  EXPECT_FALSE(no_step.was_set_up);
  EXPECT_THROW(Trainer(quiet({})).validate(no_step, counting_loader(1)), ConfigError);
  EXPECT_THROW(Trainer(quiet({})).test(no_step, counting_loader(1)), ConfigError);

  struct NoValidation : TrainingModule {
    nn::Parameter weight{{this, "weight"}, zeros({1})};
    Tensor training_step(const Batch&, StepContext&) override { return sum(weight); }
    OptimizerConfig configure_optimizers() override { return {optim::SGD(parameters(), {.lr = 1})}; }
  } no_validation;
  std::string text;
  TrainerOptions options = quiet({.max_epochs = 1});
  options.sink = [&](std::string_view line) { text += line; };
  EXPECT_EQ(Trainer(options).fit(no_validation, counting_loader(1), counting_loader(1)).global_step, 1);
  EXPECT_NE(text.find("no validation_step"), std::string::npos);
  // Through a base the type does not tell, and the part is found when it is called.
  TrainingModule& base = no_validation;
  EXPECT_THROW(Trainer(quiet({.max_epochs = 1})).fit(base, counting_loader(1), counting_loader(1)), ConfigError);
}

TEST(ConfigureCallbacks, ReplaceThoseOfTheirType) {
  struct Numbered : Callback {
    explicit Numbered(int number) : number(number) {}
    int number;
  };
  struct WithCallbacks : Probe {
    std::vector<Shared<Callback>> configure_callbacks() override { return {Numbered(2), Watch()}; }
  } probe;
  Trainer trainer(quiet({.max_epochs = 1, .callbacks = {Numbered(1)}}));
  for (int run = 0; run < 2; ++run) {
    trainer.fit(probe, counting_loader(1));
    ASSERT_EQ(trainer.callbacks().size(), 2U) << "the second run replaces what the first one added";
    EXPECT_EQ(dynamic_cast<const Numbered&>(*trainer.callbacks()[0]).number, 2);
  }
  struct WithStopping : Probe {
    std::vector<Shared<Callback>> configure_callbacks() override {
      return {EarlyStopping({.monitor = "absent", .strict = false})};
    }
  } stopping;
  Trainer strict(quiet({.max_epochs = 1, .callbacks = {EarlyStopping({.monitor = "missing"})}}));
  EXPECT_EQ(strict.fit(stopping, counting_loader(1)).epochs, 1) << "the Trainer's own would throw";
  EXPECT_EQ(strict.callbacks().size(), 1U);
}

TEST(ConfigureCallbacks, ReplaceThoseOfTheirBases) {
  struct Base : Callback {};
  struct Other {
    virtual ~Other() = default;
  };
  struct Derived : Other, Base {};
  struct Module : Probe {
    std::vector<Shared<Callback>> callbacks;
    std::vector<Shared<Callback>> configure_callbacks() override { return callbacks; }
  } module;
  const auto left = [&](std::vector<Shared<Callback>> of_trainer, std::vector<Shared<Callback>> of_module) {
    TrainerOptions options = quiet({.max_epochs = 1, .callbacks = std::move(of_trainer)});
    options.enable_progress_bar = true;
    module.callbacks = std::move(of_module);
    Trainer trainer(options);
    trainer.fit(module, counting_loader(1));
    return trainer.callbacks().size();
  };
  EXPECT_EQ(left({ProgressBar(), Base()}, {Derived()}), 2U);
  EXPECT_EQ(left({ProgressBar(), Derived()}, {Base()}), 3U);
  EXPECT_EQ(left({ProgressBar(), Callback()}, {Derived()}), 3U) << "not the plain Callback";
  EXPECT_EQ(left({ProgressBar()}, {RichProgressBar()}), 1U);
  EXPECT_EQ(left({RichProgressBar()}, {ProgressBar()}), 1U) << "the one that stands by itself in a terminal";
}

TEST(Hooks, ConfigureModelAndPrepareDataComeOnceInARun) {
  struct Counting : Probe {
    std::vector<std::string> log;
    void prepare_data() override { log.push_back("prepare_data"); }
    void setup(Stage) override { log.push_back("setup"); }
    void configure_model() override { log.push_back("configure_model"); }
  } probe;
  Trainer(quiet({.max_epochs = 2})).fit(probe, counting_loader(1));
  EXPECT_EQ(probe.log, (std::vector<std::string>{"prepare_data", "setup", "configure_model"}));
}

TEST(Checkpoints, HoldTensorsOfHooks) {
  struct Keeping : Callback {
    Tensor kept;
    void on_save_checkpoint(Trainer&, TrainingModule&, Checkpoint& checkpoint) override {
      checkpoint.extra["average"].push_back({"weight", full({2}, 7)});
    }
    void on_load_checkpoint(Trainer&, TrainingModule&, Checkpoint& checkpoint) override {
      kept = checkpoint.extra.at("average")[0].tensor;
    }
  };
  const TempFolder dir;
  Probe probe;
  Trainer(quiet({.max_epochs = 1, .callbacks = {Keeping(), AtBatchEnd([&](Trainer& trainer, std::int64_t) {
                                                  trainer.save_checkpoint(dir / "c.safetensors");
                                                })}}))
      .fit(probe, counting_loader(2));
  auto keeping = std::make_shared<Keeping>();
  Trainer trainer(quiet({.max_epochs = 2, .callbacks = {keeping}}));
  trainer.fit(probe, counting_loader(2), {.resume = (dir / "c.safetensors").string()});
  EXPECT_EQ(keeping->kept.to_vector(), (std::vector<double>{7, 7}));
}

TEST(Anomalies, NameTheBatch) {
  Probe probe;
  struct Bad : Probe {
    Tensor training_step(const Batch&, StepContext& step) override {
      return sum(weight) / (step.batch_idx() == 2 ? 0.0 : 1.0);
    }
  } bad;
  {
    const NoGrad no_grad;
    bad.weight.fill_(1);
  }
  const std::string message = message_of<AnomalyError>(
      [&] { Trainer(quiet({.max_epochs = 1, .detect_anomaly = true})).fit(bad, counting_loader(4)); });
  EXPECT_NE(message.find("(batch 2 of epoch 0"), std::string::npos) << message;
}

TEST(Anomalies, NameTheLayer) {
  struct Layers : TrainingModule {
    nn::Sequential net{{this, "net"}, nn::Linear(1, 2), nn::ReLU(), nn::Linear(2, 1)};
    Tensor training_step(const Batch& batch, StepContext&) override { return mean(net(batch["x"])); }
    OptimizerConfig configure_optimizers() override { return {optim::SGD(parameters(), {.lr = 0.1})}; }
  } module;
  {
    const NoGrad no_grad;
    module.parameters()[2].tensor.fill_(INFINITY);
  }
  const std::string message = message_of<AnomalyError>(
      [&] { Trainer(quiet({.max_epochs = 1, .detect_anomaly = true})).fit(module, counting_loader(1)); });
  EXPECT_NE(message.find("(layer net.2 (Linear), batch 0 of epoch 0"), std::string::npos) << message;
}

}  // namespace
}  // namespace anneal_test
