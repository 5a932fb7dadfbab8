// ModelCheckpoint's triggers by steps and time, links, failures; loading parts of a checkpoint. Rows C-144 to C-152,
// C-161, C-162, T-514 to T-521, T-531, T-546, T-560, T-561.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cmath>

#include "anneal/tests/trainer/support.h"
#include "anneal/trainer/checkpoint.h"

namespace {
bool no_links = false;  // as on a file system without symbolic links
}

// Comes before the C library's.
extern "C" [[gnu::visibility("default")]] int symlink(const char* target, const char* link) noexcept {
  if (!no_links) return ::symlinkat(target, AT_FDCWD, link);
  errno = EPERM;
  return -1;
}

namespace anneal_test {
namespace {

using Texts = std::vector<std::string>;

struct Run {
  TempFolder dir;
  std::shared_ptr<ModelCheckpoint> files;
  std::string text;
  Texts names() const { return stems(dir.path()); }
};

// Three epochs of four batches (or `batches`), each with a check that logs val_loss: values[i], or i.
std::unique_ptr<Run> fit(ModelCheckpointOptions checkpoint, TrainerOptions options = {}, std::int64_t batches = 4,
                         std::vector<double> values = {}) {
  auto run = std::make_unique<Run>();
  checkpoint.dirpath = run->dir.path();
  run->files = std::make_shared<ModelCheckpoint>(checkpoint);
  options = quiet(options);
  options.enable_checkpointing = true;
  options.max_epochs = options.max_epochs.value_or(3);
  options.num_sanity_val_steps = 0;
  options.callbacks.push_back(run->files);
  options.sink = [&](std::string_view text) { run->text += std::string(text) + "\n"; };
  Probe probe;
  std::size_t check = 0;
  probe.in_validation_step = [&](const Batch&, StepContext& step) {
    step.log("val_loss", check < values.size() ? values[check] : static_cast<double>(check));
    ++check;
  };
  try {
    Trainer(options).fit(probe, counting_loader(batches), counting_loader(1));
  } catch (const std::exception& error) { run->text += error.what(); }
  return run;
}

constexpr std::int64_t all = -1;
const ModelCheckpointOptions by_number{.filename = "{step:02d}", .save_top_k = all, .auto_insert_metric_name = false};

ModelCheckpointOptions every_steps(std::int64_t n, ModelCheckpointOptions options = by_number) {
  options.every_n_train_steps = n;
  return options;
}

TEST(CheckpointTriggers, AtMostOne) {
  const auto error = [](ModelCheckpointOptions options) {
    return message_of<ConfigError>([&] { ModelCheckpoint callback(options); });
  };
  EXPECT_TRUE(error({.every_n_epochs = 1, .every_n_train_steps = 1}).starts_with("every_n_train_steps"));
  EXPECT_TRUE(
      error({.every_n_train_steps = 1, .train_time_interval = std::chrono::seconds(1)}).starts_with("every_n_train"));
  EXPECT_TRUE(error({.every_n_train_steps = -1}).starts_with("every_n_train_steps"));
  EXPECT_EQ(error({.every_n_epochs = 0, .every_n_train_steps = 1}), "");
  EXPECT_TRUE(message_of<ConfigError>([] { SaveLast("copy"); }).starts_with("save_last"));
}

TEST(CheckpointTriggers, Steps) {
  EXPECT_EQ(fit(every_steps(3))->names(), (Texts{"03", "06", "09", "12"}));
  EXPECT_EQ(fit(every_steps(3, {.save_top_k = all}))->names(),
            (Texts{"epoch=0-step=3", "epoch=1-step=6", "epoch=2-step=12", "epoch=2-step=9"}));
  EXPECT_EQ(fit(every_steps(2), {.max_epochs = 2, .accumulate_grad_batches = 3})->names(), (Texts{"02", "04"}));
}

// At step 3 no check has been, and none comes; at step 12 the epoch's check comes first.
TEST(CheckpointTriggers, StepsWithAMonitorWaitForTheCheck) {
  ModelCheckpointOptions options = every_steps(3);
  options.monitor = "val_loss";
  const auto run = fit(options, {}, 4, {5, 7, 9});
  EXPECT_EQ(run->names(), (Texts{"06", "09", "12"}));
  EXPECT_NE(run->text.find("val_loss is not there yet; nothing was saved"), std::string::npos) << run->text;
  for (const auto& kept : run->files->best_k_models())
    EXPECT_EQ(kept.score,
              (std::map<std::string, double>{{"06", 5}, {"09", 7}, {"12", 9}}).at(kept.path.stem().string()));
}

TEST(CheckpointTriggers, Time) {
  ModelCheckpointOptions options = by_number;
  options.train_time_interval = std::chrono::seconds(0);
  EXPECT_EQ(fit(options, {.max_epochs = 1}, 3)->names(), (Texts{"01", "02", "03"}));
  options.train_time_interval = std::chrono::hours(1);
  EXPECT_EQ(fit(options, {.max_epochs = 1}, 3)->names(), Texts{});
}

TEST(CheckpointTriggers, EpochsAndLast) {
  EXPECT_EQ(fit({.filename = "{step}", .save_top_k = all, .every_n_epochs = 2})->names(), Texts{"step=8"});
  EXPECT_EQ(fit({.save_top_k = all, .every_n_epochs = 0})->names(), Texts{});
  // `last` is not held back by every_n_epochs.
  std::vector<std::int64_t> steps;
  Probe probe;
  const TempFolder dir;
  TrainerOptions options = quiet({.max_epochs = 3});
  options.enable_checkpointing = true;
  const auto files = std::make_shared<ModelCheckpoint>(
      ModelCheckpointOptions{.dirpath = dir.path(), .save_last = true, .every_n_epochs = 2});
  options.callbacks = {files, LambdaCallback({.on_train_epoch_start = [&](Trainer&, TrainingModule&) {
                         if (fs::exists(dir / "last.safetensors"))
                           steps.push_back(load_checkpoint(dir / "last.safetensors").counters.global_step);
                       }})};
  Trainer(options).fit(probe, counting_loader(4));
  EXPECT_EQ(steps, (std::vector<std::int64_t>{4, 8}));
}

TEST(CheckpointLinks, LastIsALinkToTheFileOfItsStep) {
  const auto run = fit({.save_last = "link"});
  EXPECT_EQ(run->names(), (Texts{"epoch=2-step=12", "last"}));
  EXPECT_EQ(fs::read_symlink(run->dir / "last.safetensors"), "epoch=2-step=12.safetensors");
  // Where the best stays, `last` is a file; and what it links to is kept.
  const auto best_first = fit({.filename = "{step}", .monitor = "val_loss", .save_last = "link"});
  EXPECT_EQ(best_first->names(), (Texts{"last", "step=4"}));
  EXPECT_FALSE(fs::is_symlink(best_first->dir / "last.safetensors"));
  EXPECT_EQ(load_checkpoint(best_first->dir / "last.safetensors").counters.global_step, 12);
  EXPECT_FALSE(fs::is_symlink(fit({.save_top_k = 0, .save_last = "link"})->dir / "last.safetensors"));
}

TEST(CheckpointLinks, ACopyWhereThereAreNone) {
  no_links = true;
  const auto run = fit({.save_last = "link"});
  no_links = false;
  EXPECT_EQ(run->names(), (Texts{"epoch=2-step=12", "last"}));
  EXPECT_FALSE(fs::is_symlink(run->dir / "last.safetensors"));
  EXPECT_EQ(load_checkpoint(run->dir / "last.safetensors").counters.global_step, 12);
}

// T-503, T-516
TEST(CheckpointFolder, WhatIsThereStays) {
  const TempFolder dir;
  for (const char* name : {"last.safetensors", "step=4.safetensors"})
    anneal::testing::write_file(dir / name, "another's");
  const auto files = std::make_shared<ModelCheckpoint>(
      ModelCheckpointOptions{.dirpath = dir.path(), .filename = "{step}", .save_last = true});
  std::string text;
  TrainerOptions options = quiet({.max_epochs = 1, .callbacks = {files}});
  options.enable_checkpointing = true;
  options.sink = [&](std::string_view line) { text += line; };
  Probe probe;
  Trainer(options).fit(probe, counting_loader(4));
  EXPECT_NE(text.find("the folder of the checkpoints is not empty"), std::string::npos) << text;
  EXPECT_EQ(stems(dir.path()), (Texts{"last", "last-v1", "step=4", "step=4-v1"}));
  EXPECT_EQ(read_text(dir / "last.safetensors"), "another's");
  EXPECT_EQ(files->last_model_path().stem(), "last-v1");
}

TEST(CheckpointScores, AreReadable) {
  const auto run = fit({.filename = "{step}", .monitor = "val_loss", .save_top_k = 2}, {}, 4, {3, 1, 2});
  EXPECT_EQ(run->files->best_model_score(), 1);
  EXPECT_EQ(run->files->current_score(), 2);
  EXPECT_EQ(std::get<double>(run->files->state().at("current_score")), 2);
  EXPECT_EQ(run->files->kth_best_model_path().stem(), "step=12");
  EXPECT_EQ(ModelCheckpoint().kth_best_model_path(), fs::path());
}

TEST(CheckpointText, Verbose) {
  const auto run = fit({.filename = "{step}", .monitor = "val_loss", .verbose = true}, {}, 4, {1, 2, 0.5});
  EXPECT_NE(run->text.find("epoch 0, step 4: val_loss is 1, the best is 1; saved as"), std::string::npos) << run->text;
  EXPECT_NE(run->text.find("epoch 1, step 8: val_loss is 2, not among the best 1"), std::string::npos);
  EXPECT_NE(run->text.find("step=12.safetensors"), std::string::npos);
}

TEST(CheckpointFailures, AnExceptionLeavesAFile) {
  const auto fails_at = [](std::int64_t step) {
    return TrainerOptions{.callbacks = {AtBatchEnd([step](Trainer& trainer, std::int64_t) {
                            if (trainer.global_step() == step) throw Error("enough");
                          })}};
  };
  EXPECT_EQ(fit({.save_last = true, .save_on_exception = true}, fails_at(2))->names(),
            (Texts{"epoch=0-step=2", "last"}));
  EXPECT_EQ(fit({.save_last = true}, fails_at(2))->names(), Texts{});
  // Whether or not it would be among the best.
  EXPECT_EQ(fit({.save_top_k = 0, .save_on_exception = true}, fails_at(2))->names(), Texts{"epoch=0-step=2"});
  const ModelCheckpointOptions best{.filename = "{step}", .monitor = "val_loss", .save_on_exception = true};
  EXPECT_EQ(fit(best, fails_at(2))->names(), Texts{"step=2"});
  EXPECT_EQ(fit(best, fails_at(10))->names(), (Texts{"step=10", "step=4"}));
  EXPECT_EQ(fit(best, fails_at(8))->names(), (Texts{"step=4", "step=8"}));
}

TEST(CheckpointFailures, OnSaveErrorDecides) {
  const TempFolder dir;
  anneal::testing::write_file(dir / "file", "not a folder");
  const auto train = [&](const std::string& on_save_error) {
    TrainerOptions options = quiet({.max_epochs = 1, .on_save_error = on_save_error});
    options.enable_checkpointing = true;
    options.callbacks = {ModelCheckpoint({.dirpath = dir / "file" / "checkpoints", .save_last = true})};
    Probe probe;
    return Trainer(options).fit(probe, counting_loader(2)).global_step;
  };
  EXPECT_EQ(train("warn"), 2);
  EXPECT_THROW(train("throw"), std::exception);
  EXPECT_TRUE(message_of<ConfigError>([&] { train("shout"); }).starts_with("on_save_error"));
}

TEST(CheckpointFailures, WhatDeadProcessesLeftIsRemoved) {
  const TempFolder dir;
  // No process has this number: it is above the largest that Linux gives.
  const fs::path dead = dir / ".last.safetensors.1073741823-1.tmp", other = dir / ".notes.tmp";
  const fs::path own = dir / (".last.safetensors." + std::to_string(::getpid()) + "-9999.tmp");
  for (const fs::path& path : {dead, own, other}) anneal::testing::write_file(path, "half");
  TrainerOptions options = quiet({.max_epochs = 1});
  options.enable_checkpointing = true;
  options.callbacks = {ModelCheckpoint({.dirpath = dir.path()})};
  Probe probe;
  Trainer(options).fit(probe, counting_loader(1));
  EXPECT_FALSE(fs::exists(dead));
  EXPECT_TRUE(fs::exists(own));
  EXPECT_TRUE(fs::exists(other));
}

TEST(CheckpointFailures, DamagedDataIsNoticed) {
  const auto run = fit({.save_top_k = 0, .save_last = true}, {.max_epochs = 1});
  const fs::path path = run->files->last_model_path();
  std::string bytes = read_text(path);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  anneal::testing::write_file(path, bytes);
  const std::string text = message_of<Error>([&] { load_checkpoint(path); });
  EXPECT_NE(text.find("is not what was written"), std::string::npos) << text;
}

TEST(CheckpointLoggers, AreTold) {
  struct Listener : Logger {
    explicit Listener(Texts& told) : told(told) {}
    Texts& told;
    void log_metrics(const MetricMap&, std::int64_t) override {}
    fs::path log_dir() const override { return "."; }
    void after_save_checkpoint(const fs::path& path) override { told.push_back(path.stem().string()); }
  };
  Texts told;
  fit({.filename = "{step}", .save_last = true}, {.max_epochs = 1, .logger = std::make_shared<Listener>(told)});
  EXPECT_EQ(told, (Texts{"step=4", "last"}));
}

// ---- loading ----

TrainerOptions plain(std::int64_t epochs) {
  TrainerOptions options = quiet({.max_epochs = epochs});
  return options;
}

TEST(WeightsOnly, StartAnew) {
  const auto run = fit({.filename = "{step}", .save_weights_only = true}, {.max_epochs = 1});
  const fs::path path = run->files->best_model_path();
  const Checkpoint saved = load_checkpoint(path);
  EXPECT_TRUE(saved.weights_only);
  EXPECT_TRUE(saved.optimizers.empty());
  EXPECT_EQ(saved.counters.global_step, 4);
  Probe probe;
  EXPECT_NE(message_of<Error>([&] {
              Trainer(plain(1)).fit(probe, counting_loader(4), {.resume = path.string()});
            }).find("weights only"),
            std::string::npos);
  double at_start = 0;
  probe.in_training_step = [&](const Batch&, StepContext& step) {
    if (step.batch_idx() == 0) at_start = probe.weight.item();
  };
  const FitResult result =
      Trainer(plain(1)).fit(probe, counting_loader(4), {.resume = path.string(), .weights_only = true});
  EXPECT_EQ(result.global_step, 4) << "counted from 0";
  EXPECT_EQ(at_start, saved.model.at(0).tensor.item());
  EXPECT_NE(at_start, 0);
}

TEST(StrictLoading, OffReportsWhatDoesNotFit) {
  const auto run = fit({.save_weights_only = true}, {.max_epochs = 1});
  struct Other : Probe {
    nn::Parameter more{{this, "more"}, ones({2})};
  } other;
  const FitOptions options{
      .resume = run->files->best_model_path().string(), .weights_only = true, .strict_loading = false};
  std::string text;
  TrainerOptions trainer_options = plain(0);
  trainer_options.sink = [&](std::string_view line) { text += line; };
  Trainer(trainer_options).fit(other, counting_loader(4), options);
  EXPECT_NE(text.find("missing: more"), std::string::npos) << text;
  EXPECT_NE(other.weight.item(), 0);
  EXPECT_EQ(other.more.to_vector(), (std::vector<double>{1, 1}));
  FitOptions strict = options;
  strict.strict_loading = true;
  EXPECT_NE(message_of<Error>([&] { Trainer(plain(0)).fit(other, counting_loader(4), strict); }).find("more"),
            std::string::npos);
}

TEST(OverrideLr, TakesTheRateOfTheCode) {
  struct Model : Probe {
    double lr = 0.1;
    OptimizerConfig configure_optimizers() override {
      return {optim::SGD(parameters(), {.lr = lr}), optim::step_lr(1, 0.5)};
    }
  } first;
  const TempFolder dir;
  TrainerOptions options = plain(1);
  options.enable_checkpointing = true;
  options.callbacks = {ModelCheckpoint({.dirpath = dir.path(), .save_last = true})};
  Trainer(options).fit(first, counting_loader(2));
  for (const bool overrides : {false, true}) {
    Model second;
    second.lr = 0.4;
    double seen = 0;
    second.in_training_step = [&](const Batch&, StepContext& step) { seen = step.trainer().optimizer()->lr(); };
    Trainer(plain(2)).fit(second, counting_loader(2),
                          {.resume = (dir / "last.safetensors").string(), .override_lr = overrides});
    EXPECT_DOUBLE_EQ(seen, overrides ? 0.2 : 0.05);
  }
}

TEST(Restored, FilesElsewhereOrGoneAreNamed) {
  const TempFolder dir;
  const auto train = [&](std::int64_t epochs, const fs::path& folder, const FitOptions& from) {
    std::string text;
    TrainerOptions options = plain(epochs);
    options.enable_checkpointing = true;
    options.sink = [&](std::string_view line) { text += line; };
    options.callbacks = {ModelCheckpoint({.dirpath = folder, .save_top_k = all, .save_last = true})};
    Probe probe;
    Trainer(options).fit(probe, counting_loader(2), from);
    return text;
  };
  train(2, dir / "a", {});
  const FitOptions from{.resume = (dir / "a" / "last.safetensors").string()};
  EXPECT_NE(train(3, dir / "b", from).find("of them only the best"), std::string::npos);
  fs::remove(dir / "a" / "epoch=0-step=2.safetensors");
  EXPECT_NE(train(3, dir / "a", from).find("is gone"), std::string::npos);
}

// T-517: of two in one folder with one name, in a run that is gone on with from before their last saves.
TEST(Restored, FilesOfAnotherAreNotTaken) {
  const TempFolder dir;
  const std::string source = (dir / "source").string();
  const auto best_of = [&](const char* mode) {
    return std::make_shared<ModelCheckpoint>(
        ModelCheckpointOptions{.dirpath = dir / "c", .filename = "m", .monitor = "val_loss", .mode = mode});
  };
  const auto smallest = best_of("min"), largest = best_of("max");
  const auto train = [&](std::int64_t epochs, const std::string& resume) {
    TrainerOptions options = plain(epochs);
    options.enable_checkpointing = true;
    options.num_sanity_val_steps = 0;
    options.callbacks = {smallest, largest,
                         LambdaCallback({.on_train_epoch_start = [&](Trainer& trainer, TrainingModule&) {
                           if (trainer.current_epoch() == 1) trainer.save_checkpoint(source);
                         }})};
    Probe probe;
    probe.in_validation_step = [](const Batch&, StepContext& step) {
      step.log("val_loss", std::array{2.0, 1.0, 3.0}.at(static_cast<std::size_t>(step.trainer().current_epoch())));
    };
    Trainer(options).fit(probe, counting_loader(2), counting_loader(1), {.resume = resume});
  };
  train(2, "");
  fs::rename(source, dir / "before");
  train(3, (dir / "before").string());
  EXPECT_EQ(stems(dir / "c"), (Texts{"m", "m-v1"}));
  EXPECT_EQ(load_checkpoint(smallest->best_model_path()).counters.global_step, 4);
  EXPECT_EQ(load_checkpoint(largest->best_model_path()).counters.global_step, 6);
}

TEST(Restored, TheFileItselfIsNotDeleted) {
  const TempFolder dir;
  const auto train = [&](std::int64_t epochs, const std::string& resume) {
    TrainerOptions options = plain(epochs);
    options.enable_checkpointing = true;
    options.callbacks = {ModelCheckpoint({.dirpath = dir.path(), .filename = "{step}"})};
    Probe probe;
    Trainer(options).fit(probe, counting_loader(2), {.resume = resume});
  };
  train(1, "");
  train(3, (dir / "step=2.safetensors").string());
  EXPECT_EQ(stems(dir.path()), (Texts{"step=2", "step=6"}));
}

}  // namespace
}  // namespace anneal_test
