// Which checkpoints are written, kept and named how, and what is in them: rows C-136 to C-165.
#include "anneal/trainer/checkpoint.h"

#include <gtest/gtest.h>

#include <cmath>

#include "anneal/core/safetensors.h"
#include "anneal/tests/trainer/support.h"

namespace anneal_test {
namespace {

using Texts = std::vector<std::string>;

struct Saved {
  TempFolder dir;
  std::shared_ptr<ModelCheckpoint> files;
  Texts names() const { return stems(dir.path()); }
  std::string best() const { return files->best_model_path().stem().string(); }
};

// Three epochs of four batches with one validation batch; check i logs val_loss = values[i].
std::unique_ptr<Saved> fit(ModelCheckpointOptions options, std::vector<double> values = {},
                           TrainerOptions trainer_options = {}, bool validates = true) {
  auto saved = std::make_unique<Saved>();
  options.dirpath = saved->dir.path();
  saved->files = std::make_shared<ModelCheckpoint>(options);
  trainer_options = quiet(trainer_options);
  trainer_options.enable_checkpointing = true;
  trainer_options.max_epochs = trainer_options.max_epochs.value_or(3);
  trainer_options.num_sanity_val_steps = 0;
  trainer_options.callbacks.push_back(saved->files);
  Probe probe;
  std::size_t check = 0;
  probe.in_validation_step = [&](const Batch&, StepContext& step) {
    if (check < values.size()) step.log("val_loss", values[check]);
    if (check < values.size()) step.log("val/loss", values[check]);
    ++check;
  };
  Trainer trainer(trainer_options);
  if (validates) trainer.fit(probe, counting_loader(4), counting_loader(1));
  else trainer.fit(probe, counting_loader(4));
  return saved;
}

constexpr double nan = NAN;

TEST(ModelCheckpoint, Options) {
  const auto error = [](ModelCheckpointOptions options) {
    return message_of<ConfigError>([&] { ModelCheckpoint callback(options); });
  };
  EXPECT_TRUE(error({.save_top_k = 2}).starts_with("save_top_k"));
  EXPECT_TRUE(error({.monitor = "a", .save_top_k = -2}).starts_with("save_top_k"));
  EXPECT_TRUE(error({.monitor = "a", .mode = "auto"}).starts_with("mode"));
  EXPECT_TRUE(error({.every_n_epochs = -1}).starts_with("every_n_epochs"));
}

TEST(ModelCheckpoint, WithoutMonitor) {
  EXPECT_EQ(fit({})->names(), Texts{"epoch=2-step=12"});
  EXPECT_EQ(fit({.save_top_k = -1})->names(), (Texts{"epoch=0-step=4", "epoch=1-step=8", "epoch=2-step=12"}));
  EXPECT_EQ(fit({.save_top_k = 0})->names(), Texts());
  EXPECT_EQ(fit({.save_top_k = 0, .save_last = true})->names(), Texts{"last"});
  EXPECT_EQ(fit({.save_top_k = -1, .every_n_epochs = 2})->names(), Texts{"epoch=1-step=8"});
  EXPECT_EQ(fit({.every_n_epochs = 0})->names(), Texts());
  EXPECT_EQ(fit({.save_top_k = -1}, {}, {}, false)->names(),
            (Texts{"epoch=0-step=4", "epoch=1-step=8", "epoch=2-step=12"}));
}

TEST(ModelCheckpoint, KeepsTheBest) {
  const ModelCheckpointOptions top1{.filename = "{step}", .monitor = "val_loss"},
      top2{.filename = "{step}", .monitor = "val_loss", .save_top_k = 2};
  const auto best = fit(top2, {3, 1, 2});
  EXPECT_EQ(best->names(), (Texts{"step=12", "step=8"}));
  EXPECT_EQ(best->best(), "step=8");
  EXPECT_EQ(best->files->best_model_score(), 1);
  EXPECT_EQ(fit(top1, {1, 1, 1})->names(), Texts{"step=4"});
  EXPECT_EQ(fit(top2, {1, 1, 1})->names(), (Texts{"step=4", "step=8"}));
  EXPECT_EQ(fit(top1, {nan, 2, 3})->names(), Texts{"step=8"});
  EXPECT_EQ(fit(top1, {2, nan, 1})->names(), Texts{"step=12"});
  const auto bad = fit(top1, {nan, nan, nan});
  EXPECT_EQ(bad->names(), Texts{"step=4"});
  EXPECT_TRUE(std::isnan(bad->files->best_model_score()));
  EXPECT_TRUE(bad->files->best_model_path().empty());
  EXPECT_EQ(fit({.filename = "{step}", .monitor = "val_loss", .mode = "max"}, {1, 3, 2})->names(), Texts{"step=8"});
  EXPECT_EQ(fit({.filename = "{step}", .monitor = "val_loss", .save_top_k = -1}, {1, 3, 2})->best(), "step=4");
}

TEST(ModelCheckpoint, LastIsTheLast) {
  const auto saved = fit({.filename = "{step}", .monitor = "val_loss", .save_last = true}, {1, 2, 3});
  EXPECT_EQ(saved->names(), (Texts{"last", "step=4"}));
  EXPECT_EQ(saved->best(), "step=4");
  EXPECT_EQ(load_checkpoint(saved->files->last_model_path()).counters.global_step, 12);
}

TEST(ModelCheckpoint, Names) {
  EXPECT_EQ(fit({.filename = "{epoch:02d}-{val_loss:.2f}", .monitor = "val_loss"}, {3, 1, 2})->names(),
            Texts{"epoch=01-val_loss=1.00"});
  EXPECT_EQ(
      fit({.filename = "e{epoch:02d}-v{val_loss:.2f}-{step}", .monitor = "val_loss", .auto_insert_metric_name = false},
          {3, 1, 2})
          ->names(),
      Texts{"e01-v1.00-8"});
  EXPECT_EQ(fit({.filename = "{epoch}-{val/loss}"}, {1, 1, 1}, {.max_epochs = 1})->names(),
            Texts{"epoch=0-val_loss=1.0"});
  const std::string unknown = message_of<ConfigError>([] { fit({.filename = "{zzz}"}, {3, 1, 2}); });
  for (const char* part : {"zzz", "epoch, step", "val_loss"}) EXPECT_NE(unknown.find(part), std::string::npos) << part;
  EXPECT_TRUE(message_of<ConfigError>([] { fit({.filename = "{step:%n}"}); }).starts_with("filename"));
  EXPECT_TRUE(message_of<Error>([] { fit({.filename = "../{step}"}); }).starts_with("filename"));
  EXPECT_EQ(fit({.filename = "m", .monitor = "val_loss", .save_top_k = 3}, {3, 2, 1})->names(),
            (Texts{"m", "m-v1", "m-v2"}));
  EXPECT_EQ(fit({.filename = "m", .monitor = "val_loss"}, {3, 2, 1})->names(), Texts{"m"});
  EXPECT_EQ(fit({.filename = "m", .save_top_k = -1})->names(), (Texts{"m", "m-v1", "m-v2"}));
  EXPECT_EQ(fit({.filename = "m", .save_top_k = -1, .enable_version_counter = false})->names(), Texts{"m"});
}

TEST(ModelCheckpoint, TheExtensionIsAnOption) {
  const auto saved = fit({.filename = "m", .extension = ".ckpt", .save_last = true});
  EXPECT_EQ(saved->files->best_model_path(), saved->dir / "m.ckpt");
  EXPECT_EQ(saved->files->last_files({}), std::vector<fs::path>{saved->dir / "last.ckpt"});
}

TEST(ModelCheckpoint, AMissingMonitorIsNamed) {
  const std::string text = message_of<ConfigError>([] { fit({.monitor = "zzz"}, {1, 2, 3}); });
  EXPECT_NE(text.find("zzz"), std::string::npos);
  EXPECT_NE(text.find("val_loss"), std::string::npos);
}

TEST(ModelCheckpoint, When) {
  const ModelCheckpointOptions all{.filename = "{step:02d}", .save_top_k = -1, .auto_insert_metric_name = false};
  EXPECT_EQ(fit(all, {}, {.val_check_interval = 0.5})->names(), (Texts{"02", "04", "06", "08", "10", "12"}));
  EXPECT_EQ(fit(all, {}, {.check_val_every_n_epoch = 2})->names(), Texts{"08"});
  ModelCheckpointOptions at_end = all;
  at_end.save_on_train_epoch_end = true;
  EXPECT_EQ(fit(at_end, {}, {.check_val_every_n_epoch = 2})->names(), (Texts{"04", "08", "12"}));
}

TEST(ModelCheckpoint, DefaultFolders) {
  const TempFolder dir;
  const auto run = [&](LoggerOption logger) {
    Trainer trainer({.max_epochs = 1,
                     .logger = std::move(logger),
                     .enable_progress_bar = false,
                     .default_root_dir = dir.path(),
                     .seed = 1,
                     .sink = [](std::string_view) {}});
    Probe probe;
    trainer.fit(probe, counting_loader(1));
  };
  run(false);
  EXPECT_EQ(stems(dir / "checkpoints"), Texts{"epoch=0-step=1"});
  run(CsvLogger({.save_dir = dir.path(), .name = "n", .version = "vv"}));
  EXPECT_EQ(stems(dir / "n/vv/checkpoints"), Texts{"epoch=0-step=1"});
}

TEST(CheckpointFile, OpensAsSafetensorsWithPlainNames) {
  const auto saved = fit({});
  const SafetensorsFile file = load_safetensors(saved->files->best_model_path());
  ASSERT_TRUE(file.find("weight"));
  EXPECT_NEAR(file.find("weight")->item(), -0.1 * 3 * (1 + 2 + 3 + 4), 1e-5);
  EXPECT_TRUE(file.metadata.contains("anneal"));
  EXPECT_EQ(load_checkpoint(saved->files->best_model_path()).precision, "32-true");
}

// T-530
TEST(CheckpointFile, KnowsTheTimeOfTheFit) {
  const TempFolder dir;
  Probe probe;
  Trainer first(quiet({.max_epochs = 1}));
  first.fit(probe, counting_loader(1));
  first.save_checkpoint(dir / "a");
  Checkpoint checkpoint = load_checkpoint(dir / "a");
  EXPECT_GT(checkpoint.time, 0);
  EXPECT_LT(checkpoint.time, 1000);
  checkpoint.time = 1000;
  save_checkpoint(dir / "a", checkpoint);
  Trainer second(quiet({.max_epochs = 2}));
  second.fit(probe, counting_loader(1), {.resume = (dir / "a").string()});
  second.save_checkpoint(dir / "a");
  EXPECT_GT(load_checkpoint(dir / "a").time, 1000);
}

TEST(CheckpointFile, DamageIsNamed) {
  const TempFolder dir;
  Probe probe;
  const auto resume = [&](const fs::path& path) {
    return message_of<Error>(
        [&] { Trainer(quiet({.max_epochs = 3})).fit(probe, counting_loader(4), {.resume = path.string()}); });
  };
  EXPECT_NE(resume(dir / "missing").find((dir / "missing").string()), std::string::npos);
  save_safetensors(dir / "foreign", std::vector<NamedTensor>{{"weight", zeros({1})}});
  EXPECT_NE(resume(dir / "foreign").find("not a checkpoint"), std::string::npos);
  save_safetensors(dir / "odd", std::vector<NamedTensor>{{"weight", zeros({1})}},
                   {{"anneal", "{\"format_version\": 1}"}});
  EXPECT_NE(resume(dir / "odd").find((dir / "odd").string()), std::string::npos);
  save_safetensors(dir / "newer", std::vector<NamedTensor>{}, {{"anneal", "{\"format_version\": 99}"}});
  EXPECT_NE(resume(dir / "newer").find("99"), std::string::npos);
  const auto saved = fit({});
  const std::string whole = read_text(saved->files->best_model_path());
  anneal::testing::write_file(dir / "short", whole.substr(0, whole.size() - 3));
  EXPECT_NE(resume(dir / "short").find((dir / "short").string()), std::string::npos);
}

TEST(Saving, OnlyBetweenBatches) {
  const TempFolder dir;
  Probe probe;
  probe.in_training_step = [&](const Batch&, StepContext& step) { step.trainer().save_checkpoint(dir / "a"); };
  Trainer trainer(quiet({.max_epochs = 1}));
  EXPECT_NE(message_of<Error>([&] { trainer.fit(probe, counting_loader(1)); }).find("training_step"),
            std::string::npos);
  EXPECT_THROW(trainer.save_checkpoint(dir / "a"), Error);
  EXPECT_FALSE(fs::exists(dir / "a"));
}

// T-534
TEST(Saving, AfterAFitTheStateInWhichItEnded) {
  const TempFolder dir;
  struct Model : Probe {
    OptimizerConfig configure_optimizers() override { return {optim::AdamW(parameters(), {.lr = 0.1})}; }
  } whole, part, resumed;
  Trainer(quiet({.max_epochs = 3})).fit(whole, counting_loader(2));
  Trainer trainer(quiet({.max_epochs = 1}));
  EXPECT_THROW(trainer.save_checkpoint(dir / "a"), Error);
  trainer.fit(part, counting_loader(2));
  trainer.save_checkpoint(dir / "a");
  EXPECT_EQ(load_checkpoint(dir / "a").counters.global_step, 2);
  Trainer(quiet({.max_epochs = 3})).fit(resumed, counting_loader(2), {.resume = (dir / "a").string()});
  EXPECT_EQ(resumed.weight.item(), whole.weight.item());
}

// T-773
TEST(Saving, ExtrasComeBackUnderTheirNames) {
  const TempFolder dir;
  Probe probe;
  Trainer trainer(quiet({.max_epochs = 1}));
  EXPECT_THROW(trainer.load_checkpoint(dir / "a"), Error);
  trainer.fit(probe, counting_loader(2));
  const double trained = probe.weight.item();
  trainer.save_checkpoint(dir / "a",
                          {.extra = {{"weight", 3}, {"labels", "a b"}}, .extra_tensors = {{"weight", full({2}, 7)}}});
  probe.load_state_dict(std::vector<NamedTensor>{{"weight", zeros({1})}});
  const Extras extras = trainer.load_checkpoint(dir / "a");
  EXPECT_EQ(hparam<std::int64_t>(extras.values, "weight"), 3);
  EXPECT_EQ(hparam<std::string>(extras.values, "labels"), "a b");
  EXPECT_EQ(extras.tensors.at(0).name, "weight");
  EXPECT_EQ(extras.tensors.at(0).tensor.to_vector(), (std::vector<double>{7, 7}));
  EXPECT_EQ(probe.weight.item(), trained) << "the model has its own names";
  trainer.save_checkpoint(dir / "b", {.weights_only = true});
  EXPECT_THROW(trainer.load_checkpoint(dir / "b"), Error) << "there is no optimizer";
  EXPECT_TRUE(trainer.load_checkpoint(dir / "b", {.load_optimizer = false}).values.empty());
}

}  // namespace
}  // namespace anneal_test
