// A steady training step asks the system for nothing: no call of malloc, no growth.
#include <gtest/gtest.h>

#include <fstream>

#include "anneal/core/ops.h"
#include "anneal/nn/nn.h"
#include "anneal/optim/adam.h"
#include "anneal/tests/malloc_count.h"

namespace anneal {
namespace {

struct Mlp : nn::Module {
  nn::Linear first{{this, "first"}, 20, 32};
  nn::LayerNorm norm{{this, "norm"}, 32};
  nn::Linear last{{this, "last"}, 32, 5};
  Tensor forward(const Tensor& x) const override { return last(relu(norm(first(x)))); }
};

class Training {
 public:
  double step() {
    const Tensor loss = cross_entropy(model_(x_), target_);
    loss.backward();
    optimizer_.step();
    optimizer_.zero_grad();
    return *loss.data<float>();
  }

 private:
  Mlp model_;
  Tensor x_ = randn({16, 20});
  Tensor target_ = randint(0, 5, {16});
  optim::AdamW optimizer_{nn::parameters(model_)};
};

std::int64_t resident_kilobytes() {
  std::ifstream file("/proc/self/status");
  for (std::string word; file >> word;) {
    std::int64_t value = 0;
    if (word == "VmRSS:" && file >> value) return value;
  }
  return 0;
}

TEST(Allocations, NoneFromTheThirdStepOn) {
  if (!testing::counts_malloc) GTEST_SKIP() << "calls of malloc cannot be counted in this build";
  const std::int64_t before = testing::malloc_calls;
  void* volatile probe = std::malloc(100);
  std::free(probe);
  ASSERT_GT(testing::malloc_calls, before) << "calls of malloc are not seen";

  Training training;
  for (int i = 0; i < 2; ++i) training.step();
  for (int i = 3; i <= 20; ++i) {
    const std::int64_t so_far = testing::malloc_calls;
    training.step();
    ASSERT_EQ(testing::malloc_calls - so_far, 0) << "in step " << i;
  }
}

TEST(Allocations, ThousandStepsDoNotGrow) {
  Training training;
  double first = 0;
  for (int i = 0; i < 10; ++i) first = training.step();
  const MemoryStats before = allocator().stats();
  const std::int64_t resident = resident_kilobytes();
  double last = 0;
  for (int i = 0; i < 1000; ++i) last = training.step();
  EXPECT_LT(last, first / 2) << "it did not train";
  const MemoryStats after = allocator().stats();
  EXPECT_EQ(after.active, before.active);
  EXPECT_EQ(after.cached, before.cached);
  EXPECT_EQ(after.peak, before.peak);
  EXPECT_EQ(after.misses, before.misses);
  EXPECT_GT(after.requests, before.requests);
  if (testing::counts_malloc) { EXPECT_LE(resident_kilobytes() - resident, 256); }
}

}  // namespace
}  // namespace anneal
