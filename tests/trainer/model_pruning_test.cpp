// Weights that are set to zero.
#include <gtest/gtest.h>

#include <algorithm>

#include "anneal/core/autograd.h"
#include "anneal/tests/trainer/support.h"
#include "anneal/trainer/checkpoint.h"

namespace anneal_test {
namespace {

using Values = std::vector<double>;

double count_zeros(const Tensor& x) {
  const Values values = x.to_vector();
  return static_cast<double>(std::count(values.begin(), values.end(), 0.0));
}
double zeros_in(const Tensor& x) { return count_zeros(x) / static_cast<double>(x.numel()); }

// 100 weights in two layers.
struct Pruned : TrainingModule {
  nn::Linear first{{this, "first"}, 8, 10, {.bias = false}};
  nn::Linear second{{this, "second"}, 10, 2, {.bias = false}};
  Values sparsities, of_first;
  Tensor training_step(const Batch& batch, StepContext&) override {
    return mean(square(second(relu(first(batch["x"].expand({batch.size(), 8})))) - 1.0));
  }
  void validation_step(const Batch&, StepContext&) override {}
  OptimizerConfig configure_optimizers() override { return {optim::SGD(parameters(), {.lr = 0.01, .momentum = 0.9})}; }
  void on_train_epoch_end() override {
    of_first.push_back(zeros_in(first.weight));
    sparsities.push_back((count_zeros(first.weight) + count_zeros(second.weight)) / 100);
  }
};

Pruned fit(ModelPruningOptions options, TrainerOptions trainer_options = {.max_epochs = 4}) {
  manual_seed(1);
  Pruned module;
  trainer_options.callbacks.insert(trainer_options.callbacks.begin(), ModelPruning(std::move(options)));
  Trainer(quiet(std::move(trainer_options))).fit(module, counting_loader(3, 2), counting_loader(1));
  return module;
}

// C-175
TEST(ModelPruning, AnAmountIsOfWhatIsLeft) {
  EXPECT_EQ(fit({.fn = "l1_unstructured"}).sparsities, (Values{0.5, 0.75, 0.87, 0.93}));
  EXPECT_EQ(fit({.fn = "l1_unstructured", .amount = 10}).sparsities, (Values{0.1, 0.2, 0.3, 0.4}));
  EXPECT_EQ(fit({.fn = "random_unstructured", .amount = 40}).sparsities, (Values{0.4, 0.8, 1, 1}));
  EXPECT_EQ(fit({.fn = "l1_unstructured", .amount = [](std::int64_t epoch) { return Amount(epoch * 5); }}).sparsities,
            (Values{0, 0.05, 0.15, 0.3}));
  EXPECT_EQ(fit({.fn = "l1_unstructured", .apply_pruning = [](std::int64_t epoch) { return epoch == 2; }}).sparsities,
            (Values{0, 0, 0.5, 0.5}));
  EXPECT_EQ(fit({.fn = "l1_unstructured", .use_global_unstructured = false}).of_first[0], 0.5) << "each by itself";
}

// The averages are of the weights without those that were dropped: of the last step alone, the same zeros.
TEST(ModelPruning, AveragesAreTakenBehindIt) {
  const Pruned module =
      fit({.fn = "l1_unstructured"}, {.max_epochs = 3, .callbacks = {EMAWeightAveraging({.decay = 0})}});
  EXPECT_GE(count_zeros(module.first.weight) + count_zeros(module.second.weight), 75);
}

TEST(ModelPruning, WhatItPrunesCanBeNamed) {
  const Pruned module = fit({.fn = "l1_unstructured", .parameters = {"second.weight"}});
  EXPECT_EQ(module.of_first, Values(4, 0));
  EXPECT_EQ(module.sparsities[0], 0.1);
  EXPECT_THROW(fit({.fn = "l1_unstructured", .parameters = {"third.weight"}}), ConfigError);
  EXPECT_THROW(fit({.fn = "l1_unstructured", .parameter_names = {"bias"}}), ConfigError);
}

TEST(ModelPruning, TheLeastGoFirst) {
  Pruned module;
  {
    const NoGrad no_grad;
    module.first.weight.copy_(arange(80).to(DType::f32).reshape({10, 8}) - 40.5);
  }
  const ModelPruningOptions options{.fn = "l1_unstructured", .parameters = {"first.weight"}, .amount = 2};
  // Without training the values are those given.
  Trainer(quiet({.max_epochs = 1,
                 .callbacks = {ModelPruning(options), LambdaCallback({.on_before_optimizer_step =
                                                                          [](Trainer&, TrainingModule& m,
                                                                             optim::Optimizer&) { m.zero_grad(); }})}}))
      .fit(module, counting_loader(1));
  Values wanted;
  for (int i = 0; i < 80; ++i) wanted.push_back(i == 40 || i == 41 ? 0 : i - 40.5);
  EXPECT_EQ(module.first.weight.to_vector(), wanted);
}

TEST(ModelPruning, AFunctionMayRankThem) {
  const PruningScore by_position = [](const Tensor& weight) {
    return arange(weight.numel()).to(DType::f32).reshape(weight.shape());
  };
  const Pruned module = fit({.fn = by_position, .parameters = {"first.weight"}, .amount = 8}, {.max_epochs = 1});
  EXPECT_EQ(zeros_in(module.first.weight.slice(0, 0, 1)), 1);
  EXPECT_EQ(zeros_in(module.first.weight), 0.1);
  EXPECT_THROW(fit({.fn = PruningScore([](const Tensor&) { return ones({1}); })}), Error);
}

TEST(ModelPruning, StructuredPruningDropsSlices) {
  const auto zero_slices = [](const Tensor& weight, int dim) {
    int zero = 0;
    for (std::int64_t i = 0; i < weight.size(dim); ++i) zero += zeros_in(weight.select(dim, i)) == 1;
    return zero;
  };
  ModelPruningOptions options{
      .fn = "ln_structured", .use_global_unstructured = false, .amount = 3, .pruning_dim = 0, .pruning_norm = 2};
  options.parameters = {"first.weight"};
  Pruned module = fit(options, {.max_epochs = 2});
  EXPECT_EQ(zero_slices(module.first.weight, 0), 6);
  EXPECT_EQ(module.of_first.back(), 0.6);
  options.fn = "random_structured";
  options.pruning_dim = -1;
  module = fit(options, {.max_epochs = 2});
  EXPECT_EQ(zero_slices(module.first.weight, 1), 6);
}

TEST(ModelPruning, OptionsThatContradictAreNamed) {
  const auto message = [](ModelPruningOptions options) {
    return message_of<ConfigError>([&] { ModelPruning callback(options); });
  };
  EXPECT_TRUE(message({}).starts_with("fn"));
  EXPECT_TRUE(message({.fn = "l2"}).starts_with("fn"));
  EXPECT_TRUE(message({.fn = "random_structured", .use_global_unstructured = false}).starts_with("pruning_dim"));
  EXPECT_TRUE(
      message({.fn = "ln_structured", .use_global_unstructured = false, .pruning_dim = 0}).starts_with("pruning_norm"));
  EXPECT_TRUE(message({.fn = "random_structured", .pruning_dim = 0}).starts_with("use_global_unstructured"));
  EXPECT_TRUE(message({.fn = "l1_unstructured", .amount = 1.5}).starts_with("amount"));
  EXPECT_TRUE(message({.fn = "l1_unstructured", .amount = -1}).starts_with("amount"));
  EXPECT_TRUE(message({.fn = "l1_unstructured", .verbose = 3}).starts_with("verbose"));
}

TEST(ModelPruning, ZerosStayThroughMomentum) {
  double sparsity_in_next_epoch = 0;
  const auto pruning =
      std::make_shared<ModelPruning>(ModelPruningOptions{.fn = "l1_unstructured",
                                                         .apply_pruning = [](std::int64_t epoch) { return epoch == 1; },
                                                         .use_lottery_ticket_hypothesis = false});
  Pruned module;
  Trainer(quiet({.max_epochs = 3, .callbacks = {pruning, AtBatchEnd([&](Trainer& trainer, std::int64_t) {
                                                  if (trainer.current_epoch() == 2)
                                                    sparsity_in_next_epoch = zeros_in(module.first.weight);
                                                })}}))
      .fit(module, counting_loader(3, 2));
  EXPECT_EQ(sparsity_in_next_epoch, module.of_first[1]);
  EXPECT_EQ(pruning->sparsity(), 0.5);
  EXPECT_EQ(module.sparsities, (Values{0, 0.5, 0.5}));
}

TEST(ModelPruning, TheLotteryTicketGoesBackToTheStart) {
  const auto run = [](bool lottery, bool resample) {
    manual_seed(1);
    Pruned module;
    const Values start = module.first.weight.to_vector();
    Trainer(quiet({.max_epochs = 1,
                   .callbacks = {ModelPruning({.fn = "l1_unstructured",
                                               .use_lottery_ticket_hypothesis = lottery,
                                               .resample_parameters = resample})}}))
        .fit(module, counting_loader(3, 2));
    std::size_t same = 0, drawn = 0, left = 0;
    const Values end = module.first.weight.to_vector();
    for (std::size_t i = 0; i < end.size(); ++i) {
      if (end[i] == 0) continue;
      ++left;
      same += end[i] == start[i];
      drawn += std::count(start.begin(), start.end(), end[i]) > 0;
    }
    return std::tuple(same == left, drawn == left);
  };
  EXPECT_EQ(run(true, false), std::tuple(true, true));
  EXPECT_EQ(run(true, true), std::tuple(false, true)) << "values of the start, elsewhere";
  EXPECT_EQ(run(false, false), std::tuple(false, false));
}

TEST(ModelPruning, MayLookAfterChecksInstead) {
  EXPECT_EQ(fit({.fn = "l1_unstructured", .amount = 10, .prune_on_train_epoch_end = false},
                {.max_epochs = 2, .val_check_interval = 1})
                .sparsities,
            (Values{0.3, 0.6}));
}

TEST(ModelPruning, PermanentZerosAreForgottenByTheNextRun) {
  for (const bool permanent : {true, false}) {
    const auto pruning = std::make_shared<ModelPruning>(
        ModelPruningOptions{.fn = "l1_unstructured", .amount = 10, .make_pruning_permanent = permanent});
    Pruned module;
    Trainer trainer(quiet({.max_epochs = 1, .callbacks = {pruning}}));
    for (int i = 0; i < 2; ++i) trainer.fit(module, counting_loader(3, 2));
    EXPECT_EQ(pruning->sparsity(), permanent ? 0.1 : 0.2);
  }
}

TEST(ModelPruning, ACheckpointHoldsTheZerosAndResumesToTheBit) {
  const TempFolder dir;
  const auto run = [&](std::int64_t save_at, bool resume) {
    Pruned module = fit({.fn = "random_unstructured"},
                        {.max_epochs = 3, .callbacks = {AtBatchEnd([&](Trainer& trainer, std::int64_t) {
                                            if (trainer.total_batch_idx() == save_at)
                                              trainer.save_checkpoint(dir / "c.safetensors");
                                          })}});
    if (resume) {
      manual_seed(99);
      Pruned other;
      Trainer(quiet({.max_epochs = 3, .callbacks = {ModelPruning({.fn = "random_unstructured"})}}))
          .fit(other, counting_loader(3, 2), counting_loader(1), {.resume = (dir / "c.safetensors").string()});
      return other.first.weight.to_vector();
    }
    return module.first.weight.to_vector();
  };
  const Values whole = run(-1, false);
  for (const std::int64_t at : {1, 4, 7}) EXPECT_EQ(run(at, true), whole) << "from batch " << at;
  const Checkpoint checkpoint = load_checkpoint(dir / "c.safetensors");
  EXPECT_EQ(checkpoint.model.size(), 2);
  EXPECT_EQ(checkpoint.extra.at("pruning_mask").size(), 2);
  for (const NamedTensor& weight : checkpoint.model) {
    EXPECT_TRUE(weight.name == "first.weight" || weight.name == "second.weight");
    EXPECT_GT(zeros_in(weight.tensor), 0.5) << "dense, with the zeros of two epochs";
  }
}

TEST(ModelPruning, SaysWhatItDid) {
  std::string text;
  TrainerOptions options;
  options.max_epochs = 1;
  options.sink = [&](std::string_view line) { text += line; };
  options.logger = false;
  options.enable_checkpointing = options.enable_progress_bar = false;
  Pruned module;
  options.callbacks = {ModelPruning({.fn = "l1_unstructured", .verbose = 2})};
  Trainer(options).fit(module, counting_loader(3, 2));
  EXPECT_NE(text.find("pruning by l1_unstructured: 50% of the weights are zero, before 0%\n"), std::string::npos)
      << text;
  EXPECT_NE(text.find("  first.weight: "), std::string::npos) << text;
}

}  // namespace
}  // namespace anneal_test
