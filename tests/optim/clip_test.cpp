// Clipping before the step: by group, and adaptive.
#include "anneal/optim/clip.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "anneal/core/ops.h"
#include "anneal/optim/sgd.h"
#include "anneal/tests/temp_folder.h"

using namespace anneal;
using anneal::testing::message_of;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

// Parameters with the gradients that they are to have; each a group of its own.
struct Model {
  std::vector<Tensor> parameters;
  optim::SGD optimizer;

  explicit Model(std::vector<Tensor> values, const std::vector<Tensor>& gradients)
      : parameters(std::move(values)), optimizer(groups_of(parameters)) {
    Tensor loss;
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      if (!gradients[i].defined()) continue;
      const Tensor part = sum(parameters[i] * gradients[i]).to(DType::f64);
      loss = loss.defined() ? loss + part : part;
    }
    loss.backward();
  }
  std::vector<double> gradient(std::size_t i) const { return parameters[i].grad().to_vector(); }

 private:
  static std::vector<optim::ParamGroup<optim::SGDOptions>> groups_of(std::vector<Tensor>& parameters) {
    std::vector<optim::ParamGroup<optim::SGDOptions>> groups;
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      parameters[i].set_requires_grad();
      groups.push_back({{{"p" + std::to_string(i), parameters[i]}}, {.lr = 1}});
    }
    return groups;
  }
};

Tensor numbers(std::vector<double> values, const Shape& shape, DType dtype = DType::f64) {
  return tensor(values, shape, {.dtype = dtype});
}
void expect_near(const std::vector<double>& got, const std::vector<double>& expected, double tolerance = 1e-12) {
  ASSERT_EQ(got.size(), expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], expected[i], tolerance) << "element " << i;
}

TEST(ClipGroups, EachHasALimit) {
  for (const DType dtype : {DType::f64, DType::f32, DType::f16}) {
    const auto two = [&] { return numbers({0, 0}, {2}, dtype); };
    Model model({two(), two(), two()},
                {numbers({3, 4}, {2}, dtype), numbers({30, 40}, {2}, dtype), numbers({0.3, 0.4}, {2}, dtype)});
    optim::clip_group_norms(model.optimizer, std::vector<double>{1, 0, 1});
    const double tolerance = dtype == DType::f64 ? 1e-12 : dtype == DType::f32 ? 1e-6 : 1e-3;
    expect_near(model.gradient(0), {3 / 5.000001, 4 / 5.000001}, tolerance);
    expect_near(model.gradient(1), {30, 40}, 0);
    expect_near(model.gradient(2), {0.3, 0.4}, tolerance);
  }
}

TEST(ClipGroups, ByAnyNorm) {
  for (const auto& [p, norm] : {std::pair(1.0, 7.0), std::pair(3.0, std::cbrt(91.0)), std::pair(infinity, 4.0)}) {
    Model model({zeros({2}, {.dtype = DType::f64})}, {numbers({3, -4}, {2})});
    optim::clip_group_norms(model.optimizer, std::vector<double>{0.5}, p);
    expect_near(model.gradient(0), {1.5 / (norm + 1e-6), -2 / (norm + 1e-6)});
  }
}

TEST(ClipGroups, NeedsALimitForEach) {
  Model model({zeros({1}), zeros({1})}, {ones({1}), Tensor()});
  EXPECT_EQ(message_of<Error>([&] { optim::clip_group_norms(model.optimizer, std::vector<double>{1}); }),
            "clip_group_norms: expected a limit for each of 2 groups, got 1");
  optim::clip_group_norms(model.optimizer, std::vector<double>{1, 1});
  EXPECT_FALSE(model.parameters[1].grad().defined()) << "a parameter without a gradient has none afterwards";
}

// The gradient is unscaled and averaged first.
TEST(ClipGroups, SeesTrueGradients) {
  Model model({zeros({2}, {.dtype = DType::f64})}, {numbers({30, 40}, {2})});
  model.optimizer.defer({.average = 0.1});
  optim::clip_group_norms(model.optimizer, std::vector<double>{1});
  model.optimizer.step();
  expect_near(model.parameters[0].to_vector(), {-3 / 5.000001, -4 / 5.000001});
}

// Rows of a weight: the first has norm 5 and may have a gradient of norm 0.5, which it has; the second norm 10.
TEST(ClipAdaptive, ScalesEachUnitByItsOwnNorm) {
  Model model({numbers({3, 4, 6, 8}, {2, 2}), numbers({0, 0}, {2}), numbers({3, 4}, {2})},
              {numbers({0.3, 0.4, 3, -4}, {2, 2}), numbers({0.3, 0.4}, {2}), numbers({30, 40}, {2})});
  optim::clip_adaptive(model.optimizer, 0.1);
  expect_near(model.gradient(0), {0.3, 0.4, 3 * 1.0 / 5, -4 * 1.0 / 5});
  const double least = 0.1 * 1e-3 / 0.5;
  expect_near(model.gradient(1), {0.3 * least, 0.4 * least});
  expect_near(model.gradient(2), {30 * 0.5 / 50, 40 * 0.5 / 50});
}

TEST(ClipAdaptive, AFilterIsAUnit) {
  Model model({ones({2, 2, 1, 2}, {.dtype = DType::f64})}, {2 * ones({2, 2, 1, 2}, {.dtype = DType::f64})});
  optim::clip_adaptive(model.optimizer, 0.5);
  expect_near(model.gradient(0), std::vector<double>(8, 0.5));
}

TEST(ClipAdaptive, WhatIsNotFiniteStaysSo) {
  for (const double bad : {infinity, std::nan("")}) {
    Model model({numbers({3, 4}, {2}), numbers({0}, {1})}, {numbers({bad, 1}, {2}), numbers({0}, {1})});
    optim::clip_adaptive(model.optimizer, 0.1);
    EXPECT_FALSE(std::isfinite(model.gradient(0)[0])) << bad;
    EXPECT_EQ(model.gradient(1)[0], 0) << "a gradient of zero stays so";
  }
}

}  // namespace
