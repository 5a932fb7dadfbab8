// Parts of a Trainer that can be exchanged, and what a seed decides: rows T-137, T-139 and T-144.
#include <gtest/gtest.h>

#include "anneal/tests/trainer/support.h"
#include "anneal/trainer/checkpoint.h"

namespace anneal_test {
namespace {

std::string error_of(const TrainerOptions& options) {
  return message_of<ConfigError>([&] { Trainer trainer(quiet(options)); });
}

struct Doubles : PrecisionPlugin {
  std::optional<DType> parameters() const override { return DType::f64; }
};
struct Scaled : PrecisionPlugin {
  std::optional<DType> autocast() const override { return DType::f16; }
  bool scaled() const override { return true; }
};

TEST(Plugins, APrecision) {
  Trainer trainer(quiet({.max_epochs = 1, .plugins = {Doubles()}}));
  Probe probe;
  probe.in_training_step = [&](const Batch& batch, StepContext&) {
    EXPECT_EQ(batch["x"].dtype(), DType::f64);
    EXPECT_EQ(probe.weight.dtype(), DType::f64);
  };
  trainer.fit(probe, counting_loader(2));
  EXPECT_EQ(trainer.global_step(), 2);
  EXPECT_EQ(error_of({.grad_scaler = optim::GradScalerOptions{}, .plugins = {Scaled()}}), "");
  EXPECT_TRUE(error_of({.grad_scaler = optim::GradScalerOptions{}, .plugins = {Doubles()}}).starts_with("grad_scaler"));
}

TEST(Plugins, Contradictions) {
  EXPECT_TRUE(error_of({.precision = "bf16-mixed", .plugins = {Doubles()}}).starts_with("precision"));
  EXPECT_TRUE(error_of({.plugins = {Doubles(), Scaled()}}).starts_with("plugins"));
  EXPECT_TRUE(error_of({.plugins = {CheckpointIO(), CheckpointIO()}}).starts_with("plugins"));
  EXPECT_TRUE(error_of({.plugins = {Shared<Plugin>()}}).starts_with("plugins"));
  EXPECT_EQ(error_of({.plugins = {Doubles(), CheckpointIO()}}), "");
}

// Keeps checkpoints in memory.
struct Shelf : CheckpointIO {
  std::map<std::string, Checkpoint> kept;
  std::vector<std::string> removed;
  void save(const fs::path& path, const Checkpoint& checkpoint) override {
    kept.insert_or_assign(path.filename().string(), checkpoint);
  }
  Checkpoint load(const fs::path& path) override { return kept.at(path.filename().string()); }
  void remove(const fs::path& path) override {
    kept.erase(path.filename().string());
    removed.push_back(path.filename().string());
  }
};

TEST(Plugins, CheckpointsGoWhereTheySay) {
  const TempFolder dir;
  const auto shelf = std::make_shared<Shelf>();
  const auto trainer_for = [&](std::int64_t epochs) {
    TrainerOptions options = quiet({.max_epochs = epochs,
                                    .callbacks = {ModelCheckpoint({.dirpath = dir.path(), .filename = "{epoch}"})},
                                    .plugins = {shelf}});
    options.enable_checkpointing = true;
    return options;
  };
  Probe probe;
  Trainer(trainer_for(3)).fit(probe, counting_loader(2));
  EXPECT_TRUE(fs::is_empty(dir.path()));
  ASSERT_EQ(shelf->kept.size(), 1u);
  EXPECT_EQ(shelf->removed.size(), 2u);
  Trainer longer(trainer_for(4));
  longer.fit(probe, counting_loader(2), {.resume = (dir / shelf->kept.begin()->first).string()});
  EXPECT_EQ(longer.global_step(), 8);
}

TEST(Plugins, AClusterSaysTheRanks) {
  struct Cluster : ClusterEnvironment {
    explicit Cluster(std::optional<dist::RankEnvironment> known) : known(std::move(known)) {}
    std::optional<dist::RankEnvironment> ranks() const override { return known; }
    std::optional<dist::RankEnvironment> known;
  };
  EXPECT_EQ(error_of({.plugins = {Cluster(std::nullopt)}}), "");
  dist::RankEnvironment one_of_six;
  one_of_six.world_size = 6;
  one_of_six.local_world_size = 3;
  const std::string error = error_of({.num_nodes = 3, .plugins = {Cluster(one_of_six)}});
  EXPECT_NE(error.find("9 ranks, but the launcher started 6"), std::string::npos) << error;
}

TEST(Strategies, AsObjects) {
  const TrainerOptions options = resolve({.strategy = DDPStrategy({.bucket_bytes = 64})});
  EXPECT_EQ(options.strategy.name(), "ddp");
  EXPECT_EQ(options.strategy.object()->buckets().bucket_bytes, 64);
  struct Unknown : DDPStrategy {
    std::string name() const override { return "mine"; }
  };
  EXPECT_TRUE(error_of({.strategy = Unknown()}).starts_with("strategy"));
}

// T-774
TEST(Strategies, AStaticGraphIsHeldTo) {
  struct Branching : Probe {
    nn::Parameter second{{this, "second"}, zeros({1})};
    std::int64_t from = 0, to = 0;  // the steps that use it
    Tensor training_step(const Batch& batch, StepContext& step) override {
      const Tensor loss = Probe::training_step(batch, step);
      return step.batch_idx() >= from && step.batch_idx() < to ? loss + sum(second) : loss;
    }
  };
  const auto error_with = [](std::int64_t from, std::int64_t to, bool is_static) {
    Branching module;
    module.from = from;
    module.to = to;
    Trainer trainer(quiet({.strategy = DDPStrategy({}, is_static), .max_epochs = 1}));
    return message_of<Error>([&] { trainer.fit(module, counting_loader(4)); });
  };
  EXPECT_EQ(error_with(2, 4, false), "");
  EXPECT_EQ(error_with(0, 4, true), "");
  EXPECT_EQ(error_with(0, 0, true), "");
  EXPECT_NE(error_with(2, 4, true).find("second has a gradient"), std::string::npos);
  EXPECT_NE(error_with(0, 2, true).find("second has no gradient"), std::string::npos);
}

TEST(Seed, DecidesAllNumbersFromSetupOn) {
  struct Drawing : Callback {
    std::vector<double> numbers;
    void setup(Trainer&, TrainingModule&, Stage) override { numbers.push_back(randn({1}).item()); }
  };
  const auto drawn = [](std::uint64_t seed) {
    const auto drawing = std::make_shared<Drawing>();
    Trainer trainer(quiet({.max_epochs = 1, .callbacks = {drawing}, .seed = seed}));
    Probe probe;
    probe.in_training_step = [&](const Batch&, StepContext&) { drawing->numbers.push_back(randn({1}).item()); };
    trainer.fit(probe, counting_loader(2));
    return drawing->numbers;
  };
  EXPECT_EQ(drawn(3), drawn(3));
  EXPECT_NE(drawn(3), drawn(4));
}

TEST(Seed, ARandomOneIsPrintedAndKept) {
  const TempFolder dir;
  std::string text;
  Trainer trainer({.max_epochs = 1,
                   .logger = CsvLogger({.dir = dir.path()}),
                   .enable_checkpointing = false,
                   .enable_progress_bar = false,
                   .enable_model_summary = false,
                   .sink = [&](std::string_view line) { text += line; }});
  Probe probe;
  trainer.fit(probe, counting_loader(1));
  const std::string seed = std::to_string(trainer.seed());
  EXPECT_NE(text.find("seed: " + seed), std::string::npos) << text;
  EXPECT_NE(read_text(dir / "hparams.json").find(seed), std::string::npos);
}

}  // namespace
}  // namespace anneal_test
