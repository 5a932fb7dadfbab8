// What can be asked of a graph beyond backward: hooks, anomaly mode, grad, higher derivatives, rules of one's own.
#include <gtest/gtest.h>

#include <cmath>

#include "anneal/core/autograd.h"
#include "anneal/core/gradcheck.h"
#include "anneal/core/ops.h"
#include "anneal/tests/expect.h"

using namespace anneal;
using anneal::testing::error_of;
using anneal::testing::expect_contains;
using anneal::testing::leaf;

namespace {

using Doubles = std::vector<double>;

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
  static void backward(const Tensor& dy, Gradients& dx, const Tensor& x, double scale) {
    dx.set(0, dy * square(x) * (3 * scale));
  }
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
  expect_contains(error_of([&] { grad(sum(fused), {x}, {.create_graph = true}); }),
                  "fused: its gradient is a fused kernel");
  EXPECT_EQ(grad(sum(record<FusedRule>(x.detach().clone(), {x})), {x})[0].to_vector(), (Doubles{1, 1, 1}));
}

}  // namespace
