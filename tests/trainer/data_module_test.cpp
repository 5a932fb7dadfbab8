// DataModules: rows C-028, C-186.
#include <gtest/gtest.h>

#include <cmath>

#include "anneal/tests/dist/spawn_ranks.h"
#include "anneal/tests/trainer/support.h"

namespace anneal_test {
namespace {

using Log = std::vector<std::string>;

const char* name_of(Stage stage) {
  constexpr const char* names[] = {"fit", "sanity_check", "validate", "test", "predict"};
  return names[static_cast<std::size_t>(stage)];
}

struct Recorded : DataModule {
  Log log;
  void note(const std::string& what) { log.push_back(what); }

  void prepare_data() override { note("prepare"); }
  void setup(Stage stage) override { note(std::string("setup:") + name_of(stage)); }
  void teardown(Stage stage) override { note(std::string("teardown:") + name_of(stage)); }
  void on_exception(const std::exception_ptr&) override { note("exception"); }
  DataLoader train_dataloader() override {
    note(format("train_dl {}", trainer().current_epoch()));
    return counting_loader(2);
  }
  LoaderSet val_dataloader() override {
    note("val_dl");
    return counting_loader(1);
  }
  LoaderSet test_dataloader() override {
    note("test_dl");
    return counting_loader(3);
  }
  LoaderSet predict_dataloader() override {
    note("predict_dl");
    return std::vector{counting_loader(1), counting_loader(2)};
  }
  StateMap state() const override { return {{"seen", std::int64_t{7}}}; }
  void load_state(const StateMap& state) override {
    note("load_state " + std::to_string(std::get<std::int64_t>(state.at("seen"))));
  }
};

struct Predicting : Probe {
  Batch predict_step(const Batch& batch, StepContext&) override { return batch; }
};

TEST(DataModule, IsSetUpBeforeItsLoadersAreAskedFor) {
  Recorded data;
  Predicting module;
  Trainer trainer(quiet({.max_epochs = 1}));
  trainer.fit(module, data);
  EXPECT_EQ(data.log, Log({"prepare", "setup:fit", "train_dl 0", "val_dl", "teardown:fit"}));
  EXPECT_EQ(trainer.global_step(), 2);

  // The other entry points; the data were prepared before.
  data.log.clear();
  trainer.validate(module, data, {.verbose = false});
  EXPECT_EQ(trainer.test(module, data, {.verbose = false}).size(), 1u);
  const auto predictions = trainer.predict(module, data);
  EXPECT_EQ(data.log, Log({"setup:validate", "val_dl", "teardown:validate", "setup:test", "test_dl", "teardown:test",
                           "setup:predict", "predict_dl", "teardown:predict"}));
  ASSERT_EQ(predictions.size(), 2u);
  EXPECT_EQ(predictions[1].size(), 2u);
  EXPECT_THROW(data.trainer(), Error);

  // Another Trainer prepares them for itself.
  data.log.clear();
  Trainer(quiet({.max_epochs = 1})).validate(module, data, {.verbose = false});
  EXPECT_EQ(data.log[0], "prepare");
}

TEST(DataModule, IsPreparedEveryTimeIfItSaysSo) {
  struct Restless : Recorded {
    bool prepare_every_time() const override { return true; }
  };
  Restless data;
  Probe module;
  Trainer trainer(quiet({.max_epochs = 1}));
  trainer.fit(module, data);
  trainer.validate(module, data, {.verbose = false});
  EXPECT_EQ(std::count(data.log.begin(), data.log.end(), "prepare"), 2);
}

TEST(DataModule, ItsStateIsRestoredBeforeLoadersAreAskedFor) {
  const TempFolder dir;
  const fs::path path = dir / "stop";
  Probe module;
  Recorded first;
  Trainer(quiet({.max_epochs = 2, .callbacks = {AtBatchEnd([&](Trainer& trainer, std::int64_t) {
                                    if (trainer.global_step() == 3) trainer.save_checkpoint(path);
                                  })}}))
      .fit(module, first);
  Recorded again;
  EXPECT_EQ(Trainer(quiet({.max_epochs = 2})).fit(module, again, {.resume = path.string()}).global_step, 4);
  EXPECT_EQ(again.log, Log({"prepare", "setup:fit", "load_state 7", "train_dl 1", "val_dl", "teardown:fit"}));
}

template <class... A>
concept Fits = requires(Trainer& trainer, Probe& module, A&... args) {
  trainer.fit(module, args...);
};

TEST(DataModule, NotTogetherWithLoaders) {
  static_assert(Fits<Recorded> && Fits<DataLoader> && Fits<DataLoader, DataLoader>);
  static_assert(!Fits<Recorded, DataLoader> && !Fits<DataLoader, Recorded>);
}

TEST(DataModule, WithoutTheLoaderThatARunNeeds) {
  struct Empty : DataModule {};
  Empty data;
  Probe module;
  Trainer trainer(quiet({.max_epochs = 1}));
  EXPECT_NE(message_of<ConfigError>([&] { trainer.fit(module, data); }).find("train_dataloader"), std::string::npos);
  EXPECT_NE(message_of<ConfigError>([&] { trainer.test(module, data); }).find("test_dataloader"), std::string::npos);
  struct OnlyTrain : DataModule {
    DataLoader train_dataloader() override { return counting_loader(2); }
  };
  OnlyTrain train;
  EXPECT_EQ(trainer.fit(module, train).global_step, 2);
}

TEST(DataModule, HearsOfAnException) {
  Recorded data;
  Probe module;
  module.in_training_step = [](const Batch&, StepContext&) { throw std::runtime_error("no"); };
  EXPECT_THROW(Trainer(quiet({.max_epochs = 1, .num_sanity_val_steps = 0})).fit(module, data), std::runtime_error);
  EXPECT_EQ(data.log, Log({"prepare", "setup:fit", "train_dl 0", "val_dl", "exception", "teardown:fit"}));
}

TEST(DataModule, LoadersAreAskedForAnewEveryNEpochs) {
  for (const auto& [n, times] : std::vector<std::pair<std::int64_t, std::int64_t>>{{0, 1}, {1, 4}, {2, 2}}) {
    Recorded data;
    Probe module;
    Trainer(quiet({.max_epochs = 4, .reload_dataloaders_every_n_epochs = n})).fit(module, data);
    const auto count = [&](const std::string& what) {
      return std::count_if(data.log.begin(), data.log.end(), [&](const auto& x) { return x.starts_with(what); });
    };
    EXPECT_EQ(count("train_dl"), times);
    EXPECT_EQ(count("val_dl"), times);
  }
  EXPECT_NE(message_of<ConfigError>([] {
              Trainer(quiet({.reload_dataloaders_every_n_epochs = -1}));
            }).find("reload_dataloaders_every_n_epochs"),
            std::string::npos);
}

// Longer every time, and drawn at random.
struct Growing : DataModule {
  DataLoader train_dataloader() override {
    const std::int64_t n = trainer().current_epoch() + 1;
    return DataLoader(TensorDataset{{"x", randn({n, 1})}}, {.shuffle = true});
  }
};

TEST(DataModule, NewLoadersCountAndAResumedRunGetsTheSame) {
  const TempFolder dir;
  std::vector<std::int64_t> sizes;
  const auto fit = [&](const std::string& resume, std::int64_t save_at) {
    Growing data;
    Probe module;
    Trainer trainer(quiet({.max_epochs = 4,
                           .reload_dataloaders_every_n_epochs = 2,
                           .callbacks = {AtBatchEnd([&](Trainer& t, std::int64_t) {
                             sizes.push_back(t.num_training_batches());
                             if (t.global_step() == save_at) t.save_checkpoint(dir / "stop");
                           })}}));
    trainer.fit(module, data, {.resume = resume});
    return module.weight.item();
  };
  const double whole = fit("", 4);  // in the third epoch, which has new loaders
  EXPECT_EQ(sizes, std::vector<std::int64_t>({1, 1, 3, 3, 3, 3, 3, 3}));
  EXPECT_EQ(fit((dir / "stop").string(), 0), whole);
}

struct GoesBad : Probe {
  Tensor training_step(const Batch& batch, StepContext& step) override {
    const Tensor loss = Probe::training_step(batch, step);
    return step.trainer().total_batch_idx() == 4 ? loss * NAN : loss;
  }
};

// Epochs of 4 and of 2 batches.
struct Shrinking : DataModule {
  DataLoader train_dataloader() override { return counting_loader(4 - 2 * trainer().current_epoch()); }
};

TEST(DataModule, ARollbackGetsTheLoaderOfItsEpoch) {
  const TempFolder dir;
  std::vector<std::int64_t> run;
  TrainerOptions options =
      quiet({.max_epochs = 2,
             .reload_dataloaders_every_n_epochs = 1,
             .on_bad_number = "rollback",
             .callbacks = {ModelCheckpoint({.dirpath = dir.path(), .every_n_train_steps = 3}),
                           AtBatchEnd([&](Trainer&, std::int64_t batch) { run.push_back(batch); })}});
  options.enable_checkpointing = true;
  GoesBad module;
  Shrinking data;
  EXPECT_EQ(Trainer(options).fit(module, data).global_step, 5);
  EXPECT_EQ(run, (std::vector<std::int64_t>{0, 1, 2, 3, 0, 3, 1}));
}

TEST(DataModule, ContinueRunRestoresItsState) {
  Recorded data;
  Probe module;
  std::string text;
  TrainerOptions options = quiet({.max_epochs = 1});
  options.sink = [&](std::string_view line) { text += line; };
  Trainer trainer(options);
  trainer.fit(module, data);
  data.log.clear();
  trainer.set_max_epochs(2);
  EXPECT_EQ(trainer.fit(module, data, {.continue_run = true}).global_step, 4);
  EXPECT_EQ(data.log, Log({"setup:fit", "load_state 7", "train_dl 1", "val_dl", "teardown:fit"}));
  EXPECT_EQ(text.find("differ"), std::string::npos) << text;
}

TEST(DataModule, ItsTransferHooksComeInPlaceOfTheModules) {
  struct Doubling : Recorded {
    void on_after_batch_transfer(TrainingModule&, Batch& batch) override { batch.set("x", batch["x"] * 2.0); }
  };
  struct Module : Probe {
    std::vector<double> seen;
    int before = 0;
    void on_before_batch_transfer(Batch&) override { ++before; }
    void on_after_batch_transfer(Batch& batch) override { batch.set("x", batch["x"] + 100.0); }
  };
  Module module;
  module.in_training_step = [&](const Batch& batch, StepContext&) { module.seen.push_back(batch["x"].item()); };
  std::string text;
  TrainerOptions options = quiet({.max_epochs = 1, .limit_val_batches = 0});
  options.sink = [&](std::string_view line) { text += line; };
  Trainer trainer(options);
  Doubling doubling;
  trainer.fit(module, doubling);
  EXPECT_EQ(module.seen, std::vector<double>({0, 2}));
  EXPECT_EQ(module.before, 2);
  EXPECT_NE(text.find("in place of the module's"), std::string::npos) << text;
  text.clear();
  Recorded plain;
  trainer.fit(module, plain);
  EXPECT_EQ(module.seen, std::vector<double>({0, 2, 100, 101}));
  EXPECT_EQ(text, "");
}

TEST(DataModule, OfDatasetsShufflesTheFirstAlone) {
  const TensorDataset numbers{{"x", arange(100).to(DType::f32).reshape({100, 1})}};
  DatasetModule data = DataModule::from_datasets({.train = numbers, .val = numbers, .test = numbers, .batch_size = 10});
  const DataLoader train = data.train_dataloader(), val = data.val_dataloader().loaders.at(0);
  EXPECT_TRUE(train.options().shuffle);
  EXPECT_FALSE(val.options().shuffle);
  EXPECT_FALSE(data.test_dataloader().loaders.at(0).options().shuffle);
  EXPECT_EQ(train.size(), 10);
  EXPECT_TRUE(data.predict_dataloader().loaders.empty());
  Probe module;
  EXPECT_EQ(Trainer(quiet({.max_epochs = 1})).fit(module, data).global_step, 10);
}

#if ANNEAL_HAS_GLOO

using anneal::testing::RankFunction;
using anneal::testing::spawn_ranks;

// What a rank calls, on two of one machine.
struct OnRanks : Recorded {
  DataLoader train_dataloader() override { return counting_loader(4); }
};
const RankFunction prepare_on_ranks("prepare_data", [] {
  OnRanks data;
  Probe module;
  Trainer trainer(quiet({.max_epochs = 1, .limit_val_batches = 0}));
  trainer.fit(module, data);
  for (const std::string& what : data.log) std::fputs((what + " ").c_str(), stderr);
  return 0;
});

TEST(DataModule, IsPreparedOnOneRankAndSetUpOnAll) {
  const auto results = spawn_ranks(2, "prepare_data", {}, std::chrono::seconds(60));
  EXPECT_EQ(results.ranks[0].err, "prepare setup:fit val_dl teardown:fit ");
  EXPECT_EQ(results.ranks[1].err, "setup:fit val_dl teardown:fit ");
}

// The same, each as on a machine of its own.
struct OwnMachine : ClusterEnvironment {
  std::optional<dist::RankEnvironment> ranks() const override {
    std::optional<dist::RankEnvironment> launched = dist::rank_environment();
    launched->local_rank = 0;
    launched->local_world_size = 1;
    return launched;
  }
};
struct OnMachines : OnRanks {
  bool per_node = true;
  bool prepare_data_per_node() const override { return per_node; }
};
const RankFunction prepare_on_machines("prepare_on_machines", [] {
  for (const bool per_node : {true, false}) {
    OnMachines data;
    data.per_node = per_node;
    Probe module;
    Trainer(quiet({.max_epochs = 1, .limit_val_batches = 0, .plugins = {OwnMachine()}})).fit(module, data);
    std::fputs(data.log[0] == "prepare" ? "1" : "0", stderr);
  }
  return 0;
});

// T-751
TEST(DataModule, IsPreparedOnEachMachineOrOnOne) {
  const auto results = spawn_ranks(2, "prepare_on_machines", {}, std::chrono::seconds(60));
  EXPECT_EQ(results.ranks[0].err, "11");
  EXPECT_EQ(results.ranks[1].err, "10");
}

// Ranks with loaders of their own of different lengths.
const RankFunction uneven_loaders("uneven_loaders", [] {
  Trainer trainer(quiet({.use_distributed_sampler = false, .max_epochs = 1}));
  Probe module;
  trainer.fit(module, counting_loader(2 + trainer.global_rank()));
  return 0;
});

TEST(DataModule, RanksWithDifferentlyManyBatchesAreRefused) {
  const auto results = spawn_ranks(2, "uneven_loaders", {}, std::chrono::seconds(60));
  EXPECT_EQ(results.codes(), std::vector<int>({1, 1}));
  EXPECT_NE(results.ranks[1].err.find("rank 0 has 2"), std::string::npos) << results.ranks[1].err;
}

#endif

}  // namespace
}  // namespace anneal_test
