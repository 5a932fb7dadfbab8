// The same seed gives the same weights to the bit: in two runs, and for any number of threads.
#include <gtest/gtest.h>

#include <cstring>

#include "anneal/core/ops.h"
#include "anneal/kernels/parallel.h"
#include "anneal/nn/nn.h"
#include "anneal/optim/optim.h"

namespace anneal {
namespace {

// Parameters and buffers after some steps of a model with every kind of layer, large enough that kernels use threads.
std::vector<std::byte> train(int threads, std::uint64_t seed) {
  set_num_threads(threads);
  manual_seed(seed);
  nn::Sequential net(nn::Conv2d(1, 16, 3, {.padding = 1}), nn::BatchNorm2d(16), nn::ReLU(), nn::MaxPool2d(2),
                     nn::Conv2d(16, 32, 3, {.padding = 1}), nn::GELU(), nn::AvgPool2d(2), nn::Flatten(),
                     nn::Dropout(0.3), nn::Linear(32 * 49, 128), nn::LayerNorm(128), nn::Tanh(), nn::Linear(128, 10));
  optim::AdamW optimizer(net.parameters(), {.lr = 1e-3});
  const Tensor x = randn({48, 1, 28, 28});
  const Tensor y = randint(0, 10, {48});
  for (int i = 0; i < 5; ++i) {
    cross_entropy(net(x), y).backward();
    optimizer.step();
    optimizer.zero_grad();
  }
  set_num_threads(0);
  std::vector<std::byte> bits;
  for (const NamedTensor& entry : net.state_dict()) {
    const auto* begin = static_cast<const std::byte*>(entry.tensor.raw());
    bits.insert(bits.end(), begin,
                begin + entry.tensor.numel() * static_cast<std::int64_t>(size_of(entry.tensor.dtype())));
  }
  return bits;
}

TEST(ReproducibilityTest, TwoRuns) {
  EXPECT_EQ(train(2, 1), train(2, 1));
  EXPECT_NE(train(2, 1), train(2, 2));
}

TEST(ReproducibilityTest, AnyNumberOfThreads) {
  const std::vector<std::byte> one = train(1, 1);
  for (const int threads : {2, 3, 5}) EXPECT_EQ(train(threads, 1), one) << threads << " threads";
}

}  // namespace
}  // namespace anneal
