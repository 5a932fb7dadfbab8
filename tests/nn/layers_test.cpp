// Layers: their forward against ops, and what they are initialised with.
#include <gtest/gtest.h>

#include <cmath>

#include "anneal/core/autograd.h"
#include "anneal/core/ops.h"
#include "anneal/kernels/parallel.h"
#include "anneal/nn/nn.h"
#include "anneal/tests/temp_folder.h"

using namespace anneal;
using anneal::testing::message_of;

namespace {

using Doubles = std::vector<double>;

void expect_same(const Tensor& got, const Tensor& want) {
  EXPECT_EQ(got.shape(), want.shape());
  EXPECT_EQ(got.to_vector(), want.to_vector());
}
Tensor draw(const Shape& shape, std::uint64_t seed = 3) {
  Generator generator(seed);
  return randn(shape, {}, generator);
}

TEST(Layers, ForwardIsTheOp) {
  const Tensor x = draw({2, 3, 6, 6});
  const nn::Linear linear_layer(6, 4);
  expect_same(linear_layer(x), linear(x, linear_layer.weight, linear_layer.bias));
  const nn::Linear plain(6, 4, {.bias = false});
  expect_same(plain(x), linear(x, plain.weight));
  const nn::Conv2d conv(3, 4, {3, 2}, {.stride = 2, .padding = {1, 0}, .dilation = {1, 2}});
  expect_same(conv(x), conv2d(x, conv.weight, conv.bias, {.stride = 2, .padding = {1, 0}, .dilation = {1, 2}}));
  const nn::Conv2d grouped(3, 6, 3, {.groups = 3, .bias = false});
  expect_same(grouped(x), conv2d(x, grouped.weight, {}, {.groups = 3}));
  const Tensor sequence = draw({2, 4, 9});
  const nn::Conv1d conv1(4, 6, 3, {.stride = 2, .padding = 1, .dilation = 2, .groups = 2});
  expect_same(conv1(sequence), conv1d(sequence, conv1.weight, conv1.bias, {2, 1, 2, 2}));
  expect_same(conv1(sequence), conv2d(sequence.reshape({2, 4, 1, 9}), conv1.weight.reshape({6, 2, 1, 3}), conv1.bias,
                                      {.stride = {1, 2}, .padding = {0, 1}, .dilation = {1, 2}, .groups = 2})
                                   .reshape({2, 6, 4}));
  expect_same(nn::MaxPool2d(2)(x), max_pool2d(x, 2));
  expect_same(nn::MaxPool2d(3, {.stride = 1, .padding = 1})(x), max_pool2d(x, 3, {.stride = 1, .padding = 1}));
  expect_same(nn::AvgPool2d(3, {.padding = 1}, false)(x), avg_pool2d(x, 3, {.padding = 1}, false));
  expect_same(nn::Flatten()(x), x.reshape({2, 108}));
  expect_same(nn::Flatten(2, 3)(x), x.reshape({2, 3, 36}));
  expect_same(nn::ReLU()(x), relu(x));
  expect_same(nn::SiLU()(x), silu(x));
  expect_same(nn::Tanh()(x), tanh(x));
  expect_same(nn::Sigmoid()(x), sigmoid(x));
  expect_same(nn::GELU()(x), gelu(x));
  expect_same(nn::GELU(nn::GELU::Approximate::tanh)(x), gelu_tanh(x));
  const nn::Embedding words(9, 4, {.padding_idx = 2});
  const Tensor index = tensor({1, 2, 8, 0}, {2, 2}, {.dtype = DType::i32});
  expect_same(words(index), embedding(index, words.weight, 2));
  const nn::Sequential chain(nn::Flatten(), nn::Linear(108, 5), nn::ReLU());
  const StateDict state = chain.state_dict();
  expect_same(chain(x), relu(linear(x.flatten(1), state[0].tensor, state[1].tensor)));
}

TEST(Layers, LayerNorm) {
  const Tensor x = draw({2, 3, 4});
  const nn::LayerNorm norm(4, {.eps = 1e-3});
  expect_same(norm(x), layer_norm(x, norm.weight, norm.bias, 1e-3));
  const nn::LayerNorm wide(Shape{3, 4});
  EXPECT_EQ(wide.weight.shape(), (Shape{3, 4}));
  expect_same(wide(x), layer_norm(x, ones({3, 4}), zeros({3, 4})));
  const nn::LayerNorm plain(Shape{3, 4}, {.affine = false});
  EXPECT_TRUE(plain.parameters().empty());
  expect_same(plain(x), wide(x));
  EXPECT_NE(message_of<Error>([&] { plain(draw({2, 4, 4})); }), "");
  EXPECT_NE(message_of<Error>([&] { wide(draw({4})); }), "");
}

TEST(Layers, BatchNormKeepsStatistics) {
  nn::BatchNorm2d norm(3, {.momentum = 0.25});
  const Tensor x = draw({4, 3, 2, 2}) * 2 + 1;
  const Tensor y = norm(x);
  expect_same(y, batch_norm(x, {}, {}, norm.weight, norm.bias));
  EXPECT_EQ(norm.num_batches_tracked.item(), 1);
  const Doubles means = mean(x, {0, 2, 3}).to_vector();
  const Doubles variances = var(x, {0, 2, 3}).to_vector();
  for (std::size_t c = 0; c < 3; ++c) {
    EXPECT_NEAR(norm.running_mean.to_vector()[c], 0.25 * means[c], 1e-6);
    EXPECT_NEAR(norm.running_var.to_vector()[c], 0.75 + 0.25 * variances[c], 1e-5);
  }
  norm.eval();
  const Doubles kept = norm.running_mean.to_vector();
  expect_same(norm(x), batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, {.training = false}));
  EXPECT_EQ(norm.running_mean.to_vector(), kept);
  EXPECT_EQ(norm.num_batches_tracked.item(), 1);

  nn::BatchNorm1d forgetful(3, {.affine = false, .running_stats = false});
  forgetful.eval();
  const Tensor rows = draw({5, 3});
  expect_same(forgetful(rows), batch_norm(rows, {}, {}));
  EXPECT_TRUE(forgetful.state_dict().empty());
  EXPECT_NE(message_of<Error>([&] { forgetful(x); }), "");
  EXPECT_NE(message_of<Error>([&] { norm(rows); }), "");
}

TEST(Layers, BatchNormWithoutMomentumAveragesAllBatches) {
  nn::BatchNorm1d norm(2, {.momentum = std::nullopt});
  Doubles means(2), variances(2);
  for (int batch = 0; batch < 3; ++batch) {
    const Tensor x = draw({5, 2}) * (batch + 1) + batch;
    norm(x);
    for (std::size_t c = 0; c < 2; ++c) {
      means[c] += mean(x, {0}).to_vector()[c] / 3;
      variances[c] += var(x, {0}).to_vector()[c] / 3;
    }
  }
  for (std::size_t c = 0; c < 2; ++c) {
    EXPECT_NEAR(norm.running_mean.to_vector()[c], means[c], 1e-6);
    EXPECT_NEAR(norm.running_var.to_vector()[c], variances[c], 1e-5);
  }
}

// In the pass of the layer before, or, where each call is observed, by itself: the same bits.
TEST(Layers, SequentialTakesReluAlong) {
  struct Counts : nn::ModuleObserver {
    int calls = 0;
    void enter(const nn::Module&, const Tensor&) override { ++calls; }
    void leave(const nn::Module&, const Tensor&) override {}
  };
  manual_seed(3);
  const nn::Sequential net(nn::Conv2d(2, 5, 3, {.padding = 1}), nn::ReLU(), nn::Flatten(), nn::Linear(5 * 49, 6),
                           nn::ReLU(), nn::ReLU(), nn::Linear(6, 3));
  const Tensor x = draw({4, 2, 7, 7});
  const auto outcome = [&] {
    net.zero_grad();
    const Tensor y = net(x);
    sum(y).backward();
    std::vector<Doubles> all{y.to_vector()};
    for (const NamedTensor& p : net.parameters()) all.push_back(p.tensor.grad().to_vector());
    return all;
  };
  const auto together = outcome();
  Counts counts;
  EXPECT_EQ(outcome(), together);
  EXPECT_EQ(counts.calls, 8);
  // A type of its own is called.
  struct Doubled : nn::Linear {
    using nn::Linear::Linear;
    Tensor forward(const Tensor& x) const override { return nn::Linear::forward(x) * 2; }
  };
  const nn::Sequential own(Doubled(3, 3), nn::ReLU());
  const Tensor rows = draw({5, 3});
  expect_same(own(rows), relu(own[0](rows)));
}

TEST(Layers, DropoutOnlyInTraining) {
  nn::Dropout layer(0.25);
  const Tensor x = ones({100, 100});
  manual_seed(9);
  const Doubles values = layer(x).to_vector();
  int dropped = 0;
  for (const double value : values) {
    if (value == 0) ++dropped;
    else ASSERT_FLOAT_EQ(static_cast<float>(value), 1 / 0.75f);
  }
  EXPECT_NEAR(dropped, 2500, 200);
  manual_seed(9);
  EXPECT_EQ(layer(x).to_vector(), values);
  EXPECT_NE(layer(x).to_vector(), values);
  layer.eval();
  EXPECT_TRUE(layer(x).same(x));
  EXPECT_NE(message_of<Error>([] { nn::Dropout(1.5); }), "");
}

// ---- initialisation ----

// Uniform in +-bound: all inside, close to the ends, with the right variance.
void expect_uniform(const Tensor& x, double bound) {
  double largest = 0;
  double squares = 0;
  for (const double value : x.to_vector()) {
    largest = std::max(largest, std::abs(value));
    squares += value * value;
  }
  const auto n = static_cast<double>(x.numel());
  EXPECT_LE(largest, bound * (1 + 1e-6));
  EXPECT_GT(largest, bound * (1 - 20 / n));
  EXPECT_NEAR(squares / n, bound * bound / 3, bound * bound * 1.5 / std::sqrt(n));
}
void expect_normal(const Tensor& x, double std) {
  double total = 0;
  double squares = 0;
  for (const double value : x.to_vector()) {
    total += value;
    squares += value * value;
  }
  const auto n = static_cast<double>(x.numel());
  EXPECT_NEAR(total / n, 0, 5 * std / std::sqrt(n));
  EXPECT_NEAR(squares / n, std * std, 7 * std * std / std::sqrt(n));
}

TEST(Init, DefaultsArePyTorchs) {
  manual_seed(4);
  const nn::Linear linear_layer(100, 300);
  expect_uniform(linear_layer.weight, 0.1);
  expect_uniform(linear_layer.bias, 0.1);
  const nn::Conv2d conv(16, 200, {5, 5}, {.groups = 4});
  expect_uniform(conv.weight, 0.1);
  expect_uniform(conv.bias, 0.1);
  const nn::Conv1d conv1(50, 400, 4, {.groups = 2});
  expect_uniform(conv1.weight, 0.1);
  expect_uniform(conv1.bias, 0.1);
  const nn::Embedding words(200, 50, {.padding_idx = 3});
  expect_normal(words.weight, 1);
  EXPECT_EQ(words.weight.select(0, 3).to_vector(), Doubles(50, 0));
  const nn::BatchNorm2d norm(5);
  EXPECT_EQ(norm.weight.to_vector(), Doubles(5, 1));
  EXPECT_EQ(norm.bias.to_vector(), Doubles(5, 0));
  EXPECT_EQ(norm.running_var.to_vector(), Doubles(5, 1));
  const nn::LayerNorm layer(5);
  EXPECT_EQ(layer.weight.to_vector(), Doubles(5, 1));
}

TEST(Init, Formulas) {
  manual_seed(4);
  const auto weight = [] { return empty({40, 10, 3, 5}); };  // fans 150 and 600
  expect_uniform(nn::init::uniform_(weight(), -2, 2), 2);
  expect_normal(nn::init::normal_(weight(), 0, 3), 3);
  expect_uniform(nn::init::kaiming_uniform_(weight()), std::sqrt(6.0 / 150));
  expect_uniform(nn::init::kaiming_uniform_(weight(), 2), std::sqrt(6.0 / 5 / 150));
  expect_normal(nn::init::kaiming_normal_(weight()), std::sqrt(2.0 / 150));
  expect_uniform(nn::init::xavier_uniform_(weight(), 2), 2 * std::sqrt(6.0 / 750));
  expect_normal(nn::init::xavier_normal_(weight()), std::sqrt(2.0 / 750));
  expect_uniform(nn::init::bias_(empty({500}), 25), 0.2);
  EXPECT_NE(message_of<Error>([] { nn::init::fans(empty({3})); }), "");
  // Parameters can be filled though they take part in graphs.
  const nn::Linear layer(3, 3);
  EXPECT_TRUE(nn::init::normal_(layer.weight).requires_grad());
}

TEST(Init, Orthogonal) {
  for (const Shape& shape : {Shape{5, 5}, Shape{7, 3}, Shape{3, 7}, Shape{4, 2, 3}}) {
    const Tensor x = nn::init::orthogonal_(empty(shape, {.dtype = DType::f64}), 2).flatten(1);
    const bool tall = x.size(0) >= x.size(1);
    const Tensor product = tall ? matmul(x.transpose(0, 1), x) : matmul(x, x.transpose(0, 1));
    const std::int64_t n = product.size(0);
    const Doubles values = product.to_vector();
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = 0; j < n; ++j)
        EXPECT_NEAR(values[static_cast<std::size_t>(i * n + j)], i == j ? 4 : 0, 1e-12) << shape;
  }
  EXPECT_EQ(nn::init::orthogonal_(empty({0, 3})).numel(), 0);
}

TEST(Init, SameSeedSameBitsForAnyThreads) {
  const auto build = [](int threads) {
    set_num_threads(threads);
    manual_seed(42);
    const nn::Sequential net(nn::Linear(300, 500), nn::Conv2d(8, 64, 5), nn::Embedding(500, 300));
    Doubles all;
    for (const NamedTensor& p : net.parameters())
      for (const double value : p.tensor.to_vector()) all.push_back(value);
    set_num_threads(0);
    return all;
  };
  const Doubles one = build(1);
  EXPECT_EQ(build(2), one);
  EXPECT_EQ(build(3), one);
  manual_seed(43);
  EXPECT_NE(nn::Linear(300, 500).weight.to_vector()[0], one[0]);
}

}  // namespace
