// The engine: what collects where, when, and what is refused.
#include "anneal/core/autograd.h"

#include <gtest/gtest.h>
#include <pthread.h>

#include <cmath>
#include <thread>

#include "anneal/core/gradcheck.h"
#include "anneal/core/ops.h"
#include "anneal/optim/sgd.h"
#include "anneal/tests/temp_folder.h"

using namespace anneal;
using anneal::testing::message_of;

namespace {

using Doubles = std::vector<double>;

Tensor leaf(std::initializer_list<double> values) { return tensor(values, {.dtype = DType::f64, .requires_grad = true}); }

template <class F>
std::string error_of(F&& f) {
  return message_of<Error>(std::forward<F>(f));
}
void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "'" << text << "' should contain '" << part << "'";
}

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

TEST(Autograd, ViewsPassGradientsToTheirBase) {
  const Tensor x = tensor({1, 2, 3, 4, 5, 6}, {2, 3}, {.dtype = DType::f64, .requires_grad = true});
  (x.select(0, 1).slice(0, 0, 2) * tensor({10, 20}, {.dtype = DType::f64})).backward(tensor({1, 1}, {.dtype = DType::f64}));
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
  expect_contains(error_of([&] { y.backward(); }), "mul: a tensor of shape [1] that it needs for backward was changed in place");
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

// ---- hooks ----

TEST(Hooks, OncePerBackwardWhenComplete) {
  const Tensor x = leaf({3});
  const Tensor y = x * 2;
  std::vector<double> at_leaf, inside;
  x.register_hook([&](const Tensor& g) { at_leaf.push_back(g.item()); });
  y.register_hook([&](const Tensor& g) { inside.push_back(g.item()); });
  const Tensor z = y * y + y;  // dz/dy = 2y + 1 = 13
  backward(z + x, {}, {.retain_graph = true});
  EXPECT_EQ(inside, (Doubles{13}));
  EXPECT_EQ(at_leaf, (Doubles{27}));
  z.backward();
  EXPECT_EQ(inside, (Doubles{13, 13}));
  EXPECT_EQ(at_leaf, (Doubles{27, 53})) << "a leaf's hook sees what was collected so far";
}

TEST(Hooks, ReplaceTheGradientInside) {
  const Tensor x = leaf({3, 1});
  const Tensor y = x * 2;
  y.register_hook([](const Tensor& g) { return g * 10; });
  y.register_hook([](const Tensor& g) { return g + 1; });  // in order of registration
  sum(y).backward();
  EXPECT_EQ(x.grad().to_vector(), (Doubles{22, 22}));
  const Tensor z = x * 2;
  z.register_hook([](const Tensor&) { return scalar(1, {.dtype = DType::f64}); });
  expect_contains(error_of([&] { sum(z).backward(); }), "a hook on the result of mul returned shape []");
}

TEST(Hooks, CannotReplaceALeafsGradientButChangeIt) {
  const Tensor x = leaf({3});
  x.register_hook([](const Tensor& g) { g.mul_(0.5); });
  (x * 4).backward();
  EXPECT_EQ(x.grad().item(), 2);
  x.register_hook([](const Tensor& g) { return g * 2; });
  expect_contains(error_of([&] { (x * 4).backward(); }), "a hook on a leaf cannot replace its gradient");
}

TEST(Hooks, AnErrorLeavesTheEngineUsable) {
  const Tensor x = leaf({3});
  const Tensor y = x * 2;
  y.register_hook([](const Tensor&) { throw std::runtime_error("stop"); });
  EXPECT_THROW(backward(y + x, {}, {.retain_graph = true}), std::runtime_error);
  EXPECT_TRUE(grad_enabled());
  x.zero_grad();
  (x * x).backward();
  EXPECT_EQ(x.grad().item(), 6);
  expect_contains(error_of([] { tensor({1}).register_hook([](const Tensor&) {}); }), "does not require gradients");
}

// ---- anomaly mode ----

TEST(Anomaly, NamesTheOp) {
  const Tensor x = tensor({1, -1, 2, 0}, {2, 2}, {.dtype = DType::f64, .requires_grad = true});
  sqrt(x);  // says nothing without the mode
  const AnomalyMode on;
  expect_contains(error_of([&] { sqrt(x); }), "sqrt: its result, of shape [2, 2], has ");
  expect_contains(error_of([&] { sqrt(x); }), "at element 1");
  expect_contains(error_of([&] { log(x.transpose(0, 1)); }), "log: its result");
  // The value is fine, the slope is not.
  const Tensor root = sqrt(x.select(0, 1).select(0, 1));
  EXPECT_EQ(root.item(), 0);
  expect_contains(error_of([&] { root.backward(); }), "sqrt: its ");
  const AnomalyMode off(false);
  sqrt(x);
}

// ---- grad ----

TEST(GradFunction, LeavesTheCollectedAlone) {
  const Tensor x = leaf({2});
  const Tensor w = leaf({5});
  const Tensor h = x * w;
  const Tensor y = h * h;
  const auto g = grad(y, {x, h, w, leaf({1}), y}, {.retain_graph = true});
  EXPECT_EQ(g[0].item(), 100);
  EXPECT_EQ(g[1].item(), 20);
  EXPECT_EQ(g[2].item(), 40);
  EXPECT_FALSE(g[3].defined());
  EXPECT_EQ(g[4].item(), 1);
  EXPECT_FALSE(x.grad().defined());
  EXPECT_FALSE(w.grad().defined());
  y.backward();
  EXPECT_EQ(x.grad().item(), 100);
}

TEST(GradFunction, HigherDerivatives) {
  const Tensor x = leaf({2});
  Tensor y = x * x * x * x;
  const double expected[] = {32, 48, 48, 24};
  for (const double value : expected) {
    y = grad(y, {x}, {.create_graph = true})[0];
    EXPECT_DOUBLE_EQ(y.item(), value);
  }
  expect_contains(error_of([&] {
                    Tensor z = exp(x);
                    for (int i = 0; i < 3; ++i) z = grad(z, {x}, {.create_graph = true})[0];
                  }),
                  "cannot be differentiated more than twice");
}

TEST(GradFunction, RecordedBackwardCollectsTensorsOfAGraph) {
  const Tensor x = leaf({2});
  backward(x * x * x, {}, {.create_graph = true});
  const Tensor slope = x.grad();
  EXPECT_EQ(slope.item(), 12);
  ASSERT_TRUE(slope.requires_grad());
  x.zero_grad();
  (slope * slope).backward();  // d (3x^2)^2 / dx = 36 x^3
  EXPECT_EQ(x.grad().item(), 288);
}

TEST(GradFunction, RecordedContributionsAdd) {
  const Tensor x = leaf({2});
  (x * 7).backward();
  backward(x * x, {}, {.create_graph = true});
  backward(x * x * x, {}, {.create_graph = true});
  EXPECT_EQ(x.grad().item(), 7 + 4 + 12);
  const Tensor total = x.grad();
  x.zero_grad();
  total.backward();
  EXPECT_EQ(x.grad().item(), 2 + 12);
}

// ---- a rule of the user's ----

struct CubeRule {
  static constexpr const char* name = "cube";
  static void backward(const Tensor& dy, Gradients& dx, const Tensor& x, double scale) { dx.set(0, dy * square(x) * (3 * scale)); }
};
Tensor cube(const Tensor& x, double scale) {
  const Tensor y = [&] {
    const NoGrad off;
    return x * x * x * scale;
  }();
  return record<CubeRule>(y, {x}, x, scale);
}
struct WrongRule {
  static constexpr const char* name = "wrong";
  static void backward(const Tensor& dy, Gradients& dx, const Tensor& x) { dx.set(0, dy * square(x) * 2.999); }
};
struct FusedRule {
  static constexpr const char* name = "fused";
  static void backward(const Tensor& dy, Gradients& dx) {
    check_differentiated_once(name);
    dx.set(0, dy);
  }
};

TEST(UserRule, IsCheckedAndDifferentiatedTwice) {
  const Tensor x = tensor({1, -2, 0.5}, {.dtype = DType::f64, .requires_grad = true});
  const auto report = gradcheck([](std::span<const Tensor> in) { return cube(in[0], 0.7); }, {x}, {.twice = true});
  EXPECT_TRUE(report.ok) << report.where;
  const auto wrong = gradcheck(
      [](std::span<const Tensor> in) {
        const Tensor y = [&] {
          const NoGrad off;
          return in[0] * in[0] * in[0];
        }();
        return record<WrongRule>(y, {in[0]}, in[0]);
      },
      {x});
  EXPECT_FALSE(wrong.ok);
  expect_contains(wrong.where, "input 0, element 0 against finite differences");
  const Tensor fused = record<FusedRule>(x.detach().clone(), {x});
  expect_contains(error_of([&] { grad(sum(fused), {x}, {.create_graph = true}); }), "fused: its gradient is a fused kernel");
  EXPECT_EQ(grad(sum(record<FusedRule>(x.detach().clone(), {x})), {x})[0].to_vector(), (Doubles{1, 1, 1}));
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
