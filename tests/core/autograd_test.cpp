// The engine: what collects where, when, and what is refused.
#include "anneal/core/autograd.h"

#include <gtest/gtest.h>
#include <pthread.h>

#include <cmath>
#include <thread>

#include "anneal/core/gradcheck.h"
#include "anneal/core/ops.h"
#include "anneal/optim/sgd.h"
#include "anneal/tests/expect.h"

using namespace anneal;
using anneal::testing::error_of;
using anneal::testing::expect_contains;
using anneal::testing::leaf;

namespace {

using Doubles = std::vector<double>;

// Runs `f` where deep recursion would overflow.
void with_small_stack(void (*f)()) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  ASSERT_EQ(pthread_attr_setstacksize(&attributes, 256 << 10), 0);
  pthread_t thread;
  const auto start = [](void* function) -> void* {
    reinterpret_cast<void (*)()>(function)();
    return nullptr;
  };
  ASSERT_EQ(pthread_create(&thread, &attributes, start, reinterpret_cast<void*>(f)), 0);
  pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
}

constexpr int deep = 1'000'000;

TEST(AutogradDepth, MillionOpsBackward) {
  with_small_stack([] {
    const Tensor x = leaf({1});
    Tensor y = x;
    for (int i = 0; i < deep; ++i) y = y + 1;
    y.backward();
    EXPECT_EQ(y.item(), deep + 1);
    EXPECT_EQ(x.grad().item(), 1);
  });
}

TEST(AutogradDepth, MillionOpsDropped) {
  with_small_stack([] {
    const Tensor x = leaf({1});
    Tensor y = x;
    for (int i = 0; i < deep; ++i) y = -y;  // saves its input, which holds the node before
    EXPECT_TRUE(y.requires_grad());
  });
}

// ---- accumulation ----

TEST(Autograd, AccumulatesOverBackwards) {
  const Tensor x = leaf({2, 3});
  for (int i = 1; i <= 3; ++i) {
    sum(square(x)).backward();
    EXPECT_EQ(x.grad().to_vector(), (Doubles{4.0 * i, 6.0 * i}));
  }
  x.zero_grad();
  EXPECT_FALSE(x.grad().defined());
  sum(x * 5).backward();
  EXPECT_EQ(x.grad().to_vector(), (Doubles{5, 5}));
}

TEST(Autograd, NoGradientMeansUntouched) {
  const Tensor used = leaf({1});
  const Tensor unused = leaf({1});
  used.backward();
  EXPECT_TRUE(leaf_of(used)->touched);
  EXPECT_FALSE(leaf_of(unused)->touched);
  EXPECT_FALSE(unused.grad().defined());
  EXPECT_EQ(leaf_of(tensor({1.0})), nullptr);
  EXPECT_EQ(leaf_of(used + unused), nullptr);
  // A gradient of zeros is a gradient.
  (unused * 0).backward();
  EXPECT_TRUE(leaf_of(unused)->touched);
  EXPECT_EQ(unused.grad().item(), 0);
}

TEST(Autograd, KeepsTheMemoryOfAGradient) {
  const Tensor x = leaf({1, 2});
  sum(x * 2).backward();
  const void* memory = x.grad().raw();
  leaf_of(x)->slot.fill_(NAN);
  x.zero_grad();
  sum(x * 3).backward();
  EXPECT_EQ(x.grad().raw(), memory);
  EXPECT_EQ(x.grad().to_vector(), (Doubles{3, 3}));
}

TEST(Autograd, LeavesDoNotShareAGradient) {
  const Tensor a = leaf({1, 2});
  const Tensor b = leaf({3, 4});
  const Tensor seed = tensor({1, 1}, {.dtype = DType::f64});
  (a + b).backward(seed);
  ASSERT_NE(a.grad().raw(), b.grad().raw());
  ASSERT_NE(a.grad().raw(), seed.raw());
  a.grad().fill_(7);
  EXPECT_EQ(b.grad().to_vector(), (Doubles{1, 1}));
  EXPECT_EQ(seed.to_vector(), (Doubles{1, 1}));
}

TEST(Autograd, TensorUsedManyTimes) {
  const Tensor x = leaf({2});
  const Tensor y = x * x + x;  // 2x + 1
  (y * y + y + x).backward();  // (2y + 1)(2x + 1) + 1
  EXPECT_EQ(x.grad().item(), 13 * 5 + 1);
}

// Kernels that can add to the gradient that another branch left do; not where somebody else has that tensor too.
TEST(Autograd, KernelsAddToGradientsOfOtherBranches) {
  const TensorOptions f64{.dtype = DType::f64};
  const Tensor x = tensor({1, -2, 4, 0.5, 3, -1}, {2, 3}, f64).set_requires_grad();
  const Tensor w = tensor({1, 2, 0, -1, 1, 3, 0.5, 0, 2}, {3, 3}, f64).set_requires_grad();
  const auto block = [](const Tensor& h, const Tensor& w) {
    return h + linear(layer_norm(h), w, {}) + linear(h, w, {});
  };
  const GradcheckReport report =
      gradcheck([&](std::span<const Tensor> in) { return block(block(in[0] * 2, in[1]), in[1]); }, {x, w});
  EXPECT_TRUE(report.ok) << report.where;

  const Tensor h = x * 2;
  const Tensor inner = block(h, w), outer = block(inner, w);
  const Tensor seed = tensor({1, 2, -1, 0, 3, 1}, {2, 3}, f64);
  const std::vector<Tensor> twice = grad(outer, {outer, inner, h}, {.retain_graph = true}, seed);
  const std::vector<Tensor> again = grad(outer, {outer, inner, h}, {}, seed);
  EXPECT_EQ(seed.to_vector(), (Doubles{1, 2, -1, 0, 3, 1})) << "the caller's";
  EXPECT_EQ(twice[0].to_vector(), seed.to_vector());
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(twice[i].to_vector(), again[i].to_vector());
}

TEST(Autograd, ViewsPassGradientsToTheirBase) {
  const Tensor x = tensor({1, 2, 3, 4, 5, 6}, {2, 3}, {.dtype = DType::f64, .requires_grad = true});
  (x.select(0, 1).slice(0, 0, 2) * tensor({10, 20}, {.dtype = DType::f64}))
      .backward(tensor({1, 1}, {.dtype = DType::f64}));
  EXPECT_EQ(x.grad().to_vector(), (Doubles{0, 0, 0, 10, 20, 0}));
}

// ---- modes ----

TEST(AutogradModes, NoGradRecordsNothing) {
  const Tensor x = leaf({1});
  {
    const NoGrad off;
    EXPECT_FALSE(grad_enabled());
    EXPECT_FALSE((x * 2).requires_grad());
    {
      const GradMode on(true);
      EXPECT_TRUE((x * 2).requires_grad());
    }
    EXPECT_FALSE(grad_enabled());
    // The mode is the thread's own.
    std::thread([] { EXPECT_TRUE(grad_enabled()); }).join();
  }
  EXPECT_TRUE((x * 2).requires_grad());
  EXPECT_FALSE(x.detach().requires_grad());
  EXPECT_FALSE((x.detach() * 2).requires_grad());
}

TEST(AutogradModes, InferenceModeIsAboveGradMode) {
  const Tensor x = leaf({1});
  {
    const InferenceMode inference;
    EXPECT_TRUE(inference_mode_enabled());
    const GradMode on(true);
    EXPECT_FALSE(grad_enabled());
    EXPECT_FALSE((x * 2).requires_grad());
    const InferenceMode off(false);
    EXPECT_TRUE((x * 2).requires_grad());
  }
  EXPECT_FALSE(inference_mode_enabled());
  EXPECT_TRUE((x * 2).requires_grad());
}

TEST(AutogradModes, BackwardSeesTheCallersModeAgain) {
  const Tensor x = leaf({1});
  const Tensor y = x * 2;
  y.backward();
  EXPECT_TRUE(grad_enabled());
  EXPECT_FALSE(x.grad().requires_grad());
}

// ---- what can go wrong ----

TEST(AutogradErrors, BackwardOfWhatHasNoGraph) {
  expect_contains(error_of([] { tensor({1}).backward(); }), "does not require gradients");
  expect_contains(error_of([] { (leaf({1, 2}) * 2).backward(); }), "expected a scalar, got shape [2]");
  expect_contains(error_of([] { (leaf({1, 2}) * 2).backward(tensor({1, 1}, {.dtype = DType::f32})); }), "f32");
  expect_contains(error_of([] { (leaf({1, 2}) * 2).backward(tensor({1}, {.dtype = DType::f64})); }), "shape [1]");
  expect_contains(error_of([] { grad(leaf({1}) * 2, {tensor({1})}); }), "an input does not require gradients");
}

TEST(AutogradErrors, SecondBackwardNeedsRetain) {
  const Tensor x = leaf({3});
  const Tensor y = square(x);
  backward(y, {}, {.retain_graph = true});
  y.backward();
  EXPECT_EQ(x.grad().item(), 12);
  expect_contains(error_of([&] { y.backward(); }), "square: backward a second time");
  const Tensor sum = x + x;  // saves nothing, but is one graph with the others
  sum.backward();
  expect_contains(error_of([&] { sum.backward(); }), "add: backward a second time");
}

TEST(AutogradErrors, EngineWorksAfterAnError) {
  const Tensor x = leaf({3});
  const Tensor y = square(x);
  y.backward();
  EXPECT_NE(error_of([&] { (y + x).backward(); }), "");
  x.zero_grad();
  (square(x) + x).backward();
  EXPECT_EQ(x.grad().item(), 7);
}

TEST(AutogradErrors, WritingToWhatWasSaved) {
  const Tensor x = leaf({3});
  const Tensor factor = tensor({2}, {.dtype = DType::f64});
  const Tensor y = x * factor;
  factor.fill_(5);
  expect_contains(error_of([&] { y.backward(); }),
                  "mul: a tensor of shape [1] that it needs for backward was changed in place");
  // Through a view it is the same memory, and through a pointer the caller says so.
  const Tensor z = x * factor;
  factor.slice(0, 0, 1).add_(factor);
  expect_contains(error_of([&] { z.backward(); }), "mul:");
  const Tensor w = x * factor;
  *factor.data<double>() = 1;
  factor.bump_version();
  expect_contains(error_of([&] { w.backward(); }), "mul:");
  // What the op does not need may change.
  const Tensor v = x + factor;
  factor.fill_(0);
  v.backward();
  EXPECT_EQ(x.grad().item(), 1);
}

TEST(AutogradErrors, WritingToASavedResult) {
  const Tensor x = leaf({0.5});
  const Tensor y = exp(x);
  y.detach().fill_(3);
  expect_contains(error_of([&] { y.backward(); }), "exp: a tensor of shape [1]");
}

TEST(AutogradErrors, OptimizerStepBetweenForwardAndBackward) {
  const Tensor w = leaf({3});
  const Tensor other = leaf({1});
  optim::SGD sgd({{"w", w}, {"other", other}}, {.lr = 0.1});
  const Tensor before = square(w);
  const Tensor spared = square(other);
  square(w).backward();
  sgd.step();
  expect_contains(error_of([&] { before.backward(); }), "square: a tensor of shape [1]");
  // It had no gradient and was not written, though it stands in the same block.
  spared.backward();
  EXPECT_EQ(other.grad().item(), 2);
}

TEST(AutogradErrors, WritingInPlaceToAGraph) {
  const Tensor x = leaf({1, 2});
  const Tensor y = x * 2;
  for (const Tensor& t : {x, y, x.slice(0, 0, 1)}) {
    expect_contains(error_of([&] { t.fill_(0); }), "fill_: the tensor takes part in a graph");
    expect_contains(error_of([&] { t.zero_(); }), "takes part in a graph");
    expect_contains(error_of([&] { t.copy_(t.detach()); }), "copy_:");
    expect_contains(error_of([&] { t.add_(t.detach()); }), "add_:");
    expect_contains(error_of([&] { t.mul_(t.detach()); }), "mul_:");
    expect_contains(error_of([&] { t.mul_(2); }), "mul_:");
  }
  EXPECT_EQ(x.to_vector(), (Doubles{1, 2}));
  const NoGrad off;
  x.fill_(4);
  EXPECT_EQ(x.to_vector(), (Doubles{4, 4}));
}

TEST(AutogradErrors, RequiresGradOnlyOfFloatingLeaves) {
  Tensor y = leaf({1}) * 2;
  expect_contains(error_of([&] { y.set_requires_grad(false); }), "the result of mul");
  Tensor integers = arange(3);
  expect_contains(error_of([&] { integers.set_requires_grad(); }), "i64");
  EXPECT_FALSE(integers.set_requires_grad(false).requires_grad());
}

// ---- threads ----

// The weights after some steps of a small model.
Doubles train(double start, int steps) {
  const Tensor w = full({8, 8}, start, {.dtype = DType::f64, .requires_grad = true});
  const Tensor x = arange(8, {.dtype = DType::f64}) * 0.1;
  optim::SGD sgd({{"w", w}}, {.lr = 0.01, .momentum = 0.9});
  for (int i = 0; i < steps; ++i) {
    mean(square(tanh(matmul(w, x)) - 0.3)).backward();
    sgd.step();
    sgd.zero_grad();
  }
  return w.to_vector();
}

TEST(Threads, TrainDifferentModelsAtTheSameTime) {
  const Doubles a = train(0.1, 300);
  const Doubles b = train(-0.2, 300);
  Doubles other;
  std::thread thread([&] { other = train(-0.2, 300); });
  const Doubles mine = train(0.1, 300);
  thread.join();
  EXPECT_EQ(mine, a);
  EXPECT_EQ(other, b);
}

TEST(Threads, ForwardOfOneModel) {
  const Tensor w = full({8, 8}, 0.1, {.dtype = DType::f64, .requires_grad = true});
  const auto forward = [&w] {
    double total = 0;
    for (int i = 0; i < 300; ++i) {
      const Tensor x = full({8}, i, {.dtype = DType::f64});
      total += sum(tanh(matmul(w, x))).item();
    }
    return total;
  };
  const double expected = forward();
  double other = 0;
  std::thread thread([&] { other = forward(); });
  EXPECT_EQ(forward(), expected);
  thread.join();
  EXPECT_EQ(other, expected);
}

TEST(Threads, BackwardOnAnotherThreadThanForward) {
  const Tensor x = leaf({3});
  const Tensor y = square(x) + x;
  std::thread([&] { y.backward(); }).join();
  EXPECT_EQ(x.grad().item(), 7);
}

}  // namespace
