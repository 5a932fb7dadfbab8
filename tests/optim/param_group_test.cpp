// Groups that are added to an optimizer.
#include <gtest/gtest.h>

#include "anneal/core/ops.h"
#include "anneal/nn/linear.h"
#include "anneal/optim/schedule.h"
#include "anneal/optim/sgd.h"

namespace anneal_test {
namespace {

using namespace anneal;

TEST(Optimizer, TakesInGroupsWhileItRuns) {
  nn::Linear a(1, 1), b(1, 1);
  optim::SGD sgd({{"a", a.weight}}, {.lr = 1, .momentum = 0.9});
  const auto step = [&] {
    sgd.zero_grad();
    sum(a.weight * 2 + b.weight).backward();
    sgd.step();
  };
  step();
  const double other = b.weight.item();
  const StateDict before = sgd.state_dict();
  kernels::OptimGroup numbers = sgd.numbers(0);
  numbers.lr = 0.5;
  sgd.add_param_group({{"b", b.weight}}, numbers);
  EXPECT_EQ(sgd.state_dict().size(), 4);
  EXPECT_EQ(before[0].tensor.item(), 2);
  const double first = a.weight.item();
  step();
  EXPECT_FLOAT_EQ(static_cast<float>(a.weight.item()), static_cast<float>(first - 3.8)) << "its momentum is kept";
  EXPECT_FLOAT_EQ(static_cast<float>(b.weight.item()), static_cast<float>(other - 0.5));
  EXPECT_THROW(sgd.add_param_group({{"c", b.weight}}, numbers), Error);
  EXPECT_THROW(sgd.add_param_group({{"a", a.bias}}, numbers), Error);
  EXPECT_EQ(sgd.groups(), 2);
}

// T-708
TEST(LRScheduler, IsToldOfEpochsOrOfUpdates) {
  nn::Linear layer(1, 1);
  optim::SGD sgd({{"weight", layer.weight}}, {.lr = 1});
  optim::LRScheduler scheduler(sgd, optim::exponential_lr(0.5));
  scheduler.step_update(3);
  EXPECT_EQ(sgd.lr(), 0.125);
  scheduler.step(2);
  EXPECT_EQ(sgd.lr(), 0.25);
  scheduler.step();
  EXPECT_EQ(scheduler.steps(), 3);
}

TEST(LRScheduler, LeavesAddedGroupsAlone) {
  nn::Linear layer(1, 1);
  optim::SGD sgd({{"weight", layer.weight}}, {.lr = 1});
  optim::LRScheduler scheduler(sgd, optim::exponential_lr(0.5));
  kernels::OptimGroup numbers = sgd.numbers(0);
  numbers.lr = 0.3;
  sgd.add_param_group({{"bias", layer.bias}}, numbers);
  scheduler.step();
  EXPECT_EQ(sgd.lr(0), 0.5);
  EXPECT_EQ(sgd.lr(1), 0.3);
  optim::LRScheduler again(sgd, optim::exponential_lr(0.5), std::vector{4.0});
  EXPECT_EQ(sgd.lr(0), 4);
  EXPECT_EQ(sgd.lr(1), 0.3);
  EXPECT_THROW(optim::LRScheduler(sgd, optim::constant_lr(), std::vector(3, 1.0)), Error);
}

}  // namespace
}  // namespace anneal_test
