// Programs around a Trainer: rows T-254, T-768, T-769 and C-194.
#include "anneal/trainer/cli.h"

#include <gtest/gtest.h>

#include <csignal>
#include <cstdlib>

#include "anneal/tests/trainer/support.h"

namespace anneal_test {
namespace {

// The loss is slope * weight * mean(x + 1); `fail` in a step throws.
struct Line : TrainingModule {
  struct Options {
    double slope = 1;
    bool fail = false;
    std::int64_t signal = 0;  // raised in each step
    OptionTable table() { return {{"slope", &slope, "of the loss"}, {"fail", &fail}, {"signal", &signal}}; }
  };
  explicit Line(const Options& options) : options(options) {}

  nn::Parameter weight{{this, "weight"}, randn({1})};
  Options options;

  Tensor training_step(const Batch& batch, StepContext& step) override {
    if (options.signal != 0) std::raise(static_cast<int>(options.signal));
    if (options.fail) throw std::runtime_error("the step fails");
    const Tensor loss = sum(weight) * mean(batch["x"] + 1.0) * options.slope;
    step.log("loss", loss);
    return loss;
  }
  void validation_step(const Batch&, StepContext& step) override { step.log("val_loss", 1); }
  void test_step(const Batch&, StepContext& step) override { step.log("test_loss", 2); }
  Batch predict_step(const Batch& batch, StepContext&) override { return {{"y", batch["x"]}}; }
  OptimizerConfig configure_optimizers() override { return {optim::SGD(parameters(), {.lr = 0.1})}; }
};

struct Numbers : DataModule {
  struct Options {
    std::int64_t batches = 3;
    OptionTable table() { return {{"batches", &batches, "of one sample"}}; }
  };
  explicit Numbers(const Options& options) : options(options) {}
  DataLoader train_dataloader() override { return counting_loader(options.batches); }
  LoaderSet val_dataloader() override { return counting_loader(1); }
  LoaderSet test_dataloader() override { return counting_loader(1); }
  LoaderSet predict_dataloader() override { return counting_loader(1); }
  Options options;
};

// No options, and no loaders but the one for training.
struct Bare : DataModule {
  DataLoader train_dataloader() override { return counting_loader(2); }
};

// One run of a program, and what came of it.
struct Outcome {
  int code = -1;
  std::string out, err, text;
  double weight = 0, lr = 0;
  std::int64_t steps = 0, epochs = 0;
};

template <class Data = Numbers>
Outcome run(std::vector<std::string> words, TrainerOptions defaults = {}) {
  Outcome outcome;
  defaults.enable_progress_bar = false;
  defaults.enable_checkpointing = false;
  defaults.enable_model_summary = false;
  if (!defaults.logger.given()) defaults.logger = false;
  if (!defaults.max_epochs) defaults.max_epochs = 1;
  defaults.sink = [&](std::string_view line) { outcome.text += line; };
  std::vector<const char*> argv{"program"};
  for (const std::string& word : words) argv.push_back(word.c_str());
  outcome.code = cli::run<Line, Data>(static_cast<int>(argv.size()), argv.data(),
                                      {.trainer = defaults,
                                       .before_fit = [&](Trainer&, TrainingModule&) { outcome.steps = -1; },
                                       .after_fit =
                                           [&](Trainer& trainer, TrainingModule& module) {
                                             EXPECT_EQ(outcome.steps, -1);
                                             outcome.weight = module.parameters()[0].tensor.item();
                                             outcome.lr = trainer.optimizer()->lr();
                                             outcome.steps = trainer.global_step();
                                             outcome.epochs = trainer.current_epoch();
                                           },
                                       .out = [&](std::string_view text) { outcome.out += text; },
                                       .err = [&](std::string_view text) { outcome.err += text; }});
  return outcome;
}

struct Cli : ::testing::Test {
  TempFolder dir;
  // With files in a folder of their own.
  Outcome in_folder(std::vector<std::string> words) {
    words.insert(words.end(), {"--trainer.default_root_dir", dir.path().string()});
    return run(std::move(words));
  }
  std::string file(const std::string& name, const std::string& text) {
    anneal::testing::write_file(dir / name, text);
    return (dir / name).string();
  }
};
void expect_has(const std::string& text, std::initializer_list<std::string> parts) {
  for (const std::string& part : parts) EXPECT_NE(text.find(part), std::string::npos) << part << " in: " << text;
}

TEST_F(Cli, RunsTheCommands) {
  const Outcome fit = in_folder({"fit", "--trainer.max_epochs", "2", "--data.batches=4", "--seed", "3"});
  EXPECT_EQ(fit.code, 0) << fit.err;
  EXPECT_EQ(fit.steps, 8);
  EXPECT_EQ(fit.epochs, 2);
  for (const char* command : {"validate", "test", "predict"}) {
    const Outcome other = in_folder({command, "--overwrite"});
    EXPECT_EQ(other.code, 0) << other.err;
    EXPECT_EQ(other.steps, 0);
  }
  expect_has(in_folder({"test", "--overwrite"}).text, {"test_loss", "2"});
}

TEST_F(Cli, WithoutOptionsOrLoaders) {
  EXPECT_EQ(run<Bare>({"fit", "--trainer.fast_dev_run"}).steps, 1);
  const Outcome test = run<Bare>({"test", "--trainer.fast_dev_run"});
  EXPECT_EQ(test.code, 2);
  expect_has(test.err, {"test", "test_dataloader"});
}

TEST_F(Cli, LaterOnesWin) {
  const std::string first = file("first.json", R"({"trainer": {"max_epochs": 2, "max_steps": 50}, "seed": 5})");
  const std::string second = file("second.json", R"({"trainer": {"max_epochs": 3}, "data": {"batches": 2}})");
  ::setenv("ANNEAL_TRAINER_MAX_EPOCHS", "7", 1);
  EXPECT_EQ(in_folder({"fit", "--overwrite"}).epochs, 7);
  EXPECT_EQ(in_folder({"fit", "--overwrite", "--config", first}).epochs, 2);
  EXPECT_EQ(in_folder({"fit", "--overwrite", "--config", first, "--config", second}).steps, 6);
  EXPECT_EQ(in_folder({"fit", "--overwrite", "--trainer.max_epochs", "1", "--config", second}).epochs, 1);
  ::unsetenv("ANNEAL_TRAINER_MAX_EPOCHS");
}

TEST_F(Cli, PrintedConfigGivesTheSameOptions) {
  const std::vector<std::string> words{"fit",
                                       "--trainer.limit_train_batches",
                                       "1.0",
                                       "--trainer.max_epochs",
                                       "2",
                                       "--optimizer",
                                       "AdamW",
                                       "--optimizer.lr",
                                       "0.02",
                                       "--lr_scheduler",
                                       "step_lr",
                                       "--lr_scheduler.step_size=4",
                                       "--model.slope",
                                       "2.5",
                                       "--print_config"};
  const Outcome printed = run(words);
  EXPECT_EQ(printed.code, 0) << printed.err;
  EXPECT_EQ(printed.steps, 0);
  expect_has(printed.out,
             {"\"max_epochs\": 2", "\"limit_train_batches\": 1.0", "\"slope\": 2.5", "\"name\": \"AdamW\""});
  const std::string config = file("printed.json", printed.out);
  EXPECT_EQ(run({"fit", "--config", config, "--print_config"}).out, printed.out);
  EXPECT_NE(run({"fit", "--config", config, "--print_config", "--trainer.max_epochs=3"}).out, printed.out);
}

TEST_F(Cli, WhatIsWrongIsSaid) {
  const auto wrong = [&](std::vector<std::string> words, std::initializer_list<std::string> parts) {
    const Outcome outcome = run(std::move(words));
    EXPECT_EQ(outcome.code, 2) << outcome.err;
    expect_has(outcome.err, parts);
  };
  wrong({"fit", "--trainer.max_epoch", "1"}, {"--trainer.max_epoch", "did you mean trainer.max_epochs?"});
  wrong({"fit", "--model.slop", "1"}, {"did you mean model.slope?"});
  wrong({"fit", "--model.slope", "steep"}, {"--model.slope", "a number", "steep"});
  wrong({"train"}, {"command", "fit, validate, test and predict", "train"});
  wrong({"fit", "test"}, {"command"});
  wrong({"--seed", "1"}, {"command", "none"});
  wrong({"fit", "--config", (dir / "none.json").string()}, {"none.json"});
  wrong({"fit", "--config", file("name.json", "{\n \"trainer\": {\n  \"max_steps\": 1,\n  \"max_epoch\": 1}}")},
        {"name.json:4: trainer.max_epoch", "trainer.max_epochs"});
  wrong({"fit", "--config", file("type.json", "{\"model\":\n\n{\"slope\": true}}")},
        {"type.json:3: model.slope", "a number", "true"});
  wrong({"fit", "--config", file("syntax.json", "{\n\"model\": {,}}")}, {"syntax.json", "line 2"});
  wrong({"fit", "--optimizer", "Lion"}, {"optimizer", "AdamW", "Lion"});
  wrong({"fit", "--optimizer.lr", "1"}, {"--optimizer.lr", "--optimizer SGD"});
  wrong({"fit", "--optimizer", "SGD", "--lr_scheduler", "cosine"}, {"lr_scheduler", "cosine_annealing_lr"});
  wrong({"fit", "--trainer.barebones", "--lr_scheduler", "cyclic_lr", "--lr_scheduler.mode", "x"}, {"mode", "x"});
}

TEST_F(Cli, AnExceptionEndsWithOne) {
  const Outcome outcome = in_folder({"fit", "--model.fail", "true"});
  EXPECT_EQ(outcome.code, 1);
  expect_has(outcome.err, {"the step fails"});
}

TEST_F(Cli, ASignalEndsWithItsNumber) {
  for (const int signal : {SIGINT, SIGTERM}) {
    const Outcome outcome = run({"fit", "--trainer.barebones", "--model.signal", std::to_string(signal)});
    EXPECT_EQ(outcome.code, 128 + signal) << outcome.err;
    EXPECT_EQ(outcome.steps, 1);
  }
}

TEST_F(Cli, AnOptimizerInsteadOfTheModules) {
  const Outcome own = run({"fit", "--trainer.barebones"});
  EXPECT_EQ(own.lr, 0.1);
  EXPECT_EQ(own.text.find("optimizer"), std::string::npos);
  const Outcome other =
      run({"fit", "--trainer.barebones", "--optimizer", "SGD", "--optimizer.lr", "0.5", "--lr_scheduler",
           "exponential_lr", "--lr_scheduler.gamma", "0.5", "--lr_scheduler.interval", "step"});
  EXPECT_EQ(other.code, 0) << other.err;
  EXPECT_EQ(other.lr, 0.5 * 0.125);
  expect_has(other.text, {"the optimizer is that of the command line"});
  for (const char* name : {"linear_lr", "polynomial_lr", "cosine_annealing_lr", "cosine_annealing_warm_restarts",
                           "one_cycle_lr", "cyclic_lr", "warmup_cosine", "cosine_lr", "wsd_lr"}) {
    const Outcome run_of = run({"fit", "--trainer.barebones", "--optimizer", "AdamW", "--lr_scheduler", name,
                                "--lr_scheduler.interval", "step"});
    EXPECT_EQ(run_of.code, 0) << name << ": " << run_of.err;
  }
}

TEST_F(Cli, AScheduleForTheModulesOptimizer) {
  const Outcome outcome = run({"fit", "--trainer.barebones", "--data.batches", "5", "--lr_scheduler", "multi_step_lr",
                               "--lr_scheduler.milestones", "[2, 4]", "--lr_scheduler.interval", "step"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NEAR(outcome.lr, 0.1 * 0.01, 1e-12);
  expect_has(outcome.text, {"the schedule is that of the command line"});
}

TEST_F(Cli, ARateThatFollowsAMetric) {
  const auto lr_with = [&](const std::string& monitor) {
    return in_folder({"fit", "--overwrite", "--trainer.max_epochs", "4", "--optimizer", "SGD", "--optimizer.lr", "1",
                      "--lr_scheduler", "plateau", "--lr_scheduler.patience", "1", "--lr_scheduler.factor", "0.5",
                      "--lr_scheduler.monitor", monitor});
  };
  EXPECT_EQ(lr_with("val_loss").lr, 0.5) << "the loss is always 1: the third look lowers the rate";
  const Outcome missing = lr_with("absent");
  EXPECT_EQ(missing.code, 2);
  expect_has(missing.err, {"monitor", "absent"});
}

TEST_F(Cli, MomentumGoesAlongWithTheCycle) {
  const Outcome help = run({"fit", "--help", "--lr_scheduler", "one_cycle_lr"});
  expect_has(help.out, {"--lr_scheduler.cycle_momentum = true", "--lr_scheduler.max_momentum = 0.95"});
}

TEST_F(Cli, TheConfigOfARunIsWrittenAndRepeatsIt) {
  const auto with_files = [&](std::vector<std::string> words, const char* folder) {
    words.insert(words.end(), {"--trainer.default_root_dir", (dir / folder).string()});
    TrainerOptions defaults;
    defaults.logger = CsvLogger({.dir = dir / folder});
    return run(std::move(words), defaults);
  };
  const Outcome first = with_files({"fit", "--model.slope", "2"}, "a");
  ASSERT_EQ(first.code, 0) << first.err;
  const std::string config = (dir / "a/config.json").string();
  const Outcome again = with_files({"fit", "--config", config}, "b");
  EXPECT_EQ(again.weight, first.weight);
  EXPECT_NE(with_files({"fit", "--config", config, "--seed=1"}, "c").weight, first.weight);

  // In the same folder: the same configuration is fine, another one is not.
  EXPECT_EQ(with_files({"fit", "--config", config}, "a").code, 0);
  const Outcome other = with_files({"fit", "--config", config, "--model.slope=3"}, "a");
  EXPECT_EQ(other.code, 2);
  expect_has(other.err, {"overwrite", "config.json"});
  EXPECT_EQ(with_files({"fit", "--config", config, "--model.slope=3", "--overwrite"}, "a").code, 0);
  expect_has(read_text(config), {"\"slope\": 3.0"});

  EXPECT_EQ(with_files({"fit", "--trainer.fast_dev_run"}, "trial").code, 0);
  EXPECT_FALSE(fs::exists(dir / "trial/config.json"));
}

TEST_F(Cli, HelpListsAllOptions) {
  const Outcome help = run({"fit", "--help", "--optimizer", "Adam"});
  EXPECT_EQ(help.code, 0);
  EXPECT_EQ(help.steps, 0);
  expect_has(help.out,
             {"--trainer.max_epochs = ", "--model.slope = 1", "of the loss", "--data.batches = 3",
              "--optimizer.beta2 = 0.999", "--lr_scheduler.name", "--ckpt_path", "--config", "--print_config"});
}

TEST_F(Cli, ResumesFromACheckpoint) {
  const auto train = [&](std::vector<std::string> words) {
    TrainerOptions defaults;
    defaults.logger = CsvLogger({.dir = dir / "run"});
    words.insert(words.end(), {"fit", "--seed=4", "--overwrite"});
    defaults.callbacks = {AtBatchEnd([&](Trainer& trainer, std::int64_t batch) {
      if (batch == 1 && trainer.current_epoch() == 0) trainer.save_checkpoint(dir / "saved");
    })};
    return run(std::move(words), defaults);
  };
  const Outcome whole = train({"--trainer.max_epochs=2"});
  ASSERT_EQ(whole.code, 0) << whole.err;
  const Outcome resumed = train({"--trainer.max_epochs=2", "--ckpt_path", (dir / "saved").string()});
  EXPECT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_EQ(resumed.steps, whole.steps);
  EXPECT_EQ(resumed.weight, whole.weight);
}

}  // namespace
}  // namespace anneal_test
