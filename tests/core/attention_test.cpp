// Scaled dot-product attention against the same of smaller ops; gradients are checked in gradients_test.cpp.
#include <gtest/gtest.h>

#include <cmath>

#include "anneal/core/autocast.h"
#include "anneal/core/autograd.h"
#include "anneal/core/ops.h"
#include "anneal/tests/expect.h"

namespace anneal::testing {
namespace {

void expect_close(const Tensor& got, const Tensor& want, double tolerance = 1e-12) {
  ASSERT_EQ(got.shape(), want.shape());
  const std::vector<double> a = got.to_vector(), b = want.to_vector();
  for (std::size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], tolerance * (1 + std::abs(b[i]))) << "at " << i;
}
Tensor draw(const Shape& shape) { return randn(shape, {.dtype = DType::f64}); }
Tensor plain(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& added = {}) {
  const Tensor scores = matmul(q, k.transpose(-2, -1)) / std::sqrt(static_cast<double>(q.size(-1)));
  return matmul(softmax(added.defined() ? scores + added : scores, -1), v);
}

TEST(Attention, IsTheSoftmaxOfScores) {
  manual_seed(1);
  const Tensor q = draw({2, 3, 7, 8}), k = draw({2, 3, 9, 8}), v = draw({2, 3, 9, 5});
  expect_close(scaled_dot_product_attention(q, k, v), plain(q, k, v));
  expect_close(scaled_dot_product_attention(q, k, v, {.scale = 1 / std::sqrt(2.0)}), plain(q * 2, k, v));
  const Tensor mask = draw({3, 1, 9});
  expect_close(scaled_dot_product_attention(q, k, v, {.mask = mask}), plain(q, k, v, mask));
  const Tensor seen = gt(mask, zeros({}, {.dtype = DType::f64}));
  expect_close(scaled_dot_product_attention(q, k, v, {.mask = seen}),
               plain(q, k, v,
                     masked_fill(zeros({3, 1, 9}, {.dtype = DType::f64}),
                                 eq(seen, zeros({}, {.dtype = DType::boolean})), -INFINITY)));
}

TEST(Attention, CausalIsAlignedAtTheFirstKey) {
  const Tensor q = draw({1, 2, 3, 4}), k = draw({1, 2, 5, 4}), v = draw({1, 2, 5, 4});
  const Tensor y = scaled_dot_product_attention(q, k, v, {.is_causal = true});
  for (int i = 0; i < 3; ++i)
    expect_close(y.slice(2, i, i + 1), plain(q.slice(2, i, i + 1), k.slice(2, 0, i + 1), v.slice(2, 0, i + 1)));
}

TEST(Attention, GroupsOfHeadsShareKeys) {
  const Tensor q = draw({2, 6, 4, 3}), k = draw({2, 2, 5, 3}), v = draw({2, 2, 5, 3});
  const auto repeated = [](const Tensor& x) { return x.unsqueeze(2).expand({2, 2, 3, 5, 3}).reshape({2, 6, 5, 3}); };
  expect_close(scaled_dot_product_attention(q, k, v, {.enable_gqa = true}), plain(q, repeated(k), repeated(v)));
  expect_contains(error_of([&] { scaled_dot_product_attention(q, k, v); }), "6 heads of q do not fit 2");
}

TEST(Attention, AnyRankAndAnyStrides) {
  const Tensor q = draw({3, 2, 4, 5}), k = draw({3, 2, 6, 5}), v = draw({3, 2, 6, 5});
  const Tensor want = scaled_dot_product_attention(q, k, v);
  const auto one = [](const Tensor& x) { return x.select(0, 1).select(0, 1); };
  expect_close(scaled_dot_product_attention(one(q), one(k), one(v)), one(want));
  expect_close(scaled_dot_product_attention(q.select(0, 2), k.select(0, 2), v.select(0, 2)), want.select(0, 2));
  const auto deep = [](const Tensor& x) { return x.unsqueeze(1); };
  expect_close(scaled_dot_product_attention(deep(q), deep(k), deep(v)), deep(want));
  const auto turned = [](const Tensor& x) { return x.transpose(-2, -1).contiguous().transpose(-2, -1); };
  expect_close(scaled_dot_product_attention(turned(q), k.transpose(1, 2).contiguous().transpose(1, 2), v), want);
}

TEST(Attention, PackedIsTheSameInOneTensor) {
  const Tensor qkv = draw({2, 5, 3, 2, 4}).set_requires_grad(), other = qkv.detach().clone().set_requires_grad();
  const auto part = [&](int i) { return other.select(2, i).transpose(1, 2); };
  const Tensor y = scaled_dot_product_attention(qkv, {.is_causal = true});
  const Tensor want = scaled_dot_product_attention(part(0), part(1), part(2), {.is_causal = true});
  expect_close(y, want);
  const Tensor dy = draw({2, 2, 5, 4});
  y.backward(dy);
  want.backward(dy);
  expect_close(qkv.grad(), other.grad());
  EXPECT_TRUE(y.transpose(1, 2).is_contiguous()) << "ready to be joined";
}

TEST(Attention, QueriesThatSeeNothingAreZeroAndHarmNobody) {
  const Tensor q = draw({1, 1, 2, 3}).set_requires_grad(), k = draw({1, 1, 4, 3}).set_requires_grad();
  const Tensor v = draw({1, 1, 4, 3}).set_requires_grad();
  const Tensor mask = tensor({0, 0, 0, 0, 1, 1, 0, 1}, {2, 4}, {.dtype = DType::boolean});
  const Tensor y = scaled_dot_product_attention(q, k, v, {.mask = mask});
  EXPECT_EQ(y.slice(2, 0, 1).to_vector(), std::vector<double>(3, 0.0));
  sum(y * y).backward();
  EXPECT_EQ(q.grad().slice(2, 0, 1).to_vector(), std::vector<double>(3, 0.0));
  for (const Tensor& x : {q, k, v})
    for (const double value : x.grad().to_vector()) EXPECT_TRUE(std::isfinite(value));
}

TEST(Attention, DropoutKeepsTheMeanAndIsDrawnFromTheGenerator) {
  const Tensor q = draw({4, 4, 16, 8}), k = draw({4, 4, 64, 8}), v = ones({4, 4, 64, 2}, {.dtype = DType::f64});
  Generator one(5), same(5);
  const Tensor y = scaled_dot_product_attention(q, k, v, {.dropout_p = 0.3}, one);
  EXPECT_NEAR(mean(y).item(), 1, 0.02);
  EXPECT_EQ(scaled_dot_product_attention(q, k, v, {.dropout_p = 0.3}, same).to_vector(), y.to_vector());
  EXPECT_NE(scaled_dot_product_attention(q, k, v, {.dropout_p = 0.3}, same).to_vector(), y.to_vector());
  EXPECT_EQ(one.offset(), 4u * 4 * 16 * 64);
}

TEST(Attention, RefusesWhatDoesNotFit) {
  const Tensor q = draw({1, 2, 3, 4}), k = draw({1, 2, 5, 4});
  const auto error = [](auto... args) { return error_of([&] { scaled_dot_product_attention(args...); }); };
  expect_contains(error(q, k, draw({1, 2, 6, 4})), "do not fit");
  expect_contains(error(q, draw({1, 2, 5, 3}), k), "do not fit");
  expect_contains(error(q, k, k.to(DType::f32)), "of one floating dtype");
  expect_contains(error(q, k.select(0, 0), k), "of one rank");
  expect_contains(error(q, k, k, AttentionOptions{.mask = draw({4, 5})}), "scaled_dot_product_attention");
  expect_contains(error(q, k, k, AttentionOptions{.mask = draw({3, 5}).to(DType::f32)}), "a mask of bool or f64");
  expect_contains(error(q, k, k, AttentionOptions{.mask = draw({3, 5}).set_requires_grad()}), "no gradient");
  expect_contains(error(q, k, k, AttentionOptions{.dropout_p = 1.5}), "not in [0, 1]");
  expect_contains(error(draw({2, 5, 2, 4, 4})), "[batch, rows, 3, heads, depth]");
}

TEST(Attention, UnderAutocastIn16Bits) {
  const Tensor q = randn({1, 2, 8, 4}).set_requires_grad(), k = randn({1, 2, 8, 4}), v = randn({1, 2, 8, 4});
  Tensor y;
  {
    const Autocast cast(DType::bf16);
    y = scaled_dot_product_attention(q, k, v, {.mask = randn({8, 8})});
    EXPECT_EQ(scaled_dot_product_attention(randn({1, 4, 3, 2, 4})).dtype(), DType::bf16);
  }
  EXPECT_EQ(y.dtype(), DType::bf16);
  sum(y.to(DType::f32)).backward();
  EXPECT_EQ(q.grad().dtype(), DType::f32);
}

}  // namespace
}  // namespace anneal::testing
