// Modules that run backward and their optimizers themselves.
#include <gtest/gtest.h>

#include "anneal/core/autograd.h"
#include "anneal/tests/trainer/support.h"

namespace anneal_test {
namespace {

// Two weights, each with its optimizer, and a function for the step.
struct Pair : TrainingModule {
  nn::Parameter a{{this, "a"}, ones({1})}, b{{this, "b"}, ones({1})};
  std::function<Tensor(Pair&, const Batch&, StepContext&)> step;

  bool automatic_optimization() const override { return false; }
  Tensor training_step(const Batch& batch, StepContext& context) override { return step(*this, batch, context); }
  OptimizerConfig configure_optimizers() override {
    const auto of = [](const char* name, const Tensor& p, double lr) {
      return std::make_shared<optim::SGD>(std::vector<NamedTensor>{{name, p}}, optim::SGDOptions{.lr = lr});
    };
    return {{.optimizer = of("a", a, 0.1)},
            {.optimizer = of("b", b, 1), .schedule = optim::exponential_lr(0.5), .name = "critic"}};
  }
};

Tensor both_step(Pair& m, const Batch&, StepContext&) {
  Tensor loss;
  for (std::size_t i = 0; i < 2; ++i) {
    const auto only = m.toggled(i);
    loss = sum(m.a * m.b);
    m.manual_backward(loss);
    m.optimizer(i).step();
    m.optimizer(i).zero_grad();
  }
  return loss;
}

TEST(ManualOptimization, StepsSeveralOptimizers) {
  Pair pair;
  pair.step = both_step;
  Trainer trainer(quiet({.max_epochs = 1}));
  EXPECT_EQ(trainer.fit(pair, counting_loader(3)).global_step, 3) << "one for each batch in which something stepped";
  EXPECT_EQ(trainer.optimizer_steps(0), 3);
  EXPECT_EQ(trainer.optimizer_steps(1), 3);
  double a = 1, b = 1;
  for (int i = 0; i < 3; ++i) {
    a -= 0.1 * b;
    b -= a;
  }
  EXPECT_NEAR(pair.a.item(), a, 1e-6);
  EXPECT_NEAR(pair.b.item(), b, 1e-6);
  auto watch = std::make_shared<Watch>();
  Trainer(quiet({.max_steps = 2, .callbacks = {watch}})).fit(pair, counting_loader(3));
  EXPECT_EQ(watch->batches, 2);
}

TEST(ManualOptimization, WhatIsToggledOffGetsNoGradient) {
  Pair pair;
  pair.step = [](Pair& m, const Batch&, StepContext&) {
    {
      const auto only = m.toggled(1);
      EXPECT_FALSE(m.a.requires_grad());
      EXPECT_TRUE(m.b.requires_grad());
      m.manual_backward(sum(m.a * m.b));
      EXPECT_THROW(m.toggled(0), Error) << "one at a time";
    }
    EXPECT_TRUE(m.a.requires_grad());
    EXPECT_FALSE(m.a.grad().defined());
    EXPECT_EQ(m.b.grad().item(), 1);
    // The leaf that came back still has its place in the arena.
    m.manual_backward(sum(m.a * 3.0));
    m.optimizer(0).step();
    return Tensor();
  };
  Trainer(quiet({.max_epochs = 1})).fit(pair, counting_loader(1));
  EXPECT_NEAR(pair.a.item(), 1 - 0.3, 1e-6);
}

TEST(ManualOptimization, SchedulesAreTheModules) {
  Pair pair;
  std::vector<double> rates;
  pair.step = [&](Pair& m, const Batch& batch, StepContext& context) {
    rates.push_back(m.optimizer(1).optimizer().lr());
    m.optimizer(1).step_schedule();
    m.optimizer(0).step_schedule();  // it has none
    return both_step(m, batch, context);
  };
  Trainer(quiet({.max_epochs = 2})).fit(pair, counting_loader(2));
  EXPECT_EQ(rates, (std::vector<double>{1, 0.5, 0.25, 0.125}));
}

TEST(ManualOptimization, APlateauIsTheModulesToo) {
  struct Watched : Pair {
    OptimizerConfig configure_optimizers() override {
      return {{.optimizer = optim::SGD(parameters(), {.lr = 1}),
               .plateau = optim::PlateauOptions{.factor = 0.5, .patience = 0},
               .monitor = "nothing"}};
    }
  } pair;
  std::vector<double> rates;
  pair.step = [&](Pair& m, const Batch&, StepContext&) {
    m.manual_backward(sum(m.a));
    m.optimizer().step();
    m.optimizer().step_schedule(1.0);
    rates.push_back(m.optimizer().optimizer().lr());
    return Tensor();
  };
  std::string text;
  TrainerOptions options = quiet({.max_epochs = 1});
  options.sink = [&](std::string_view line) { text += line; };
  Trainer(options).fit(pair, counting_loader(3));
  EXPECT_EQ(rates, (std::vector<double>{1, 0.5, 0.25}));
  EXPECT_NE(text.find("monitor and strict mean nothing with manual optimization"), std::string::npos) << text;
}

TEST(ManualOptimization, StepsWhereAWindowEnds) {
  Pair pair;
  pair.step = [](Pair& m, const Batch&, StepContext&) {
    m.manual_backward(sum(m.a));
    if (!m.is_last_of_window(2)) return Tensor();
    m.optimizer(0).step();
    m.optimizer(0).zero_grad();
    return Tensor();
  };
  EXPECT_EQ(Trainer(quiet({.max_epochs = 2})).fit(pair, counting_loader(5)).global_step, 6);
  EXPECT_NEAR(pair.a.item(), 1 - 0.1 * 10, 1e-6) << "gradients add up";
}

TEST(ManualOptimization, ClipsBeforeTheStep) {
  Pair pair;
  pair.step = [](Pair& m, const Batch&, StepContext&) {
    m.manual_backward(sum(m.a * 8.0));
    m.clip_gradients(m.optimizer(0).optimizer(), 2, "value");
    m.optimizer(0).step();
    return Tensor();
  };
  Trainer(quiet({.max_epochs = 1})).fit(pair, counting_loader(1));
  EXPECT_NEAR(pair.a.item(), 1 - 0.2, 1e-6);
}

TEST(ManualOptimization, CountsChangesByOtherMeansAndWarnsWhereThereAreNone) {
  Pair pair;
  pair.step = [](Pair&, const Batch&, StepContext& context) {
    if (context.batch_idx() >= 10) context.count_step();
    return Tensor();
  };
  std::string text;
  TrainerOptions options = quiet({.max_epochs = 1});
  options.sink = [&](std::string_view line) { text += line; };
  EXPECT_EQ(Trainer(options).fit(pair, counting_loader(12)).global_step, 2);
  EXPECT_NE(text.find("ten batches without a step"), std::string::npos);
}

TEST(ManualOptimization, ContradictionsAreNamed) {
  Pair pair;
  pair.step = both_step;
  const auto message = [&](TrainerOptions options) {
    options.max_epochs = 1;
    return message_of<ConfigError>([&] { Trainer(quiet(options)).fit(pair, counting_loader(1)); });
  };
  EXPECT_EQ(message({.accumulate_grad_batches = 2}).find("accumulate_grad_batches"), 0U);
  EXPECT_EQ(message({.gradient_clip_val = 1}).find("gradient_clip_val"), 0U);
  EXPECT_EQ(message({.log_grad_norm = true}).find("log_grad_norm"), 0U);
  EXPECT_EQ(message({.gradient_clip_val = 0}), "");

  struct Automatic : Pair {
    bool automatic_optimization() const override { return true; }
  } automatic;
  EXPECT_NE(message_of<ConfigError>([&] {
              Trainer(quiet({.max_epochs = 1})).fit(automatic, counting_loader(1));
            }).find("automatic_optimization"),
            std::string::npos);
  Probe probe;
  probe.in_training_step = [&](const Batch&, StepContext&) { probe.manual_backward(sum(probe.weight)); };
  EXPECT_NE(message_of<Error>([&] {
              Trainer(quiet({.max_epochs = 1})).fit(probe, counting_loader(1));
            }).find("manual_backward"),
            std::string::npos);
}

TEST(ManualOptimization, AnOptimizerWhoseGradientsOverflowIsSkippedAlone) {
  Pair pair;
  pair.step = [](Pair& m, const Batch&, StepContext& context) {
    const double factor = context.batch_idx() == 1 ? 1e38 : 1;  // times the scale: infinity
    m.manual_backward(sum(m.a * factor));
    m.manual_backward(sum(m.b * 0.5));
    m.optimizer(0).step();
    m.optimizer(1).step();
    m.optimizer(0).zero_grad();
    m.optimizer(1).zero_grad();
    return Tensor();
  };
  Trainer trainer(
      quiet({.precision = "16-mixed", .grad_scaler = optim::GradScalerOptions{.growth_interval = 2}, .max_epochs = 1}));
  EXPECT_EQ(trainer.fit(pair, counting_loader(4)).global_step, 4);
  EXPECT_EQ(trainer.optimizer_steps(0), 3);
  EXPECT_EQ(trainer.optimizer_steps(1), 4);
  EXPECT_EQ(trainer.skipped_steps(), 1);
  EXPECT_NEAR(pair.a.item(), 1 - 0.1 * 3, 1e-6);
  EXPECT_NEAR(pair.b.item(), 1 - 0.5 * 4, 1e-6);
}

TEST(ManualOptimization, ResumesToTheBit) {
  const TempFolder dir;
  const auto run = [&](std::int64_t epochs, const std::string& resume) {
    Pair pair;
    pair.step = both_step;
    Trainer trainer(quiet({.max_epochs = epochs, .callbacks = {AtBatchEnd([&](Trainer& t, std::int64_t i) {
                                                   if (t.current_epoch() == 0 && i == 1)
                                                     t.save_checkpoint(dir / "c.safetensors");
                                                 })}}));
    trainer.fit(pair, counting_loader(3), {.resume = resume});
    EXPECT_EQ(trainer.optimizer_steps(1), 3 * epochs);
    return std::pair(pair.a.item(), pair.b.item());
  };
  const auto whole = run(2, "");
  EXPECT_EQ(run(2, (dir / "c.safetensors").string()), whole);
}

TEST(LearningRateMonitor, NamesSeveralOptimizers) {
  Pair pair;
  pair.step = both_step;
  const TempFolder dir;
  Trainer trainer({.max_epochs = 1,
                   .log_every_n_steps = 1,
                   .callbacks = {LearningRateMonitor({.logging_interval = Interval::step})},
                   .enable_checkpointing = false,
                   .enable_progress_bar = false,
                   .default_root_dir = dir.path(),
                   .seed = 1,
                   .sink = [](std::string_view) {}});
  trainer.fit(pair, counting_loader(2));
  EXPECT_EQ(trainer.logged_metrics()["lr-SGD"], 0.1);
  EXPECT_EQ(trainer.logged_metrics()["critic"], 1);
}

// C-200
TEST(LearningRateMonitor, NumbersOptimizersOfOneType) {
  struct Three : Pair {
    nn::Parameter c{{this, "c"}, ones({1})};
    OptimizerConfig configure_optimizers() override {
      return {{.optimizer = optim::Adam({{"a", a}}, {.lr = 0.1})},
              {.optimizer = optim::Adam({{"b", b}}, {.lr = 0.2})},
              {.optimizer = optim::SGD({{"c", c}}, {.lr = 0.3})}};
    }
  } three;
  three.step = both_step;
  const TempFolder dir;
  TrainerOptions options = quiet({.max_epochs = 1, .log_every_n_steps = 1, .callbacks = {LearningRateMonitor()}});
  options.logger = CsvLogger({.save_dir = dir.path()});
  Trainer trainer(options);
  trainer.fit(three, counting_loader(2));
  EXPECT_EQ(trainer.logged_metrics()["lr-Adam"], 0.1);
  EXPECT_EQ(trainer.logged_metrics()["lr-Adam-1"], 0.2);
  EXPECT_EQ(trainer.logged_metrics()["lr-SGD"], 0.3);
}

}  // namespace
}  // namespace anneal_test
