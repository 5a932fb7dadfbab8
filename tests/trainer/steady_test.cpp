// A steady training step through the Trainer allocates nothing of its own. This program's operator new counts its
// calls.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "anneal/tests/trainer/support.h"

namespace {
std::atomic<std::int64_t> allocations{0};
}

void* operator new(std::size_t bytes) {
  ++allocations;
  if (void* memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace anneal_test {
namespace {

// Counts from the start of each batch's hooks to their end.
struct Counter : Callback {
  std::int64_t start = 0, after_warm_up = 0;
  void on_train_batch_start(Trainer&, TrainingModule&, const Batch&, StepContext&) override { start = allocations; }
  void on_train_batch_end(Trainer&, TrainingModule&, const Tensor&, const Batch&, StepContext& step) override {
    if (step.batch_idx() >= 10) after_warm_up += allocations - start;
  }
};

TEST(SteadyStep, AllocatesNothing) {
  const TempFolder dir;
  auto counter = std::make_shared<Counter>();
  Trainer trainer({.max_epochs = 1,
                   .log_every_n_steps = 1000,
                   .callbacks = {counter},
                   .default_root_dir = dir.path(),
                   .seed = 1,
                   .sink = [](std::string_view) {}});
  Probe probe;
  probe.in_training_step = [](const Batch& batch, StepContext& step) {
    step.log("loss", static_cast<double>(step.batch_idx()), {.prog_bar = true, .on_epoch = true});
    step.log("a metric with a rather long name", static_cast<double>(batch.size()));
  };
  trainer.fit(probe, counting_loader(100));
  EXPECT_GT(allocations, 0);
  EXPECT_EQ(counter->after_warm_up, 0);
}

}  // namespace
}  // namespace anneal_test
