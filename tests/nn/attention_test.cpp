// Multi-head attention against ops, and PyTorch's names.
#include <gtest/gtest.h>

#include <cmath>

#include "anneal/core/autograd.h"
#include "anneal/nn/nn.h"
#include "anneal/tests/expect.h"

namespace anneal::testing {
namespace {

void expect_close(const Tensor& got, const Tensor& want) {
  ASSERT_EQ(got.shape(), want.shape());
  const std::vector<double> a = got.to_vector(), b = want.to_vector();
  for (std::size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 1e-5) << "at " << i;
}

TEST(MultiheadAttention, HasPyTorchsParameters) {
  manual_seed(2);
  const nn::MultiheadAttention layer(8, 2);
  std::vector<std::string> names;
  for (const NamedTensor& p : layer.state_dict()) names.push_back(p.name);
  EXPECT_EQ(names, (std::vector<std::string>{"in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"}));
  EXPECT_EQ(layer.in_proj_weight.shape(), (Shape{24, 8}));
  EXPECT_EQ(layer.in_proj_bias.to_vector(), std::vector<double>(24, 0.0));
  EXPECT_EQ(layer.out_proj.bias.to_vector(), std::vector<double>(8, 0.0));
  for (const double w : layer.in_proj_weight.to_vector()) EXPECT_LE(std::abs(w), std::sqrt(6.0 / 32));
  EXPECT_EQ(nn::MultiheadAttention(8, 2, {.bias = false}).state_dict().size(), 2u);
  expect_contains(error_of([] { nn::MultiheadAttention(8, 3); }), "not a multiple of 3 heads");
}

TEST(MultiheadAttention, SelfAttentionIsAttentionToItself) {
  manual_seed(3);
  const nn::MultiheadAttention layer(12, 3);
  const Tensor x = randn({2, 5, 12});
  const Tensor mask = tensor({1, 1, 0, 1, 1}, {5}, {.dtype = DType::boolean});
  expect_close(layer(x), layer(x, x, x));
  expect_close(layer(x, {.mask = mask, .is_causal = true}), layer(x, x, x, {.mask = mask, .is_causal = true}));
  sum(layer(x)).backward();
  const Tensor packed = layer.in_proj_weight.grad().clone();
  layer.zero_grad();
  sum(layer(x, x, x)).backward();
  expect_close(layer.in_proj_weight.grad(), packed);
}

TEST(MultiheadAttention, IsProjectionsAroundAttention) {
  manual_seed(4);
  const nn::MultiheadAttention layer(6, 2);
  const Tensor q = randn({2, 3, 6}), k = randn({2, 4, 6}), v = randn({2, 4, 6});
  const auto heads = [&](const Tensor& x, int part) {
    const Tensor weight = layer.in_proj_weight.slice(0, 6 * part, 6 * part + 6);
    const Tensor bias = layer.in_proj_bias.slice(0, 6 * part, 6 * part + 6);
    return linear(x, weight, bias).reshape({2, x.size(1), 2, 3}).transpose(1, 2);
  };
  const Tensor scores = matmul(heads(q, 0), heads(k, 1).transpose(-2, -1)) / std::sqrt(3.0);
  const Tensor joined = matmul(softmax(scores, -1), heads(v, 2)).transpose(1, 2).reshape({2, 3, 6});
  expect_close(layer(q, k, v), linear(joined, layer.out_proj.weight, layer.out_proj.bias));
  expect_contains(error_of([&] { layer(randn({3, 6})); }), "[batch, rows, 6]");
  expect_contains(error_of([&] { layer(q, k, randn({2, 4, 5})); }), "[batch, rows, 6]");
}

TEST(MultiheadAttention, DropsWeightsInTrainingAlone) {
  manual_seed(5);
  nn::MultiheadAttention layer(8, 2, {.dropout = 0.5});
  const Tensor x = randn({1, 6, 8});
  EXPECT_NE(layer(x).to_vector(), layer(x).to_vector());
  layer.eval();
  EXPECT_EQ(layer(x).to_vector(), layer(x).to_vector());
}

}  // namespace
}  // namespace anneal::testing
