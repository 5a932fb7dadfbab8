// A steady training step through the Trainer allocates nothing of its own.
#include <gtest/gtest.h>

#include "anneal/tests/malloc_count.h"
#include "anneal/tests/trainer/support.h"

namespace anneal_test {
namespace {

// Counts from the start of each batch's hooks to their end.
struct Counter : Callback {
  std::int64_t start = 0, after_warm_up = 0;
  void on_train_batch_start(Trainer&, TrainingModule&, const Batch&, StepContext&) override {
    start = anneal::testing::malloc_calls;
  }
  void on_train_batch_end(Trainer&, TrainingModule&, const Tensor&, const Batch&, StepContext& step) override {
    if (step.batch_idx() >= 10) after_warm_up += anneal::testing::malloc_calls - start;
  }
};

TEST(SteadyStep, AllocatesNothing) {
  if (!anneal::testing::counts_malloc) GTEST_SKIP() << "calls of malloc cannot be counted in this build";
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
  EXPECT_GT(anneal::testing::malloc_calls, 0);
  EXPECT_EQ(counter->after_warm_up, 0);
}

}  // namespace
}  // namespace anneal_test
