// The simple form on several ranks.
#include <gtest/gtest.h>

#include <cstdio>
#include <sstream>

#include "anneal/tests/dist/spawn_ranks.h"
#include "anneal/tests/trainer/support.h"
#include "anneal/trainer/batch_limits.h"
#include "anneal/trainer/simple_trainer.h"

#if ANNEAL_HAS_GLOO

namespace anneal_test {
namespace {

using anneal::testing::RankFunction;
using anneal::testing::RankResults;
using anneal::testing::spawn_ranks;
using Values = std::vector<double>;

// Batches of four on all ranks: of the fifth sample one of two ranks has nothing.
Values histories() {
  manual_seed(6);
  nn::Linear model(1, 1);
  TrainerOptions options = quiet({.failure_timeout = 10 * anneal::testing::time_scale()});
  options.precision = "64-true";
  SimpleTrainer trainer(
      model, [](const Tensor& outputs, const Tensor& y) { return mse_loss(outputs, y); },
      optim::SGD(model.parameters(), {.lr = 0.1}), options);
  const Tensor x = arange(5).to(DType::f64).reshape({5, 1}) * 0.2;
  const TensorDataset data{{"x", x}, {"y", x * 2 + 1.0}};
  trainer.train(data,
                {.num_epochs = 3, .eval_dataset = data, .per_device_batch_size = 4 / trainer.trainer().world_size()});
  EXPECT_EQ(trainer.run_config().train_total_batch_size, 4);
  EXPECT_EQ(trainer.run_config().num_update_steps_per_epoch, 2);
  Values all = trainer.run_history().values("train_loss_epoch");
  for (const double loss : trainer.run_history().values("eval_loss_epoch")) all.push_back(loss);
  trainer.evaluate(data, {.per_device_batch_size = 4 / trainer.trainer().world_size()});
  all.push_back(trainer.run_history().latest("evaluation_loss"));
  return all;
}

const RankFunction simple_form("simple_form", [] {
  for (const double loss : histories()) std::fprintf(stderr, "%.17g ", loss);
  return ::testing::Test::HasFailure() ? 1 : 0;
});

TEST(SimpleTrainer, RanksHaveTheHistoryOfOne) {
  const Values alone = histories();
  const RankResults results = spawn_ranks(2, "simple_form", {}, std::chrono::seconds(60));
  ASSERT_EQ(results.codes(), (std::vector<int>{0, 0})) << results.ranks[0].err;
  for (const auto& rank : results.ranks) {
    std::istringstream text(rank.err);
    for (std::size_t i = 0; i < alone.size(); ++i) {
      double loss = 0;
      ASSERT_TRUE(text >> loss) << rank.err;
      EXPECT_NEAR(loss, alone[i], 1e-6) << i;
    }
  }
}

// T-663: of five batches a rank evaluates its share of the limit.
const RankFunction limited_evaluation("limited_evaluation", [] {
  nn::Linear model(1, 1);
  const auto watch = std::make_shared<Watch>();
  SimpleTrainer trainer(
      model, [](const Tensor& outputs, const Tensor& y) { return mse_loss(outputs, y); },
      optim::SGD(model.parameters(), {.lr = 0.1}), quiet({.callbacks = {LimitEvalSteps(5, false), watch}}));
  const TensorDataset data{{"x", ones({20, 1})}, {"y", ones({20, 1})}};
  trainer.train(data, {.eval_dataset = data, .per_device_batch_size = 1});
  std::fprintf(stderr, "%d", static_cast<int>(watch->val_batches));
  return 0;
});

TEST(LimitEvalSteps, IsDividedByTheRanks) {
  const RankResults results = spawn_ranks(2, "limited_evaluation", {}, std::chrono::seconds(60));
  for (const auto& rank : results.ranks) EXPECT_EQ(rank.err, "3");
}

}  // namespace
}  // namespace anneal_test

#endif
