#include "anneal/optim/grad_scaler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "anneal/core/autocast.h"
#include "anneal/core/autograd.h"
#include "anneal/core/ops.h"
#include "anneal/optim/optim.h"
#include "anneal/tests/expect.h"

namespace anneal::testing {
namespace {

using Doubles = std::vector<double>;
constexpr double infinity = std::numeric_limits<double>::infinity();

Tensor parameter(std::initializer_list<double> values, DType dtype = DType::f64) {
  return tensor(values, {.dtype = dtype}).set_requires_grad();
}
/// Makes `factor` the gradient of every element.
void give(const Tensor& p, double factor) { sum(p * factor).backward(); }

TEST(GradScaler, UnscalesInTheStep) {
  const Tensor p = parameter({1, 2});
  optim::SGD sgd({{"p", p}}, {.lr = 1});
  optim::GradScaler scaler({.init_scale = 1024});
  scaler.scale(sum(p * 0.25)).backward();
  EXPECT_EQ(p.grad().to_vector(), Doubles({256, 256})) << "scaled until the step";
  sgd.step({.scaler = &scaler});
  EXPECT_EQ(p.to_vector(), Doubles({0.75, 1.75}));
  EXPECT_NEAR(sgd.grad_norm().item(), 0.25 * std::sqrt(2), 1e-12);
  EXPECT_FALSE(scaler.found_inf());
}

TEST(GradScaler, ABadStepChangesNothingButTheScale) {
  const Tensor p = parameter({1, 2});
  optim::AdamW adam({{"p", p}}, {.lr = 0.1});
  optim::GradScaler scaler({.init_scale = 8, .growth_interval = 2});
  give(p, 1);
  adam.step({.scaler = &scaler});
  const Doubles weights = p.to_vector();
  const StateDict before = adam.state_dict();
  adam.zero_grad();
  give(p, infinity);
  adam.step({.scaler = &scaler});
  EXPECT_EQ(p.to_vector(), weights);
  const StateDict after = adam.state_dict();
  for (std::size_t i = 0; i < before.size(); ++i)
    EXPECT_EQ(after[i].tensor.to_vector(), before[i].tensor.to_vector()) << before[i].name;
  EXPECT_TRUE(scaler.found_inf());
  EXPECT_EQ(scaler.scale_value(), 4);
  EXPECT_EQ(scaler.skipped_steps(), 1);
  for (const double scale : {4.0, 8.0}) {  // grows after two good steps
    adam.zero_grad();
    give(p, 1);
    adam.step({.scaler = &scaler});
    EXPECT_EQ(scaler.scale_value(), scale);
  }
}

TEST(GradScaler, StateGoesOn) {
  optim::GradScaler scaler({.init_scale = 512, .growth_interval = 3});
  const Tensor p = parameter({1});
  optim::SGD sgd({{"p", p}});
  for (int i = 0; i < 2; ++i) {
    sgd.zero_grad();
    give(p, 1);
    sgd.step({.scaler = &scaler});
  }
  optim::GradScaler other({.growth_interval = 3});
  other.load_state_dict(scaler.state_dict());
  sgd.zero_grad();
  give(p, 1);
  sgd.step({.scaler = &other});
  EXPECT_EQ(other.scale_value(), 1024);
  const StateDict none;
  expect_contains(error_of([&] { other.load_state_dict(none); }), "has no scale");
}

TEST(GradScaler, RefusesBadOptions) {
  expect_contains(message_of<ConfigError>([] { optim::GradScaler({.init_scale = 0}); }), "init_scale");
  expect_contains(message_of<ConfigError>([] { optim::GradScaler({.growth_factor = 0.5}); }), "growth_factor");
  expect_contains(message_of<ConfigError>([] { optim::GradScaler({.backoff_factor = 2}); }), "backoff_factor");
  expect_contains(message_of<ConfigError>([] { optim::GradScaler({.growth_interval = -1}); }), "growth_interval");
}

TEST(StepOptions, AverageAndClip) {
  const auto stepped = [](const optim::StepOptions& options, bool read) {
    const Tensor a = parameter({0, 0});
    optim::SGD sgd({{"a", a}}, {.lr = 1});
    sum(a * tensor({3, 4}, {.dtype = DType::f64})).backward();
    sgd.defer(options);
    if (read) { EXPECT_EQ(a.grad().to_vector(), Doubles({3 * options.average, 4 * options.average})); }
    sgd.step();
    Doubles moved = a.to_vector();
    for (double& x : moved) x = -x;
    return moved;
  };
  for (const bool read : {false, true}) {
    EXPECT_EQ(stepped({}, read), Doubles({3, 4}));
    EXPECT_EQ(stepped({.average = 0.5}, read), Doubles({1.5, 2}));
    EXPECT_EQ(stepped({.clip_norm = 100}, read), Doubles({3, 4}));
    EXPECT_EQ(stepped({.clip_value = 0.5}, read), Doubles({0.5, 0.5}));
    EXPECT_EQ(stepped({.average = 0.5, .clip_value = 1.75}, read), Doubles({1.5, 1.75}));
    const Doubles clipped = stepped({.clip_norm = 1}, read);
    EXPECT_NEAR(clipped[0], 0.6, 1e-6);
    EXPECT_NEAR(clipped[1], 0.8, 1e-6);
    EXPECT_NEAR(stepped({.clip_norm = 1, .norm_type = infinity}, read)[1], 1, 1e-6);
    EXPECT_NEAR(stepped({.clip_norm = 1, .norm_type = 1}, read)[0], 3.0 / 7, 1e-6);
  }
}

TEST(StepOptions, OutliveARebuild) {
  const Tensor a = parameter({0, 0});
  Tensor b = parameter({1});
  b.set_requires_grad(false);
  optim::SGD sgd({{"a", a}, {"b", b}}, {.lr = 1});
  sum(a * tensor({3, 4}, {.dtype = DType::f64})).backward();
  sgd.defer({.average = 0.5});
  b.set_requires_grad();
  sgd.rebuild();
  sgd.step();
  EXPECT_EQ(a.to_vector(), Doubles({-1.5, -2}));
}

TEST(StepOptions, AreForgottenWithTheOptimizer) {
  const Tensor a = parameter({0, 0});
  {
    optim::SGD sgd({{"a", a}}, {.lr = 1});
    sum(a * tensor({3, 4}, {.dtype = DType::f64})).backward();
    sgd.defer({.average = 0.5});
  }
  EXPECT_EQ(a.grad().to_vector(), Doubles({3, 4}));
}

TEST(Twins, AreWrittenByTheStep) {
  const Tensor w = randn({8, 8}).set_requires_grad();
  optim::AdamW adam({{"w", w}}, {.lr = 0.1});
  adam.keep_twins(DType::bf16);
  const Tensor x = randn({4, 8});
  for (int i = 0; i < 3; ++i) {
    adam.zero_grad();
    {
      const Autocast cast(DType::bf16);
      sum(linear(x, w, {})).backward();
    }
    adam.step();
    ASSERT_TRUE(has_fresh_twin(w));
    EXPECT_EQ(weight_like(x.to(DType::bf16), w).to_vector(), w.detach().to(DType::bf16).to_vector());
  }
}

TEST(Twins, AStaleTwinStaysStaleOverASkippedStep) {
  const Tensor w = randn({4, 4}).set_requires_grad();
  optim::SGD sgd({{"w", w}});
  sgd.keep_twins(DType::bf16);
  optim::GradScaler scaler;
  give(w, infinity);
  sgd.step({.scaler = &scaler});
  EXPECT_FALSE(has_fresh_twin(w));
  EXPECT_EQ(weight_like(zeros({1, 4}, {.dtype = DType::bf16}), w).to_vector(), w.detach().to(DType::bf16).to_vector());
}

TEST(Optimizer, Updates16BitParametersWithStateInF32) {
  const Tensor p = parameter({1, 2, 3}, DType::bf16);
  optim::AdamW adam({{"p", p}}, {.lr = 0.5, .weight_decay = 0});
  give(p, 1);
  adam.step();
  EXPECT_EQ(p.dtype(), DType::bf16);
  EXPECT_EQ(p.to_vector(), Doubles({0.5, 1.5, 2.5}));
  EXPECT_EQ(adam.state_dict()[0].tensor.dtype(), DType::f32);
}

}  // namespace
}  // namespace anneal::testing
