// A steady training step asks the system for nothing: no call of malloc, no growth. This program's malloc counts its
// calls.
#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <fstream>

#include "anneal/core/ops.h"
#include "anneal/core/sanitizer.h"
#include "anneal/nn/nn.h"
#include "anneal/optim/adam.h"

#if ANNEAL_ASAN || defined(__SANITIZE_THREAD__) || !defined(__GLIBC__)
#define ANNEAL_COUNTS 0  // sanitizers have a malloc of their own
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define ANNEAL_COUNTS 0
#endif
#endif
#if !defined(ANNEAL_COUNTS)
#define ANNEAL_COUNTS 1
#endif

using namespace anneal;

namespace {

std::atomic<std::int64_t> calls{0};

}  // namespace

#if ANNEAL_COUNTS

// glibc's functions under their other names.
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);

void* malloc(std::size_t bytes) noexcept {
  ++calls;
  return __libc_malloc(bytes);
}
void* calloc(std::size_t n, std::size_t bytes) noexcept {
  ++calls;
  return __libc_calloc(n, bytes);
}
void* realloc(void* block, std::size_t bytes) noexcept {
  ++calls;
  return __libc_realloc(block, bytes);
}
void* aligned_alloc(std::size_t alignment, std::size_t bytes) noexcept {
  ++calls;
  return __libc_memalign(alignment, bytes);
}
int posix_memalign(void** block, std::size_t alignment, std::size_t bytes) noexcept {
  ++calls;
  *block = __libc_memalign(alignment, bytes);
  return *block ? 0 : ENOMEM;
}
}

#endif

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
  if (!ANNEAL_COUNTS) GTEST_SKIP() << "calls of malloc cannot be counted in this build";
  const std::int64_t before = calls;
  void* volatile probe = std::malloc(100);
  std::free(probe);
  ASSERT_GT(calls, before) << "calls of malloc are not seen";

  Training training;
  for (int i = 0; i < 2; ++i) training.step();
  for (int i = 3; i <= 20; ++i) {
    const std::int64_t so_far = calls;
    training.step();
    ASSERT_EQ(calls - so_far, 0) << "in step " << i;
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
  if (ANNEAL_COUNTS) { EXPECT_LE(resident_kilobytes() - resident, 256); }
}

}  // namespace
