// Metric objects: their values, and what log makes of them (T-419).
#include "anneal/trainer/metric.h"

#include <gtest/gtest.h>

#include <cmath>

#include "anneal/tests/trainer/support.h"
#include "anneal/trainer/checkpoint.h"

namespace anneal_test {
namespace {

Tensor labels(std::initializer_list<double> values) { return tensor(values, {.dtype = DType::i64}); }

TEST(Accuracy, CountsHits) {
  Accuracy top1, top2(2);
  const Tensor scores = tensor({0.1, 0.7, 0.2,  //
                                0.5, 0.3, 0.2,  //
                                0.2, 0.3, 0.5,  //
                                0.4, 0.1, 0.5},
                               {4, 3});
  for (Accuracy* accuracy : {&top1, &top2}) accuracy->update(scores, labels({1, 2, 2, 0}));
  EXPECT_EQ(top1.compute(), 0.5);
  EXPECT_EQ(top2.compute(), 0.75);
  top1.update(tensor({0, 1, NAN, 0}, {2, 2}), labels({1, 0}));
  EXPECT_EQ(top1.batch_value(), 0.5) << "NaN is no hit";
  EXPECT_EQ(top1.compute(), 0.5);
  top1.reset();
  EXPECT_FALSE(top1.updated());
  EXPECT_TRUE(std::isnan(top1.compute()));
  EXPECT_TRUE(message_of<Error>([&] { top1.update(scores, labels({1})); }).starts_with("Accuracy"));
  EXPECT_TRUE(message_of<ConfigError>([&] { Accuracy none(0); }).starts_with("Accuracy"));
}

// scikit-learn 1.x: f1_score([0, 1, 2, 0, 1, 2], [0, 2, 1, 0, 0, 1], average="macro") is 0.26666...
TEST(F1Score, IsTheMeanOverClasses) {
  F1Score f1(3);
  f1.update(one_hot(labels({0, 2, 1, 0, 0, 1}), 3).to(DType::f32), labels({0, 1, 2, 0, 1, 2}));
  EXPECT_NEAR(f1.compute(), 0.8 / 3, 1e-15);
  F1Score of_four(4);
  of_four.update(one_hot(labels({0, 2, 1, 0, 0, 1}), 4).to(DType::f32), labels({0, 1, 2, 0, 1, 2}));
  EXPECT_NEAR(of_four.compute(), 0.8 / 3, 1e-15) << "a class that does not occur takes no part";
  EXPECT_TRUE(message_of<Error>([&] { f1.update(zeros({1, 3}), labels({3})); }).starts_with("F1Score"));
  EXPECT_TRUE(message_of<ConfigError>([] { F1Score one(1); }).starts_with("F1Score"));
}

// The share of even numbers among samples; counts in batches of different sizes.
struct Evens final : Metric {
  Evens() : Metric(2) {}
  void update(const Tensor& x) {
    double even = 0;
    for (const double v : x.to_vector()) even += std::fmod(v, 2) == 0;
    add(std::vector{even, static_cast<double>(x.numel())});
  }
  using Metric::compute;
  double compute(std::span<const double> sums) const override { return sums[0] / sums[1]; }
};

struct Model : Probe {
  Evens train_evens, val_evens;
  bool updates = true;
  Model() {
    in_training_step = [this](const Batch& batch, StepContext& step) {
      if (updates) train_evens.update(batch["x"]);
      step.log("evens", train_evens, {.on_step = true, .on_epoch = true});
    };
    in_validation_step = [this](const Batch& batch, StepContext& step) {
      val_evens.update(batch["x"]);
      step.log("val_evens", val_evens);
    };
  }
};

// Seven samples in batches of three: 0 1 2, 3 4 5, 6.
DataLoader sevens() {
  return DataLoader(TensorDataset{{"x", arange(7).to(DType::f32).reshape({7, 1})}}, {.batch_size = 3});
}

TEST(LoggedMetric, HasTheBatchesValueAndTheEpochs) {
  Model model;
  std::vector<double> steps;
  Trainer trainer(quiet({.max_epochs = 2, .callbacks = {std::make_shared<AtBatchEnd>([&](Trainer&, std::int64_t) {
                                            steps.push_back(model.train_evens.batch_value());
                                          })}}));
  trainer.fit(model, sevens(), sevens());
  EXPECT_EQ(steps, (std::vector<double>{2.0 / 3, 1.0 / 3, 1, 2.0 / 3, 1.0 / 3, 1}));
  EXPECT_EQ(trainer.callback_metrics()["evens_step"], 1);
  EXPECT_EQ(trainer.callback_metrics()["evens_epoch"], 4.0 / 7) << "not the mean of the batches, nor of two epochs";
  EXPECT_EQ(trainer.callback_metrics()["val_evens"], 4.0 / 7);
  EXPECT_FALSE(model.train_evens.updated());
}

TEST(LoggedMetric, OneThatWasNotUpdatedIsLeftOut) {
  Model model;
  model.updates = false;
  std::string text;
  TrainerOptions options = quiet({.max_epochs = 1});
  options.sink = [&](std::string_view line) { text += line; };
  Trainer trainer(options);
  trainer.fit(model, sevens());
  EXPECT_FALSE(trainer.callback_metrics().contains("evens_epoch"));
  EXPECT_NE(text.find("evens: its update was not called"), std::string::npos) << text;
}

TEST(LoggedMetric, HasOneName) {
  Model model;
  model.in_training_step = [&](const Batch& batch, StepContext& step) {
    model.train_evens.update(batch["x"]);
    step.log("a", model.train_evens);
    step.log("b", model.train_evens);
  };
  EXPECT_NE(message_of<Error>([&] { Trainer(quiet({.max_epochs = 1})).fit(model, sevens()); }).find("as a already"),
            std::string::npos);
}

TEST(LoggedMetric, GoesOnFromACheckpoint) {
  const TempFolder dir;
  const fs::path path = dir / "middle.safetensors";
  {
    Model model;
    Trainer trainer(quiet({.max_epochs = 1, .callbacks = {std::make_shared<AtBatchEnd>([&](Trainer& t, std::int64_t i) {
                                              if (i == 1) t.save_checkpoint(path);
                                            })}}));
    trainer.fit(model, sevens());
  }
  Model model;
  Trainer trainer(quiet({.max_epochs = 1}));
  trainer.fit(model, sevens(), {.resume = path.string()});
  EXPECT_EQ(trainer.callback_metrics()["evens_epoch"], 4.0 / 7);
}

}  // namespace
}  // namespace anneal_test
