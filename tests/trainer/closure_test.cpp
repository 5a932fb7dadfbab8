// Optimizers that compute the loss more than once a step. T-211.
#include <gtest/gtest.h>

#include <set>

#include "anneal/optim/lbfgs.h"
#include "anneal/tests/trainer/support.h"

namespace anneal_test {
namespace {

// A least-squares fit, which L-BFGS solves in a few steps.
struct Line : TrainingModule {
  explicit Line(optim::LBFGSOptions options = {.line_search_fn = "strong_wolfe"}) : options(std::move(options)) {
    layer.weight.detach().fill_(0.1);
    layer.bias.detach().fill_(0);
  }
  nn::Linear layer{{this, "layer"}, 2, 1};
  optim::LBFGSOptions options;
  std::vector<double> draws;
  int backwards = 0;

  Tensor training_step(const Batch& batch, StepContext& step) override {
    draws.push_back(rand({1}).item());
    const Tensor loss = mse_loss(layer(batch["x"]), batch["y"]);
    step.log("loss", loss);
    return loss;
  }
  void on_before_backward(const Tensor&) override { ++backwards; }
  OptimizerConfig configure_optimizers() override { return {optim::LBFGS(parameters(), options)}; }

  std::vector<double> weights() const {
    std::vector<double> all = layer.weight.to_vector();
    all.push_back(layer.bias.item());
    return all;
  }
};

TensorDataset points() {
  Generator generator(4);
  const GeneratorScope scope(generator);
  const Tensor x = randn({40, 2});
  return {{"x", x}, {"y", x.slice(1, 0, 1) * 3 - x.slice(1, 1, 2) + 0.5}};
}
DataLoader batches() { return DataLoader(points(), {.batch_size = 20}); }

TEST(ClosureOptimizers, FindTheMinimumInAStep) {
  Line line;
  Trainer trainer(quiet({.max_epochs = 1, .limit_train_batches = 1}));
  trainer.fit(line, batches());
  EXPECT_EQ(trainer.global_step(), 1);
  EXPECT_GT(line.backwards, 4);
  EXPECT_EQ(line.draws.size(), static_cast<std::size_t>(line.backwards));
  const std::vector<double> weights = line.weights();
  for (std::size_t i = 0; i < 3; ++i) EXPECT_NEAR(weights[i], (std::vector{3.0, -1.0, 0.5})[i], 1e-3);
  // What is logged is the first loss, of the weights before the step.
  const Line before;
  DataLoader loader = batches();
  const Batch batch = *loader.begin();
  EXPECT_NEAR(trainer.callback_metrics()["loss"], mse_loss(before.layer(batch["x"]), batch["y"]).item(), 1e-6);
}

TEST(ClosureOptimizers, DoAsByHand) {
  const optim::LBFGSOptions options{.lr = 0.5, .max_iter = 3};
  Line line(options);
  Trainer(quiet({.max_epochs = 3})).fit(line, batches());
  const Line own;
  optim::LBFGS lbfgs(own.layer.parameters(), options);
  for (int epoch = 0; epoch < 3; ++epoch)
    for (const Batch& batch : batches())
      lbfgs.step({.closure = [&] {
        lbfgs.zero_grad();
        Tensor loss = mse_loss(own.layer(batch["x"]), batch["y"]);
        loss.backward();
        return loss;
      }});
  EXPECT_EQ(line.weights(), own.weights());
}

TEST(ClosureOptimizers, SeeTheSameRandomNumbersEachTime) {
  Line line;
  Trainer(quiet({.max_epochs = 1})).fit(line, batches());
  EXPECT_GT(line.draws.size(), 4U);
  EXPECT_EQ(std::set<double>(line.draws.begin(), line.draws.end()).size(), 2U) << "one of each batch";
}

TEST(ClosureOptimizers, GoOnFromACheckpoint) {
  const TempFolder dir;
  const optim::LBFGSOptions options{.lr = 0.3, .max_iter = 2, .history_size = 3};
  Line whole(options), first(options), second(options);
  Trainer(quiet({.max_epochs = 4})).fit(whole, batches());
  Trainer trainer(quiet({.max_epochs = 2}));
  trainer.fit(first, batches());
  trainer.save_checkpoint(dir / "a");
  Trainer(quiet({.max_epochs = 4})).fit(second, batches(), {.resume = (dir / "a").string()});
  EXPECT_EQ(second.weights(), whole.weights());
}

TEST(ClosureOptimizers, WorkWithManualOptimization) {
  struct Manual : Line {
    using Line::Line;
    bool automatic_optimization() const override { return false; }
    Tensor training_step(const Batch& batch, StepContext&) override {
      Tensor loss;
      optimizer().step([&] {
        optimizer().zero_grad();
        loss = mse_loss(layer(batch["x"]), batch["y"]);
        manual_backward(loss);
        return loss;
      });
      return loss;
    }
  };
  const optim::LBFGSOptions options{.lr = 0.5, .max_iter = 3};
  Manual manual(options);
  Line line(options);
  Trainer trainer(quiet({.max_epochs = 2}));
  trainer.fit(manual, batches());
  EXPECT_EQ(trainer.global_step(), 4);
  Trainer(quiet({.max_epochs = 2})).fit(line, batches());
  EXPECT_EQ(manual.weights(), line.weights());
}

TEST(ClosureOptimizers, RefuseWhatTheyCannot) {
  const auto error = [](TrainerOptions options) {
    Line line;
    options.max_epochs = 1;
    return message_of<ConfigError>([&] { Trainer(quiet(options)).fit(line, batches()); });
  };
  EXPECT_TRUE(error({.precision = "16-mixed"}).starts_with("precision")) << error({.precision = "16-mixed"});
  EXPECT_TRUE(error({.gradient_clip_val = 1}).starts_with("gradient_clip_val"));
  EXPECT_TRUE(error({.on_bad_number = "skip"}).starts_with("on_bad_number"));
  EXPECT_TRUE(error({.log_grad_norm = true}).starts_with("log_grad_norm"));
  std::string text;
  TrainerOptions options = quiet({.max_epochs = 1, .accumulate_grad_batches = 2});
  options.sink = [&](std::string_view line) { text += line; };
  Line line;
  Trainer(options).fit(line, batches());
  EXPECT_NE(text.find("the last batch of a window"), std::string::npos) << text;
}

}  // namespace
}  // namespace anneal_test
