// Several loaders at once: rows C-184, C-185.
#include <gtest/gtest.h>

#include "anneal/data/combine.h"
#include "anneal/tests/trainer/support.h"

namespace anneal_test {
namespace {

// What the parts "0" and "1" of each batch hold; -1: nothing.
using Seen = std::vector<std::pair<double, double>>;

Seen seen_in_fit(const DataLoader& train, TrainerOptions options = {}) {
  struct Module : Probe {
    Seen seen;
    Tensor training_step(const Batch& batch, StepContext&) override {
      const auto value = [&](const Batch& part) { return part.empty() ? -1 : part["x"].item(); };
      seen.emplace_back(value(batch.part("0")), value(batch.part("1")));
      return sum(weight);
    }
  };
  Module module;
  options.max_epochs = 1;
  Trainer(quiet(options)).fit(module, train);
  return module.seen;
}

TEST(CombinedLoaders, EndWithTheLongestOrTheShortest) {
  const std::vector<DataLoader> two{counting_loader(2), counting_loader(4)};
  EXPECT_EQ(seen_in_fit(combine(two)), Seen({{0, 0}, {1, 1}, {0, 2}, {1, 3}}));
  EXPECT_EQ(seen_in_fit(combine(two, CombineMode::min_size)), Seen({{0, 0}, {1, 1}}));
  EXPECT_EQ(seen_in_fit(combine(two, CombineMode::max_size)), Seen({{0, 0}, {1, 1}, {-1, 2}, {-1, 3}}));
  // fit has no place for loaders one after the other.
  static_assert(!std::is_constructible_v<DataLoader, std::vector<DataLoader>>);
}

TEST(CombinedLoaders, EachIsLimitedBeforeTheyAreCombined) {
  const std::vector<DataLoader> two{counting_loader(2), counting_loader(4)};
  EXPECT_EQ(seen_in_fit(combine(two), {.limit_train_batches = 0.5}), Seen({{0, 0}, {0, 1}}));
  EXPECT_EQ(seen_in_fit(combine(two), {.limit_train_batches = 3}), Seen({{0, 0}, {1, 1}, {0, 2}}));
}

TEST(CombinedLoaders, AreInOrderWithOverfitBatches) {
  const DataLoader shuffled(TensorDataset{{"x", arange(9).to(DType::f32).reshape({9, 1})}}, {.shuffle = true});
  EXPECT_EQ(seen_in_fit(combine({shuffled, shuffled}), {.overfit_batches = 2}), Seen({{0, 0}, {1, 1}}));
}

TEST(CombinedLoaders, PredictTakesNone) {
  struct Module : Probe {
    Batch predict_step(const Batch& batch, StepContext&) override { return batch; }
  };
  Module module;
  const DataLoader both = combine({counting_loader(1), counting_loader(2)});
  EXPECT_THROW(Trainer(quiet()).predict(module, both), ConfigError);
}

TEST(CombinedLoaders, EvaluationsGoThroughAListOneByOneAndThroughACombinationAtOnce) {
  using Places = std::vector<std::pair<std::int64_t, std::int64_t>>;
  Places places;
  Probe module;
  module.in_validation_step = [&](const Batch&, StepContext& step) {
    places.emplace_back(step.batch_idx(), step.dataloader_idx());
  };
  Trainer trainer(quiet());
  trainer.validate(module, {counting_loader(2), counting_loader(4)}, {.verbose = false});
  EXPECT_EQ(places, Places({{0, 0}, {1, 0}, {0, 1}, {1, 1}, {2, 1}, {3, 1}}));
  places.clear();
  trainer.validate(module, combine({counting_loader(2), counting_loader(4)}, CombineMode::min_size),
                   {.verbose = false});
  EXPECT_EQ(places, Places({{0, 0}, {1, 0}}));
}

}  // namespace
}  // namespace anneal_test
