// Stochastic weight averaging, and accumulation that changes with the epoch.
#include <gtest/gtest.h>

#include "anneal/core/autograd.h"
#include "anneal/tests/trainer/support.h"

namespace anneal_test {
namespace {

using Values = std::vector<double>;

// The rate is 1; the weight falls by the rate with each batch.
struct Falling : TrainingModule {
  nn::Parameter weight{{this, "weight"}, zeros({1}, {.dtype = DType::f64})};
  Values rates, weights;
  Tensor training_step(const Batch&, StepContext&) override { return sum(weight); }
  OptimizerConfig configure_optimizers() override {
    return {optim::SGD(parameters(), {.lr = 1}), optim::constant_lr()};
  }
  void on_train_batch_start(const Batch&, StepContext&) override { rates.push_back(trainer().optimizer()->lr()); }
  void on_train_epoch_end() override { weights.push_back(weight.item()); }
};

TEST(StochasticWeightAveraging, TheRateGoesToAConstant) {
  const auto rates = [](StochasticWeightAveragingOptions options) {
    Falling module;
    Trainer(quiet({.max_epochs = 5, .callbacks = {StochasticWeightAveraging(std::move(options))}}))
        .fit(module, counting_loader(1));
    return module.rates;
  };
  const Values line =
      rates({.swa_lrs = {0.1}, .swa_epoch_start = 0.5, .annealing_epochs = 2, .annealing_strategy = "linear"});
  const Values cosine = rates({.swa_lrs = {0.1}, .swa_epoch_start = 2, .annealing_epochs = 3});
  const Values wanted_line{1, 1, 0.55, 0.1, 0.1}, wanted_cosine{1, 1, 0.775, 0.325, 0.1};
  for (std::size_t e = 0; e < 5; ++e) {
    EXPECT_NEAR(line[e], wanted_line[e], 1e-12) << e;
    EXPECT_NEAR(cosine[e], wanted_cosine[e], 1e-12) << e;
  }
}

TEST(StochasticWeightAveraging, EachGroupMayHaveItsRate) {
  struct Groups : TrainingModule {
    nn::Parameter a{{this, "a"}, zeros({1})}, b{{this, "b"}, zeros({1})};
    Tensor training_step(const Batch&, StepContext&) override { return sum(a) + sum(b); }
    OptimizerConfig configure_optimizers() override {
      const std::vector<NamedTensor> first{{"a", a}}, second{{"b", b}};
      return {optim::SGD(std::vector<optim::ParamGroup<optim::SGDOptions>>{{first, {.lr = 1}}, {second, {.lr = 2}}})};
    }
  };
  const auto fit = [](Groups& module, Values rates) {
    const StochasticWeightAveragingOptions options{
        .swa_lrs = std::move(rates), .swa_epoch_start = 1, .annealing_epochs = 1};
    Trainer trainer(quiet({.max_epochs = 3, .callbacks = {StochasticWeightAveraging(options)}}));
    trainer.fit(module, counting_loader(1));
  };
  // Rates of the epochs: 1, 0.5, 0.5 and 2, 0.25, 0.25; the average is of the three weights.
  Groups module;
  fit(module, {0.5, 0.25});
  EXPECT_NEAR(module.a.item(), -(1 + 1.5 + 2) / 3, 1e-6);
  EXPECT_NEAR(module.b.item(), -(2 + 2.25 + 2.5) / 3, 1e-6);
  Groups other;
  EXPECT_EQ(message_of<ConfigError>([&] {
              fit(other, {1, 1, 1});
            }),
            "swa_lrs: expected one, or one for each of 2 groups, got 3");
}

TEST(StochasticWeightAveraging, TheModelEndsWithTheMeanOfEpochs) {
  Falling module;
  auto swa = std::make_shared<StochasticWeightAveraging>(
      StochasticWeightAveragingOptions{.swa_lrs = {0.5}, .swa_epoch_start = 2, .annealing_epochs = 1});
  std::int64_t count = 0;
  Trainer trainer(
      quiet({.max_epochs = 5, .callbacks = {swa, LambdaCallback({.on_train_end = [&](Trainer&, TrainingModule&) {
                                              count = swa->count();
                                            }})}}));
  EXPECT_EQ(trainer.fit(module, counting_loader(3)).global_step, 15);
  EXPECT_EQ(count, 4);
  const Values& w = module.weights;
  EXPECT_NEAR(module.weight.item(), (w[1] + w[2] + w[3] + w[4]) / 4, 1e-12);

  // So it does where another limit ends training.
  Falling other;
  Trainer(quiet({.max_epochs = -1,
                 .max_steps = 3,
                 .callbacks = {StochasticWeightAveraging({.swa_lrs = {0.5}, .swa_epoch_start = 2})}}))
      .fit(other, counting_loader(1));
  EXPECT_NEAR(other.weight.item(), (other.weights[1] + other.weights[2]) / 2, 1e-12);
}

TEST(StochasticWeightAveraging, NeedsOneOptimizer) {
  struct Other : Falling {
    std::size_t optimizers = 0;
    bool automatic = true;
    bool automatic_optimization() const override { return automatic; }
    OptimizerConfig configure_optimizers() override {
      if (optimizers == 0) return {};
      return Falling::configure_optimizers();
    }
  } module;
  const auto message = [&] {
    return message_of<ConfigError>([&] {
      Trainer(quiet({.max_epochs = 1, .callbacks = {StochasticWeightAveraging({.swa_lrs = {0.5}})}}))
          .fit(module, counting_loader(1));
    });
  };
  EXPECT_NE(message().find("expected one optimizer that the Trainer steps, got 0"), std::string::npos);
  module.optimizers = 1;
  EXPECT_EQ(message(), "");
  module.automatic = false;
  EXPECT_NE(message().find("with manual optimization"), std::string::npos);
}

TEST(StochasticWeightAveraging, BadOptionsAreNamed) {
  const auto message = [](StochasticWeightAveragingOptions options, std::int64_t epochs = 2) {
    return message_of<ConfigError>([&] {
      Falling module;
      Trainer(quiet({.max_epochs = epochs, .max_steps = 2, .callbacks = {StochasticWeightAveraging(options)}}))
          .fit(module, counting_loader(1));
    });
  };
  EXPECT_EQ(message({.swa_lrs = {-0.1}}).find("swa_lrs"), 0U);
  EXPECT_EQ(message({.swa_lrs = {1}, .swa_epoch_start = 0}).find("swa_epoch_start"), 0U);
  EXPECT_EQ(message({.swa_lrs = {1}, .swa_epoch_start = 1.5}).find("swa_epoch_start"), 0U);
  EXPECT_EQ(message({.swa_lrs = {1}, .annealing_strategy = "x"}).find("annealing_strategy"), 0U);
  EXPECT_EQ(message({.swa_lrs = {1}, .swa_epoch_start = 0.5}, -1).find("swa_epoch_start"), 0U);
}

// One BatchNorm over a linear layer.
struct Normed : TrainingModule {
  nn::Linear layer{{this, "layer"}, 1, 2};
  nn::BatchNorm1d norm{{this, "norm"}, 2};
  Tensor training_step(const Batch& batch, StepContext& step) override {
    const Tensor loss = mean(square(norm(layer(batch["x"])) - 0.5));
    step.log("train_loss", loss, {.on_epoch = true});
    return loss;
  }
  OptimizerConfig configure_optimizers() override { return {optim::SGD(parameters(), {.lr = 0.1})}; }
};

Values state_of(const nn::Module& module) {
  Values all;
  for (const NamedTensor& entry : module.state_dict())
    for (const double v : entry.tensor.to_vector()) all.push_back(v);
  return all;
}

Values weights_of(const nn::Module& module) {
  Values all;
  for (const NamedTensor& entry : module.parameters())
    for (const double v : entry.tensor.to_vector()) all.push_back(v);
  return all;
}

TEST(StochasticWeightAveraging, ComputesBatchNormsStatisticsAnew) {
  manual_seed(2);
  Normed module;
  const DataLoader loader = counting_loader(3, 4);
  Values sums(8);  // of the weights at the epochs' ends
  std::vector<std::int64_t> passed;
  Trainer trainer(
      quiet({.precision = 64,
             .max_epochs = 3,
             .callbacks = {StochasticWeightAveraging({.swa_lrs = {0.05}, .swa_epoch_start = 1}),
                           LambdaCallback({.on_swa_batch =
                                               [&](Trainer& t, TrainingModule&, const Batch&, StepContext& step) {
                                                 passed.push_back(step.batch_idx());
                                                 EXPECT_EQ(t.global_step(), 9);
                                               }}),
                           LambdaCallback({.on_train_epoch_end = [&](Trainer&, TrainingModule&) {
                             const Values weights = weights_of(module);
                             for (std::size_t i = 0; i < 8; ++i) sums[i] += weights.at(i);
                           }})}}));
  const FitResult result = trainer.fit(module, loader);
  EXPECT_EQ(result.global_step, 9);
  EXPECT_EQ(result.epochs, 3);
  EXPECT_EQ(trainer.current_epoch(), 3);
  EXPECT_EQ(passed, (std::vector<std::int64_t>{0, 1, 2}));
  for (std::size_t i = 0; i < 8; ++i) EXPECT_NEAR(weights_of(module).at(i), sums[i] / 3, 1e-12) << i;
  EXPECT_EQ(module.norm.momentum(), 0.1);
  EXPECT_EQ(trainer.callback_metrics().contains("train_loss_epoch"), true);
  // By hand: the means over the batches of each batch's statistics, for the weights that the module has.
  const NoGrad no_grad;
  Values mean_of(2), var_of(2);
  DataLoader again = loader;
  for (Batch& batch : again) {
    const Tensor y = module.layer(batch["x"].to(DType::f64));
    for (std::int64_t c = 0; c < 2; ++c) {
      const Values column = y.select(1, c).to_vector();
      double sum = 0, squares = 0;
      for (const double v : column) sum += v;
      for (const double v : column) squares += (v - sum / 4) * (v - sum / 4);
      mean_of[static_cast<std::size_t>(c)] += sum / 4 / 3;
      var_of[static_cast<std::size_t>(c)] += squares / 3 / 3;
    }
  }
  for (std::size_t c = 0; c < 2; ++c) {
    EXPECT_NEAR(module.norm.running_mean.to_vector()[c], mean_of[c], 1e-6);
    EXPECT_NEAR(module.norm.running_var.to_vector()[c], var_of[c], 1e-6);
  }
  EXPECT_EQ(module.norm.num_batches_tracked.item(), 3);
}

TEST(StochasticWeightAveraging, TheAverageCanBeEvaluated) {
  struct Checked : Falling {
    Values checked;
    void validation_step(const Batch&, StepContext&) override { checked.push_back(weight.item()); }
  } module;
  const TrainerOptions options = quiet({.max_epochs = 4, .num_sanity_val_steps = 0});
  const auto averaging = [](double rate, bool evaluate_average) {
    return StochasticWeightAveraging(
        {.swa_lrs = {rate}, .swa_epoch_start = 2, .annealing_epochs = 0, .evaluate_average = evaluate_average});
  };
  TrainerOptions averaged = options;
  averaged.callbacks = {averaging(0.5, true)};
  Trainer(averaged).fit(module, counting_loader(2), counting_loader(1));
  // A check comes before its epoch's weights are taken.
  const Values& w = module.weights;
  ASSERT_EQ(module.checked.size(), 4U);
  EXPECT_EQ(module.checked[1], w[1]) << "there is no average yet";
  EXPECT_NEAR(module.checked[2], w[1], 1e-12);
  EXPECT_NEAR(module.checked[3], (w[1] + w[2]) / 2, 1e-12);

  // Training sees nothing of it: weights, statistics, random numbers.
  struct CheckedNorm : Normed {
    Values means;
    void validation_step(const Batch&, StepContext&) override { means.push_back(norm.running_mean.to_vector()[0]); }
  };
  const auto trained = [&](bool evaluate_average, Values* means) {
    manual_seed(3);
    CheckedNorm normed;
    TrainerOptions o = options;
    o.callbacks = {averaging(0.05, evaluate_average)};
    Trainer(o).fit(normed, counting_loader(3, 4), counting_loader(1));
    *means = normed.means;
    return state_of(normed);
  };
  Values own, averages;
  EXPECT_EQ(trained(true, &averages), trained(false, &own));
  EXPECT_EQ(own[1], averages[1]);
  EXPECT_NE(own[3], averages[3]);
}

TEST(StochasticWeightAveraging, ResumesToTheBit) {
  const TempFolder dir;
  const auto run = [&](std::int64_t save_at, const std::string& resume) {
    manual_seed(3);
    Normed module;
    Trainer trainer(quiet(
        {.max_epochs = 4,
         .callbacks = {StochasticWeightAveraging({.swa_lrs = {0.05}, .swa_epoch_start = 2, .annealing_epochs = 2}),
                       AtBatchEnd([&](Trainer& t, std::int64_t) {
                         if (t.total_batch_idx() == save_at) t.save_checkpoint(dir / "c.safetensors");
                       })}}));
    trainer.fit(module, counting_loader(3, 4), {.resume = resume});
    return state_of(module);
  };
  const Values whole = run(-1, "");
  for (const std::int64_t at : {1, 2, 3, 5, 7, 10}) {
    EXPECT_EQ(run(at, ""), whole);
    EXPECT_EQ(run(-1, (dir / "c.safetensors").string()), whole) << "from batch " << at;
  }
}

TEST(GradientAccumulationScheduler, ChangesWithTheEpoch) {
  Probe probe;
  Values steps;
  Trainer trainer(quiet({.max_epochs = 4,
                         .callbacks = {GradientAccumulationScheduler({{1, 2}, {3, 4}}),
                                       LambdaCallback({.on_train_epoch_end = [&](Trainer& t, TrainingModule&) {
                                         steps.push_back(static_cast<double>(t.global_step()));
                                         EXPECT_EQ(t.estimated_stepping_batches(), 9);
                                       }})}}));
  trainer.fit(probe, counting_loader(4));
  EXPECT_EQ(steps, (Values{4, 6, 8, 9}));
}

TEST(GradientAccumulationScheduler, ResumesWithinAWindow) {
  const TempFolder dir;
  const auto run = [&](std::int64_t save_at, const std::string& resume) {
    Probe probe;
    Trainer trainer(
        quiet({.max_epochs = 2,
               .callbacks = {GradientAccumulationScheduler({{0, 3}, {1, 2}}), AtBatchEnd([&](Trainer& t, std::int64_t) {
                               if (t.total_batch_idx() == save_at) t.save_checkpoint(dir / "c.safetensors");
                             })}}));
    trainer.fit(probe, counting_loader(5), {.resume = resume});
    return probe.weight.item();
  };
  const double whole = run(-1, "");
  for (std::int64_t at = 0; at < 9; ++at) {
    run(at, "");
    EXPECT_EQ(run(-1, (dir / "c.safetensors").string()), whole) << "from batch " << at;
  }
}

TEST(GradientAccumulationScheduler, BadOnesAreNamed) {
  using Scheduling = std::map<std::int64_t, std::int64_t>;
  for (const Scheduling& bad : {Scheduling{}, Scheduling{{0, 0}}, Scheduling{{-1, 2}}})
    EXPECT_THROW(GradientAccumulationScheduler{bad}, ConfigError);
  Probe probe;
  Trainer trainer(quiet(
      {.max_epochs = 1, .accumulate_grad_batches = 2, .callbacks = {GradientAccumulationScheduler({{0, 2}, {1, 2}})}}));
  EXPECT_EQ(message_of<ConfigError>([&] { trainer.fit(probe, counting_loader(1)); }).find("accumulate_grad_batches"),
            0U);
}

}  // namespace
}  // namespace anneal_test
