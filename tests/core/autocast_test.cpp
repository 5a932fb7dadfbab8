#include "anneal/core/autocast.h"

#include <gtest/gtest.h>

#include "anneal/core/autograd.h"
#include "anneal/core/ops.h"
#include "anneal/tests/expect.h"

namespace anneal::testing {
namespace {

Tensor leaf(const Shape& shape) { return randn(shape).set_requires_grad(); }

TEST(Autocast, FollowsTheTable) {
  const Tensor x = randn({4, 8}), w = leaf({3, 8}), b = leaf({3});
  const Autocast cast(DType::bf16);
  const Tensor y = linear(x, w, b);
  EXPECT_EQ(y.dtype(), DType::bf16);
  EXPECT_EQ(matmul(x, w.transpose(0, 1)).dtype(), DType::bf16);
  EXPECT_EQ(conv2d(randn({1, 2, 5, 5}), leaf({3, 2, 3, 3}), {}).dtype(), DType::bf16);
  EXPECT_EQ(relu(y).dtype(), DType::bf16);
  for (const Tensor& full : {softmax(y, 1), sum(y), mean(y), exp(y), layer_norm(y, ones({3}), zeros({3}))})
    EXPECT_EQ(full.dtype(), DType::f32);
  EXPECT_EQ((y + zeros({4, 3})).dtype(), DType::f32) << "the widest decides";
  for (const Tensor& residual : {y, zeros({4, 3})}) {
    const NormOfSum of_sum = add_layer_norm(y, residual);
    EXPECT_EQ(of_sum.sum.dtype(), residual.dtype());
    EXPECT_EQ(of_sum.norm.dtype(), DType::f32);
    EXPECT_EQ(of_sum.norm.to_vector(), layer_norm(y + residual).to_vector());
  }
  EXPECT_EQ(cat({y, zeros({4, 3})}, 0).dtype(), DType::f32);
  EXPECT_EQ(linear(x.to(DType::f64), w.detach().to(DType::f64), {}).dtype(), DType::f64) << "f64 stays";
}

TEST(Autocast, IsOffOutsideAndRefusesOtherTypes) {
  EXPECT_FALSE(autocast_dtype());
  {
    const Autocast outer(DType::f16);
    const Autocast inner(std::nullopt);
    EXPECT_FALSE(autocast_dtype());
  }
  EXPECT_FALSE(autocast_dtype());
  expect_contains(error_of([] { const Autocast scope(DType::f32); }), "expected f16 or bf16, got f32");
  const Tensor x = randn({2, 2}).to(DType::bf16);
  expect_contains(error_of([&] { linear(x, randn({2, 2}), {}); }), "expected operands of one floating dtype");
  expect_contains(error_of([&] { x + randn({2, 2}); }), "expected operands of one dtype");
}

TEST(Autocast, WeightGradientsAreFullAndRoundedNowhereElse) {
  const Tensor x = randn({16, 32}), w = leaf({8, 32}), b = leaf({8});
  {
    const Autocast cast(DType::bf16);
    sum(linear(x, w, b)).backward();
  }
  ASSERT_EQ(w.grad().dtype(), DType::f32);
  ASSERT_EQ(b.grad().dtype(), DType::f32);
  // dy is 1: the gradient of each row of w is the sum over the rows of x as they were rounded, in f32.
  const Tensor want = sum(x.to(DType::bf16).to(DType::f64), {0});
  const std::vector<double> got = w.grad().to_vector(), columns = want.to_vector();
  for (std::size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], columns[i % 32], 1e-5);
  EXPECT_EQ(b.grad().to_vector(), std::vector<double>(8, 16.0));
}

// A batch of 16 bits stays so, with statistics and parameters in f32.
TEST(Autocast, BatchNormKeepsItsParametersFull) {
  for (const DType dtype : {DType::bf16, DType::f16}) {
    const Autocast cast(dtype);
    const Tensor batch = randn({6, 3, 4}).to(dtype), x = batch.clone().set_requires_grad();
    const Tensor weight = leaf({3}), bias = leaf({3}), mean = zeros({3}), var = ones({3});
    const Tensor y = batch_norm(x, mean, var, weight, bias);
    EXPECT_EQ(y.dtype(), dtype);
    y.backward(ones({6, 3, 4}).to(dtype));
    EXPECT_EQ(x.grad().dtype(), dtype);
    EXPECT_EQ(weight.grad().dtype(), DType::f32);
    // The same in f32.
    const Tensor wide_mean = zeros({3}), wide_var = ones({3}),
                 wide_weight = weight.detach().clone().set_requires_grad();
    const Tensor wide = batch_norm(batch.to(DType::f32), wide_mean, wide_var, wide_weight, bias.detach());
    wide.backward(ones({6, 3, 4}));
    EXPECT_EQ(y.to_vector(), wide.to(dtype).to_vector());
    EXPECT_EQ(mean.to_vector(), wide_mean.to_vector());
    EXPECT_EQ(var.to_vector(), wide_var.to_vector());
    EXPECT_EQ(weight.grad().to_vector(), wide_weight.grad().to_vector());
    expect_contains(error_of([&] { batch_norm(batch.to(DType::f64), mean, var); }), "needs a weight and bias of f64");
  }
}

// The loss of 16-bit logits is f32, to the bit as if they had been converted; so is their gradient, before its
// rounding.
TEST(Autocast, CrossEntropyTakesLogitsOfSixteenBits) {
  for (const DType dtype : {DType::bf16, DType::f16}) {
    const Tensor values = (randn({7, 300}) * 3).to(dtype), target = tensor({0, 5, 299, 7, -100, 8, 1}).to(DType::i64);
    for (const LossReduction reduction : {LossReduction::mean, LossReduction::none}) {
      const Autocast cast(dtype);
      const Tensor x = values.clone().set_requires_grad(), wide = values.to(DType::f32).set_requires_grad();
      const Tensor loss = cross_entropy(x, target, {.reduction = reduction});
      const Tensor expected = cross_entropy(wide, target, {.reduction = reduction});
      EXPECT_EQ(loss.dtype(), DType::f32);
      EXPECT_EQ(loss.to_vector(), expected.to_vector());
      sum(loss).backward();
      sum(expected).backward();
      EXPECT_EQ(x.grad().dtype(), dtype);
      EXPECT_EQ(x.grad().to_vector(), wide.grad().to(dtype).to_vector());
    }
    EXPECT_EQ(cross_entropy(values, target).dtype(), dtype) << "without Autocast";
  }
}

TEST(Autocast, ATwinIsKeptUntilTheWeightChanges) {
  const Tensor w = leaf({4, 4});
  const Tensor x = randn({1, 4}).to(DType::bf16);
  EXPECT_FALSE(has_fresh_twin(w));
  const Tensor twin = weight_like(x, w);
  EXPECT_EQ(twin.dtype(), DType::bf16);
  EXPECT_TRUE(has_fresh_twin(w));
  EXPECT_TRUE(weight_like(x, w).same(twin));
  {
    const NoGrad no_grad;
    w.fill_(3);
  }
  EXPECT_FALSE(has_fresh_twin(w));
  EXPECT_EQ(weight_like(x, w).to_vector(), std::vector<double>(16, 3.0));
}

TEST(Autocast, DoubleBackwardReachesTheWeight) {
  const Tensor x = leaf({3, 4}), w = leaf({2, 4});
  Tensor y;
  {
    const Autocast cast(DType::bf16);
    y = linear(x, w, {}).to(DType::f32);
  }
  const Tensor dx = grad(sum(y * y), {x}, {.create_graph = true})[0];
  sum(dx).backward();
  EXPECT_EQ(w.grad().dtype(), DType::f32);
  // d sum(2 x W^T W) / dW, in f64 from the rounded operands.
  const Tensor x64 = x.detach().to(DType::bf16).to(DType::f64), w64 = w.detach().to(DType::bf16).to(DType::f64);
  Tensor reference = w64.clone();
  reference.set_requires_grad();
  sum(matmul(matmul(x64, reference.transpose(0, 1)), reference) * 2).backward();
  const std::vector<double> got = w.grad().to_vector(), want = reference.grad().to_vector();
  for (std::size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], want[i], 0.03 * (1 + std::abs(want[i])));
}

}  // namespace
}  // namespace anneal::testing
