// Several loaders in an evaluation, predictions, and weights from a checkpoint.
#include <gtest/gtest.h>

#include "anneal/core/autograd.h"
#include "anneal/data/mixup.h"
#include "anneal/tests/trainer/support.h"

namespace anneal_test {
namespace {

using Values = std::vector<double>;

// The spec's example: v from each loader under its own name, w from the first under a shared one, ee at the end.
struct TwoLoaders : Probe {
  TwoLoaders() {
    in_validation_step = [](const Batch& batch, StepContext& step) {
      step.log("v", batch["x"].item() + 10 * static_cast<double>(step.dataloader_idx()));
      if (step.dataloader_idx() == 0) step.log("w", 7, {.add_dataloader_idx = false});
    };
  }
  void on_validation_epoch_end() override { log("ee", 1); }
};

TEST(SeveralLoaders, MetricsHaveTheirNumbers) {
  TwoLoaders module;
  Trainer trainer(quiet({}));
  const auto metrics = trainer.validate(module, {counting_loader(2), counting_loader(3)});
  ASSERT_EQ(metrics.size(), 2U);
  EXPECT_EQ(metrics[0].names(), "v/dataloader_idx_0, w, ee");
  EXPECT_EQ(metrics[0]["v/dataloader_idx_0"], 0.5);
  EXPECT_EQ(metrics[1].names(), "v/dataloader_idx_1, ee");
  EXPECT_EQ(metrics[1]["v/dataloader_idx_1"], 11);
  EXPECT_TRUE(trainer.validate(module, counting_loader(3))[0].contains("v")) << "one has none";
}

TEST(SeveralLoaders, ANameMustNotLookLikeANumberedOne) {
  Probe probe;
  probe.in_test_step = [](const Batch&, StepContext& step) { step.log("a/dataloader_idx_3", 1); };
  Trainer trainer(quiet({}));
  EXPECT_THROW(trainer.test(probe, {counting_loader(1), counting_loader(1)}), Error);
}

TEST(SeveralLoaders, LimitsAreForEachAndBatchesCountAnew) {
  Probe probe;
  std::vector<std::pair<std::int64_t, std::int64_t>> seen;
  probe.in_validation_step = [&](const Batch&, StepContext& step) {
    seen.emplace_back(step.dataloader_idx(), step.batch_idx());
  };
  auto watch = std::make_shared<Watch>();
  std::vector<std::int64_t> numbers;
  LambdaHooks hooks;
  hooks.on_train_start = [&](Trainer& t, TrainingModule&) {
    numbers = {t.num_val_batches(),        t.num_val_batches(0),        t.num_val_batches(1),
               t.num_sanity_val_batches(), t.num_sanity_val_batches(1), t.num_test_batches()};
  };
  hooks.on_test_start = [&](Trainer& t, TrainingModule&) {
    numbers = {t.num_test_batches(), t.num_test_batches(1), t.num_predict_batches()};
  };
  Trainer trainer(quiet({.max_epochs = 1,
                         .limit_val_batches = 3,
                         .limit_test_batches = 1,
                         .num_sanity_val_steps = 1,
                         .callbacks = {watch, LambdaCallback(hooks)}}));
  trainer.fit(probe, counting_loader(2), {counting_loader(5), counting_loader(2)});
  EXPECT_EQ(numbers, (std::vector<std::int64_t>{5, 3, 2, 2, 1, 0}));
  EXPECT_EQ(watch->sanity_batches, 2);
  EXPECT_EQ(watch->val_batches, 5);
  EXPECT_EQ(seen, (std::vector<std::pair<std::int64_t, std::int64_t>>{
                      {0, 0}, {1, 0}, {0, 0}, {0, 1}, {0, 2}, {1, 0}, {1, 1}}));
  trainer.test(probe, {counting_loader(5), counting_loader(2)}, {.verbose = false});
  EXPECT_EQ(watch->test_batches, 2);
  EXPECT_EQ(numbers, (std::vector<std::int64_t>{2, 1, 0}));
}

struct Doubling : Probe {
  Batch predict_step(const Batch& batch, StepContext&) override {
    EXPECT_FALSE(training());
    EXPECT_FALSE(grad_enabled());
    return {{"y", batch["x"] * 2.0}};
  }
};

Values flat(const std::vector<Batch>& predictions) {
  Values values;
  for (const Batch& batch : predictions)
    for (const double v : batch["y"].to_vector()) values.push_back(v);
  return values;
}

TEST(Predict, ReturnsWhatTheStepSays) {
  Doubling module;
  Trainer trainer(quiet({}));
  EXPECT_EQ(flat(trainer.predict(module, counting_loader(2, 2))), (Values{0, 2, 4, 6}));
  EXPECT_TRUE(module.training()) << "modes are restored";
  const auto lists = trainer.predict(module, std::vector{counting_loader(2), counting_loader(3)});
  ASSERT_EQ(lists.size(), 2U);
  EXPECT_EQ(flat(lists[0]), (Values{0, 2}));
  EXPECT_EQ(flat(lists[1]), (Values{0, 2, 4}));
  EXPECT_TRUE(trainer.predict(module, counting_loader(2), {.return_predictions = false}).empty());
  Trainer limited(quiet({.limit_predict_batches = 1}));
  EXPECT_EQ(flat(limited.predict(module, counting_loader(5))), (Values{0}));
  Probe probe;
  EXPECT_TRUE(message_of<ConfigError>([&] {
                trainer.predict(probe, counting_loader(1));
              }).starts_with("predict_step or forward: the module (Probe) does not override it"));
}

TEST(Predict, IsForwardByDefault) {
  struct Tripling : Probe {
    Tensor forward(const Tensor& x) const override { return x * 3.0; }
  } module;
  EXPECT_EQ(flat(Trainer(quiet({})).predict(module, counting_loader(2, 2))), (Values{0, 3, 6, 9}));
}

TEST(Loaders, AreTheModulesOwnWhereNoneAreGiven) {
  struct Own : Doubling {
    DataLoader train_dataloader() override { return counting_loader(3); }
    LoaderSet val_dataloader() override { return counting_loader(2); }
    LoaderSet test_dataloader() override { return {counting_loader(1), counting_loader(4)}; }
    LoaderSet predict_dataloader() override { return counting_loader(2); }
  } module;
  auto watch = std::make_shared<Watch>();
  Trainer trainer(quiet({.max_epochs = 1, .num_sanity_val_steps = 0, .callbacks = {watch}}));
  EXPECT_EQ(trainer.fit(module).global_step, 3);
  EXPECT_EQ(watch->val_batches, 2);
  EXPECT_EQ(trainer.fit(module, counting_loader(5)).global_step, 5);
  EXPECT_EQ(watch->val_batches, 4);
  EXPECT_EQ(trainer.fit(module, counting_loader(5), counting_loader(1)).global_step, 5);
  EXPECT_EQ(watch->val_batches, 5);
  EXPECT_EQ(trainer.validate(module, {.verbose = false}).size(), 1U);
  EXPECT_EQ(trainer.test(module, {.verbose = false}).size(), 2U);
  EXPECT_EQ(flat(trainer.predict(module).at(0)), (Values{0, 2}));
  EXPECT_EQ(trainer.test({.verbose = false}).size(), 2U);

  Probe without;
  EXPECT_TRUE(message_of<ConfigError>([&] { trainer.fit(without); }).starts_with("train_dataloader"));
  EXPECT_TRUE(message_of<ConfigError>([&] { trainer.test(without); }).starts_with("test_dataloader"));
}

TEST(Predict, NothingCanBeLogged) {
  struct Logging : Doubling {
    Batch predict_step(const Batch& batch, StepContext& step) override {
      step.log("a", 1);
      return batch;
    }
  } module;
  EXPECT_THROW(Trainer(quiet({})).predict(module, counting_loader(1)), Error);
}

TEST(Predict, HooksComeInOrder) {
  std::vector<std::string> log;
  const auto note = [&](const char* hook) {
    return [&log, hook](Trainer&, TrainingModule&) { log.emplace_back(hook); };
  };
  LambdaHooks hooks;
  hooks.on_predict_start = note("start");
  hooks.on_predict_epoch_start = note("epoch_start");
  hooks.on_predict_batch_start = [&](Trainer&, TrainingModule&, const Batch&, StepContext&) {
    log.emplace_back("batch_start");
  };
  hooks.on_predict_batch_end = [&](Trainer& trainer, TrainingModule&, const Batch& prediction, const Batch& batch,
                                   StepContext&) {
    EXPECT_EQ(trainer.stage(), Stage::predict);
    EXPECT_EQ(prediction["y"].item(), 2 * batch["x"].item());
    log.emplace_back("batch_end");
  };
  hooks.on_predict_epoch_end = note("epoch_end");
  hooks.on_predict_end = note("end");
  Doubling module;
  Trainer(quiet({.callbacks = {LambdaCallback(hooks)}})).predict(module, counting_loader(1));
  EXPECT_EQ(log, (std::vector<std::string>{"start", "epoch_start", "batch_start", "batch_end", "epoch_end", "end"}));
}

struct Writer : PredictionWriter {
  using PredictionWriter::PredictionWriter;
  std::vector<std::int64_t> of_batches, of_epoch;
  Values values;
  void write_on_batch_end(Trainer&, TrainingModule&, const Batch&, std::span<const std::int64_t> samples, const Batch&,
                          StepContext&) override {
    of_batches.insert(of_batches.end(), samples.begin(), samples.end());
  }
  void write_on_epoch_end(Trainer&, TrainingModule&, const std::vector<std::vector<Batch>>& predictions,
                          const std::vector<std::vector<std::int64_t>>& samples) override {
    of_epoch = samples.at(0);
    values = flat(predictions.at(0));
  }
};

TEST(PredictionWriter, KnowsWhichSamplesWerePredicted) {
  const Tensor x = arange(7).to(DType::f32).reshape({7, 1});
  const DataLoader shuffled(TensorDataset{{"x", x}}, {.batch_size = 3, .shuffle = true, .num_workers = 1, .seed = 5});
  for (const auto interval : {WriteInterval::batch, WriteInterval::epoch, WriteInterval::batch_and_epoch}) {
    auto writer = std::make_shared<Writer>(interval);
    Doubling module;
    Trainer(quiet({.callbacks = {writer}})).predict(module, shuffled, {.return_predictions = false});
    EXPECT_EQ(writer->of_batches.size(), interval == WriteInterval::epoch ? 0U : 7U);
    if (interval == WriteInterval::batch) {
      EXPECT_TRUE(writer->values.empty());
      continue;
    }
    ASSERT_EQ(writer->of_epoch.size(), 7U);
    EXPECT_NE(writer->of_epoch, (std::vector<std::int64_t>{0, 1, 2, 3, 4, 5, 6}));
    for (std::size_t i = 0; i < 7; ++i) EXPECT_EQ(writer->values[i], 2 * static_cast<double>(writer->of_epoch[i]));
  }
  auto writer = std::make_shared<Writer>(WriteInterval::epoch);
  Doubling module;
  Trainer(quiet({.callbacks = {writer}})).predict(module, counting_loader(2, 2));
  EXPECT_EQ(writer->of_epoch, (std::vector<std::int64_t>{0, 1, 2, 3}));
}

TEST(Evaluation, InferenceModeIsOnUnlessWithinAFit) {
  struct Modes : Probe {
    std::vector<std::string> seen;
    void note(const char* where) {
      const GradMode on(true);
      seen.push_back(format("{} {}{}", where, inference_mode_enabled() ? "inference " : "", grad_enabled()));
    }
    void validation_step(const Batch&, StepContext&) override { note("validation"); }
    void test_step(const Batch&, StepContext&) override {
      EXPECT_FALSE(grad_enabled());
      note("test");
    }
    Batch predict_step(const Batch&, StepContext&) override {
      note("predict");
      return {};
    }
  };
  for (const bool inference : {true, false}) {
    Modes module;
    Trainer trainer(quiet({.max_epochs = 1, .num_sanity_val_steps = 0, .inference_mode = inference}));
    trainer.fit(module, counting_loader(1), counting_loader(1));
    trainer.validate(module, counting_loader(1));
    trainer.test(module, counting_loader(1));
    trainer.predict(module, counting_loader(1));
    const std::string in_own = inference ? " inference false" : " true";
    EXPECT_EQ(module.seen, (std::vector<std::string>{"validation true", "validation" + in_own, "test" + in_own,
                                                     "predict" + in_own}));
  }
}

// A check that breaks off leaves no metrics; the next one is whole.
TEST(Evaluation, ACheckCanBeBrokenOff) {
  Probe probe;
  std::vector<std::int64_t> steps;
  std::vector<bool> broke_off;
  probe.in_validation_step = [&](const Batch&, StepContext& step) {
    steps.push_back(step.global_step());
    step.log("v", static_cast<double>(step.global_step()));
    if (step.global_step() == 4 && step.batch_idx() == 1) step.skip_epoch();
  };
  const LambdaCallback at_end({.on_validation_end = [&](Trainer& trainer, TrainingModule&) {
    broke_off.push_back(trainer.check_broke_off());
    EXPECT_EQ(trainer.callback_metrics()["v"], trainer.check_broke_off() ? 2 : trainer.global_step());
  }});
  const auto stopper = std::make_shared<EarlyStopping>(
      EarlyStoppingOptions{.monitor = "v", .patience = 0, .mode = "max", .check_on_train_epoch_end = false});
  Trainer trainer(quiet({.max_epochs = 3, .num_sanity_val_steps = 0, .callbacks = {at_end, stopper}}));
  const FitResult result = trainer.fit(probe, counting_loader(2), counting_loader(3));
  EXPECT_EQ(result.reason, StopReason::max_epochs) << "what was there before is no new value";
  EXPECT_EQ(steps, (std::vector<std::int64_t>{2, 2, 2, 4, 4, 6, 6, 6}));
  EXPECT_EQ(broke_off, (std::vector<bool>{false, true, false}));
  EXPECT_EQ(trainer.num_checks(), 2);
}

TEST(Predict, OneRanksAreGatheredInTheSamplesOrder) {
  Doubling module;
  Trainer trainer(quiet({}));
  const DataLoader shuffled = DataLoader(counting_loader(5).dataset(), {.batch_size = 2, .shuffle = true, .seed = 3});
  const std::vector<Batch> all = trainer.predict(module, shuffled, {.gather = true});
  ASSERT_EQ(all.size(), 1U);
  EXPECT_EQ(all[0]["y"].to_vector(), (Values{0, 2, 4, 6, 8}));
}

TEST(Evaluation, TakesWeightsFromACheckpoint) {
  const TempFolder dir;
  Probe probe;
  TrainerOptions options = quiet({.max_epochs = 2});
  options.enable_checkpointing = true;
  options.callbacks = {ModelCheckpoint({.dirpath = dir.path(), .save_last = true})};
  Trainer trainer(options);
  trainer.fit(probe, counting_loader(2));
  const double trained = probe.weight.item();
  for (const std::string& ckpt : {std::string("best"), std::string("last"), (dir / "last.safetensors").string()}) {
    {
      const NoGrad no_grad;
      probe.weight.fill_(0);
    }
    trainer.validate(probe, counting_loader(1), {.verbose = false, .ckpt = ckpt});
    EXPECT_EQ(probe.weight.item(), trained) << ckpt;
  }
  EXPECT_THROW(trainer.test(probe, counting_loader(1), {.ckpt = "nowhere"}), Error);

  const TempFolder kept;
  Values at_end;
  Probe scored;
  scored.in_validation_step = [](const Batch&, StepContext& step) {
    step.log("val_loss", Values{3, 1, 2}.at(static_cast<std::size_t>(step.current_epoch())));
  };
  options.max_epochs = 3;
  options.callbacks = {ModelCheckpoint({.dirpath = kept.path(), .monitor = "val_loss"}),
                       LambdaCallback({.on_train_epoch_end = [&](Trainer&, TrainingModule&) {
                         at_end.push_back(scored.weight.item());
                       }})};
  Trainer best(options);
  best.fit(scored, counting_loader(2), counting_loader(1));
  best.test(scored, counting_loader(1), {.verbose = false, .ckpt = "best"});
  ASSERT_EQ(at_end.size(), 3U);
  EXPECT_EQ(scored.weight.item(), at_end[1]);
}

TEST(Evaluation, WithoutAModuleIsOfTheFittedOneAtItsBest) {
  const TempFolder dir;
  Values at_end;
  Doubling module;
  module.in_validation_step = [](const Batch&, StepContext& step) {
    step.log("val_loss", Values{3, 1, 2}.at(static_cast<std::size_t>(std::min<std::int64_t>(step.current_epoch(), 2))));
  };
  std::string text;
  TrainerOptions options = quiet({.max_epochs = 3});
  options.enable_checkpointing = true;
  options.callbacks = {ModelCheckpoint({.dirpath = dir.path(), .monitor = "val_loss", .save_last = true}),
                       LambdaCallback({.on_train_epoch_end = [&](Trainer&, TrainingModule&) {
                         at_end.push_back(module.weight.item());
                       }})};
  options.sink = [&](std::string_view line) { text += line; };
  Trainer trainer(options);
  EXPECT_TRUE(message_of<Error>([&] { trainer.test(counting_loader(1)); }).starts_with("test: expected a module"));
  trainer.fit(module, counting_loader(2), counting_loader(1));
  ASSERT_EQ(at_end.size(), 3U);
  trainer.validate(module, counting_loader(1), {.verbose = false});
  EXPECT_EQ(module.weight.item(), at_end[2]) << "one that is given keeps its weights";
  EXPECT_EQ(text.find("best checkpoint"), std::string::npos);
  trainer.test(counting_loader(1), {.verbose = false});
  EXPECT_EQ(module.weight.item(), at_end[1]);
  EXPECT_NE(text.find("test: the module has the weights of its best checkpoint"), std::string::npos) << text;
  trainer.validate(counting_loader(1), {.verbose = false, .ckpt = "last"});
  EXPECT_EQ(module.weight.item(), at_end[2]);
  EXPECT_EQ(flat(trainer.predict(counting_loader(2))), (Values{0, 2}));
  EXPECT_EQ(module.weight.item(), at_end[1]);

  Trainer keeps_none(quiet({.max_epochs = 1}));
  keeps_none.fit(module, counting_loader(2), counting_loader(1));
  const double own = module.weight.item();
  keeps_none.test(counting_loader(1), {.verbose = false});
  EXPECT_EQ(module.weight.item(), own);
}

// T-685
TEST(MixUp, LeavesEvaluationsAlone) {
  struct Mixing : Probe {
    std::vector<bool> mixed_in_training, mixed_in_evaluation;
    MixUp mixup{0.4};
    void on_after_batch_transfer(Batch& batch) override {
      if (training()) mixup(batch);
    }
    Tensor training_step(const Batch& batch, StepContext& step) override {
      mixed_in_training.push_back(batch.contains("mix_weight"));
      return Probe::training_step(batch, step);
    }
    void validation_step(const Batch& batch, StepContext&) override {
      mixed_in_evaluation.push_back(batch.contains("mix_weight"));
    }
  } module;
  const DataLoader loader(TensorDataset{{"x", ones({4, 1})}, {"y", arange(4)}}, {.batch_size = 2});
  Trainer trainer(quiet({.max_epochs = 1, .val_check_interval = 1}));
  trainer.fit(module, loader, loader);
  trainer.validate(module, loader, {.verbose = false});
  EXPECT_EQ(module.mixed_in_training, std::vector<bool>(2, true));
  EXPECT_EQ(module.mixed_in_evaluation, std::vector<bool>(8, false)) << "the sanity check, two checks, and validate";
}

}  // namespace
}  // namespace anneal_test
