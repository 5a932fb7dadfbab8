// Mixed batches.
#include "anneal/data/mixup.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "anneal/core/ops.h"
#include "anneal/data/data_loader.h"

namespace anneal_test {
namespace {

using namespace anneal;
using Values = std::vector<double>;

// Images of one number each, the targets are those numbers.
Batch numbered(std::int64_t n, std::int64_t side = 1) {
  const Tensor y = arange(n).to(DType::f32);
  return {{"x", y.reshape({n, 1, 1, 1}).expand({n, 1, side, side}).contiguous()}, {"y", y}};
}

// T-685
TEST(MixUp, BlendsInputsAndKeepsBothTargets) {
  Generator generator(3);
  double least = 1, most = 0, sum_of_weights = 0;
  for (int i = 0; i < 50; ++i) {
    Batch batch = numbered(8);
    MixUp(0.4)(batch, generator);
    const Values x = batch["x"].to_vector(), y = batch["y"].to_vector(), other = batch["y_mixed"].to_vector();
    const double w = batch["mix_weight"].to_vector()[0];
    EXPECT_EQ(batch["mix_weight"].to_vector(), Values(8, w));
    for (std::size_t k = 0; k < x.size(); ++k) EXPECT_NEAR(x[k], w * y[k] + (1 - w) * other[k], 1e-5);
    Values sorted = other;
    std::sort(sorted.begin(), sorted.end());
    EXPECT_EQ(sorted, y) << "a permutation";
    least = std::min(least, w);
    most = std::max(most, w);
    sum_of_weights += w;
  }
  EXPECT_LT(least, 0.1);
  EXPECT_GT(most, 0.9);
  EXPECT_NEAR(sum_of_weights / 50, 0.5, 0.2);
}

TEST(MixUp, ALargeAlphaMixesEvenly) {
  Generator generator(3);
  for (int i = 0; i < 20; ++i) {
    Batch batch = numbered(2);
    MixUp(1000)(batch, generator);
    EXPECT_NEAR(batch["mix_weight"].to_vector()[0], 0.5, 0.1);
  }
}

TEST(CutMix, TheWeightIsTheShareThatIsLeft) {
  Generator generator(5);
  bool mixed = false;
  for (int i = 0; i < 30; ++i) {
    Batch batch = numbered(6, 8);
    const Tensor before = batch["x"];
    const Values original = before.to_vector();
    CutMix(1)(batch, generator);
    EXPECT_EQ(before.to_vector(), original) << "the dataset's images stay as they are";
    const double w = batch["mix_weight"].to_vector()[0];
    const Values y = batch["y"].to_vector(), other = batch["y_mixed"].to_vector();
    for (std::int64_t k = 0; k < 6; ++k) {
      const Values image = batch["x"].select(0, k).to_vector();
      const auto at = static_cast<std::size_t>(k);
      if (y[at] == other[at]) continue;
      EXPECT_EQ(std::count(image.begin(), image.end(), y[at]), std::llround(w * 64));
      EXPECT_EQ(std::count(image.begin(), image.end(), other[at]), 64 - std::llround(w * 64));
      mixed = mixed || (w > 0 && w < 1);
    }
  }
  EXPECT_TRUE(mixed);
}

TEST(MixUp, TheLossIsOfBothTargets) {
  Batch batch{{"x", zeros({2, 1})}, {"y", tensor({1, 2})}};
  const auto loss = [](const Tensor& targets) { return sum(targets); };
  EXPECT_EQ(mixed_loss(batch, loss).item(), 3) << "not mixed";
  batch.set("y_mixed", tensor({5, 5}));
  batch.set("mix_weight", tensor({0.25, 0.25}));
  EXPECT_EQ(mixed_loss(batch, loss).item(), 0.25 * 3 + 0.75 * 10);
}

TEST(MixUp, IsATransformOfALoader) {
  const auto epoch = [](int workers) {
    Values all;
    DataLoader loader(TensorDataset{{"x", arange(12).to(DType::f32)}, {"y", arange(12)}},
                      {.batch_size = 4, .num_workers = workers, .transform = MixUp(1)});
    for (Batch& batch : loader)
      for (const double v : batch["x"].to_vector()) all.push_back(v);
    return all;
  };
  EXPECT_EQ(epoch(0), epoch(2));
}

TEST(MixUp, BadArgumentsAreNamed) {
  EXPECT_THROW(MixUp(0), ConfigError);
  EXPECT_THROW(CutMix(-1), ConfigError);
  Batch rows{{"x", ones({2, 3})}, {"y", arange(2)}};
  EXPECT_THROW(CutMix(1)(rows), Error);
}

}  // namespace
}  // namespace anneal_test
