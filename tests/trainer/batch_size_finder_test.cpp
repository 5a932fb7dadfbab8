// The search for a batch size: rows C-179 and C-180.
#include <gtest/gtest.h>

#include "anneal/tests/trainer/tuner_support.h"

namespace anneal_test {
namespace {

std::int64_t size_for(std::int64_t limit, const BatchSizeFinderOptions& options, std::int64_t samples = 1000) {
  Net net = fresh_net();
  net.net.eval();  // batch norm trains on no batch of one
  net.limit = limit;
  DataLoader data = loader(samples);
  Trainer trainer(quiet());
  const std::int64_t found = Tuner(trainer).scale_batch_size(net, data, options);
  EXPECT_EQ(data.options().batch_size, found);
  EXPECT_EQ(net.batch_size, found);
  return found;
}

TEST(BatchSizeFinder, DoublesOrHalvesUntilItFits) {
  EXPECT_EQ(size_for(20, {}), 16);
  EXPECT_EQ(size_for(20, {.max_trials = 3}), 8);
  EXPECT_EQ(size_for(1, {.init_val = 8}), 1);
  EXPECT_EQ(size_for(5, {.init_val = 8}), 4);
  EXPECT_EQ(message_of<Error>([] { size_for(0, {}); }), "scale_batch_size: not even batches of 1 fit into memory");
}

TEST(BatchSizeFinder, SearchesBetweenTheLastTwo) {
  EXPECT_EQ(size_for(20, {.mode = "binsearch"}), 19);
  EXPECT_EQ(size_for(20, {.mode = "binsearch", .margin = 0}), 20);
  EXPECT_EQ(size_for(31, {.mode = "binsearch", .margin = 0}), 31);
  EXPECT_EQ(size_for(1, {.mode = "binsearch", .init_val = 8}), 1);
  EXPECT_EQ(size_for(6, {.mode = "binsearch", .init_val = 8, .margin = 0}), 6);
  EXPECT_THROW(size_for(0, {.mode = "binsearch"}), Error);
}

TEST(BatchSizeFinder, IsBoundedByTheDataSet) {
  EXPECT_EQ(size_for(1000, {}, 50), 50);
  EXPECT_EQ(size_for(1000, {.mode = "binsearch"}, 50), 50);
  EXPECT_EQ(size_for(1000, {.max_val = 16}, 50), 16);
  EXPECT_EQ(size_for(1000, {.init_val = 64}, 50), 50);
  EXPECT_EQ(size_for(40, {}, 50), 32);
}

TEST(BatchSizeFinder, TriesStepsOfEachSizeAndLeavesTheRestAsItWas) {
  Net net = fresh_net();
  net.limit = 10;
  const Weights weights = weights_of(net);
  DataLoader data = loader(50, 3);
  data.set_epoch(2);
  Trainer trainer(quiet());
  const auto offset = trainer.generator().offset();
  EXPECT_EQ(Tuner(trainer).scale_batch_size(net, data, {.steps_per_trial = 2}), 8);
  EXPECT_EQ(net.sizes, (Sizes{2, 2, 4, 4, 8, 8, 16}));
  EXPECT_EQ(weights_of(net), weights);
  EXPECT_EQ(net.seen, 0);
  EXPECT_EQ(trainer.global_step(), 0);
  EXPECT_EQ(trainer.generator().offset(), offset);
  EXPECT_EQ(data.epoch(), 2);
  EXPECT_TRUE(data.options().shuffle);
}

TEST(BatchSizeFinder, GoesThroughShortEpochsAgain) {
  Net net = fresh_net();
  DataLoader data = loader(4, 3);
  Trainer trainer(quiet());
  Tuner(trainer).scale_batch_size(net, data);
  EXPECT_EQ(net.sizes, (Sizes{2, 2, 2, 4, 4, 4}));
}

// Takes a megabyte for each sample.
struct Hungry : Probe {
  Tensor training_step(const Batch& batch, StepContext& step) override {
    const Tensor much = empty({batch.size(), 1 << 18});
    return Probe::training_step(batch, step);
  }
};

TEST(BatchSizeFinder, AsksTheAllocator) {
  Hungry module;
  DataLoader data = counting_loader(64);
  Trainer trainer(quiet());
  allocator().empty_cache();
  allocator().set_limit(allocator().stats().active + (24 << 20));
  const std::int64_t found = Tuner(trainer).scale_batch_size(module, data);
  allocator().set_limit(0);
  EXPECT_EQ(found, 16);
  EXPECT_LT(allocator().stats().cached, 24u << 20);  // memory went back to the system
}

TEST(BatchSizeFinder, OtherErrorsEndIt) {
  Net net = fresh_net();
  const Weights weights = weights_of(net);
  net.in_training_step = [](Net& at) {
    if (at.sizes.back() == 8) throw std::runtime_error("eight");
  };
  DataLoader data = loader();
  Trainer trainer(quiet());
  EXPECT_EQ(message_of<std::runtime_error>([&] { Tuner(trainer).scale_batch_size(net, data); }), "eight");
  EXPECT_EQ(weights_of(net), weights);
  EXPECT_EQ(data.options().batch_size, 4);
  EXPECT_EQ(trainer.global_step(), 0);
}

TEST(BatchSizeFinder, TriesEvaluationsToo) {
  for (const std::string method : {"validate", "test", "predict"}) {
    Net net = fresh_net();
    net.limit = 9;
    DataLoader data = loader(50);
    Trainer trainer(quiet());
    EXPECT_EQ(Tuner(trainer).scale_batch_size(net, data, {.method = method}), 8) << method;
    EXPECT_EQ(net.sizes, (Sizes{2, 2, 2, 4, 4, 4, 8, 8, 8, 16})) << method;
    EXPECT_EQ(net.seen, 0);

    // As a callback of the run itself.
    net.sizes.clear();
    const auto finder = std::make_shared<BatchSizeFinder>(BatchSizeFinderOptions{.init_val = 8});
    Trainer with(quiet({.limit_test_batches = 2, .callbacks = {finder}}));
    const DataLoader same = loader(50);
    if (method == "validate") {
      const auto metrics = with.validate(net, same, {.verbose = false});
      EXPECT_EQ(metrics.at(0).names(), "val_loss");
    } else if (method == "test") {
      with.test(net, same, {.verbose = false});
    } else {
      EXPECT_EQ(with.predict(net, same).size(), 7u);
    }
    EXPECT_EQ(finder->optimal_batch_size(), 8);
    const Sizes run(net.sizes.begin() + 4, net.sizes.end());  // after 8, 8, 8, 16
    EXPECT_EQ(run, method == "test" ? (Sizes{8, 8}) : (Sizes{8, 8, 8, 8, 8, 8, 2})) << method;
  }
}

TEST(BatchSizeFinder, TheRunHasTheSizeFromItsFirstBatch) {
  const auto finder = std::make_shared<BatchSizeFinder>(BatchSizeFinderOptions{.max_val = 8});
  const Outcome found = outcome_of({finder}, loader(24, 3));
  EXPECT_TRUE(found == outcome_of({}, loader(24, 8)));  // its schedule knows of the new number of steps
  EXPECT_EQ(finder->optimal_batch_size(), 8);
}

TEST(BatchSizeFinder, SearchesAgainInLaterEpochs) {
  Net net = fresh_net();
  std::int64_t kept = 0;
  const auto finder =
      std::make_shared<EverySecondEpoch<BatchSizeFinder>>(BatchSizeFinderOptions{.steps_per_trial = 1, .attr = &kept});
  net.in_training_step = [&](Net& at) { at.limit = finder->searches < 2 ? 9 : 4; };
  net.limit = 9;
  Trainer(quiet({.max_epochs = 3, .callbacks = {finder}})).fit(net, loader(16));
  EXPECT_EQ(finder->searches, 2);
  EXPECT_EQ(kept, 4);
  EXPECT_EQ(net.batch_size, 0);  // attr took its place
  // on_fit_start: 2 4 8 16; epoch 0: the same, then its batches; epoch 1; epoch 2.
  EXPECT_EQ(net.sizes, (Sizes{2, 4, 8, 16, 2, 4, 8, 16, 8, 8, 8, 8, 2, 4, 8, 4, 4, 4, 4}));
}

TEST(BatchSizeFinder, AResumedRunKeepsTheSize) {
  const TempFolder dir;
  const auto run = [&](const std::string& resume, std::int64_t epochs) {
    Net net = fresh_net();
    const auto finder = std::make_shared<BatchSizeFinder>(BatchSizeFinderOptions{.max_val = 8});
    TrainerOptions options = quiet({.max_epochs = epochs, .callbacks = {finder}});
    options.callbacks.push_back(LambdaCallback({.on_train_end = [&](Trainer& trainer, TrainingModule&) {
      trainer.save_checkpoint(dir / (std::to_string(epochs) + ".safetensors"));
    }}));
    std::string text;
    options.sink = [&](std::string_view line) { text += line; };
    Trainer(options).fit(net, loader(24, 3), {.resume = resume});
    EXPECT_EQ(text.find("differ"), std::string::npos) << text;
    EXPECT_EQ(net.batch_size, 8);
    return net.sizes;
  };
  run("", 1);
  EXPECT_EQ(run((dir / "1.safetensors").string(), 2), (Sizes{8, 8, 8}));
}

TEST(BatchSizeFinder, BadOptionsAreNamed) {
  const auto message = [](BatchSizeFinderOptions options) {
    return message_of<ConfigError>([&] { BatchSizeFinder finder(options); });
  };
  EXPECT_TRUE(message({.mode = "linear"}).starts_with("mode"));
  EXPECT_TRUE(message({.steps_per_trial = 0}).starts_with("steps_per_trial"));
  EXPECT_TRUE(message({.init_val = 0}).starts_with("init_val"));
  EXPECT_TRUE(message({.max_trials = 0}).starts_with("max_trials"));
  EXPECT_TRUE(message({.margin = 1}).starts_with("margin"));
  EXPECT_TRUE(message({.margin = -0.1}).starts_with("margin"));
  EXPECT_TRUE(message({.max_val = 0}).starts_with("max_val"));
  Net net = fresh_net();
  DataLoader data = loader();
  Trainer trainer(quiet());
  EXPECT_TRUE(message_of<ConfigError>([&] {
                Tuner(trainer).scale_batch_size(net, data, {.method = "tune"});
              }).starts_with("method"));
  Trainer with(quiet({.callbacks = {BatchSizeFinder()}}));
  EXPECT_NE(message_of<ConfigError>([&] {
              with.validate(net, {data, data});
            }).find("one loader, got 2"),
            std::string::npos);
}

}  // namespace
}  // namespace anneal_test
