// A resumed run is the undisturbed one to the bit: rows C-156 to C-163.
#include <gtest/gtest.h>

#include "anneal/tests/trainer/support.h"
#include "anneal/trainer/checkpoint.h"

namespace anneal_test {
namespace {

// Everything that has state: dropout, batch norm, momentum, a schedule, metrics of both levels.
struct Model : TrainingModule {
  nn::Sequential net{{this, "net"}, nn::Linear(4, 8), nn::BatchNorm1d(8),
                     nn::ReLU(),    nn::Dropout(0.3), nn::Linear(8, 1)};
  std::int64_t seen = 0;

  Tensor training_step(const Batch& batch, StepContext& step) override {
    ++seen;
    const Tensor loss = mse_loss(net(batch["x"]), batch["y"]);
    step.log("loss", loss, {.on_step = true, .on_epoch = true});
    return loss;
  }
  void validation_step(const Batch& batch, StepContext& step) override {
    step.log("val_loss", mse_loss(net(batch["x"]), batch["y"]) + rand({}));
  }
  OptimizerConfig configure_optimizers() override {
    return {optim::AdamW(parameters(), {.lr = 1e-2}), optim::cosine_annealing_lr(20), Interval::step};
  }
  void on_save_checkpoint(Checkpoint& checkpoint) override { checkpoint.user["seen"] = seen; }
  void on_load_checkpoint(Checkpoint& checkpoint) override {
    seen = std::get<std::int64_t>(checkpoint.user.at("seen"));
  }
};

DataLoader loader(int workers, std::int64_t n = 20) {
  Generator generator(9);
  const Tensor x = randn({n, 4}, {}, generator), y = randn({n, 1}, {}, generator);
  return DataLoader(TensorDataset{{"x", x}, {"y", y}},
                    {.batch_size = 4, .shuffle = true, .num_workers = workers, .seed = 4});
}

struct Result {
  StateDict weights;
  std::string csv;
  std::vector<std::string> files;
  std::int64_t seen;
};

Result read_result(const fs::path& dir, Model& model) {
  return {model.state_dict(), read_text(dir / "anneal_logs/version_0/metrics.csv"),
          stems(dir / "anneal_logs/version_0/checkpoints"), model.seen};
}

void expect_same(const Result& a, const Result& b, const std::string& what) {
  ASSERT_EQ(a.weights.size(), b.weights.size());
  for (std::size_t i = 0; i < a.weights.size(); ++i)
    EXPECT_EQ(a.weights[i].tensor.to_vector(), b.weights[i].tensor.to_vector()) << what << ": " << a.weights[i].name;
  EXPECT_EQ(a.csv, b.csv) << what;
  EXPECT_EQ(a.files, b.files) << what;
  EXPECT_EQ(a.seen, b.seen) << what;
}

TrainerOptions options(const fs::path& dir, std::int64_t accumulate) {
  return {.max_epochs = 2,
          .val_check_interval = 2,
          .log_every_n_steps = 1,
          .accumulate_grad_batches = accumulate,
          .callbacks = {ModelCheckpoint({.monitor = "val_loss", .save_top_k = 2})},
          .enable_progress_bar = false,
          .default_root_dir = dir,
          .seed = 11,
          .sink = [](std::string_view) {}};
}

Result undisturbed(std::int64_t accumulate) {
  const TempFolder dir;
  manual_seed(2);
  Model model;
  Trainer(options(dir.path(), accumulate)).fit(model, loader(0), loader(0, 6));
  return read_result(dir.path(), model);
}

// Saves in a hook, goes on for a while, dies; then a new model and a new Trainer go on from the file.
template <class Killer>
Result interrupted(std::int64_t accumulate, int workers, Killer killer) {
  const TempFolder dir;
  {
    manual_seed(2);
    Model model;
    TrainerOptions first = options(dir.path(), accumulate);
    killer.path = dir / "stop";
    first.callbacks.push_back(killer);
    Trainer trainer(first);
    EXPECT_THROW(trainer.fit(model, loader(workers), loader(workers, 6)), std::runtime_error);
  }
  manual_seed(77);
  Model model;
  Trainer(options(dir.path(), accumulate))
      .fit(model, loader(workers), loader(workers, 6), {.resume = (dir / "stop").string()});
  return read_result(dir.path(), model);
}

// Saves at the end of batch `at` of the run and dies two batches later, or at the end of the epoch.
struct KillAtBatch : Callback {
  std::int64_t at = 0;
  fs::path path = {};
  void on_train_batch_end(Trainer& trainer, TrainingModule&, const Tensor&, const Batch&, StepContext&) override {
    if (trainer.total_batch_idx() == at) trainer.save_checkpoint(path);
    if (trainer.total_batch_idx() == at + 2) throw std::runtime_error("killed");
  }
  void on_train_end(Trainer&, TrainingModule&) override { throw std::runtime_error("killed"); }
};

TEST(Resume, AfterAnyBatch) {
  for (const std::int64_t accumulate : {1, 3}) {
    const Result whole = undisturbed(accumulate);
    for (std::int64_t at = 0; at < 10; ++at) {
      KillAtBatch killer;
      killer.at = at;
      expect_same(interrupted(accumulate, at % 2 == 0 ? 0 : 2, killer), whole,
                  format("batch {}, window {}", at, accumulate));
    }
  }
}

// The same from other hooks, `skip` calls after the first.
template <int Which>
struct KillAtHook : Callback {
  int skip = 0;
  fs::path path = {};
  bool saved = false;
  void act(Trainer& trainer) {
    if (trainer.stage() == Stage::fit && skip-- == 0) {
      trainer.save_checkpoint(path);
      saved = true;
    }
  }
  bool monitors() const override { return Which == 1; }
  void on_train_epoch_start(Trainer& t, TrainingModule&) override {
    if (Which == 2) act(t);
  }
  void on_train_batch_start(Trainer& t, TrainingModule&, const Batch&, StepContext&) override {
    if (Which == 3) act(t);
  }
  void on_train_epoch_end(Trainer& t, TrainingModule&) override {
    if (Which <= 1) act(t);
  }
  void on_validation_start(Trainer& t, TrainingModule&) override {
    if (Which == 4) act(t);
  }
  void on_validation_batch_end(Trainer& t, TrainingModule&, const Batch&, StepContext&) override {
    if (Which == 5) act(t);
  }
  void on_validation_end(Trainer& t, TrainingModule&) override {
    if (Which == 6) act(t);
  }
  void on_before_zero_grad(Trainer&, TrainingModule&, optim::Optimizer&) override {
    if (saved) throw std::runtime_error("killed");
  }
  void on_train_end(Trainer&, TrainingModule&) override { throw std::runtime_error("killed"); }
};

template <int Which>
void kill_at_hook(const Result& whole, std::int64_t accumulate, int calls) {
  for (int skip = 0; skip < calls; ++skip) {
    KillAtHook<Which> killer;
    killer.skip = skip;
    Result result = interrupted(accumulate, 0, killer);
    // ModelCheckpoint comes after the killer and so misses the check whose end was saved.
    if (Which == 6) result.files = whole.files;
    expect_same(result, whole, format("hook {}, call {}, window {}", Which, skip, accumulate));
  }
}

TEST(Resume, FromAnyHook) {
  for (const std::int64_t accumulate : {1, 2}) {
    const Result whole = undisturbed(accumulate);
    kill_at_hook<0>(whole, accumulate, 2);
    kill_at_hook<1>(whole, accumulate, 2);
    kill_at_hook<2>(whole, accumulate, 2);
    kill_at_hook<3>(whole, accumulate, 4);
    kill_at_hook<4>(whole, accumulate, 3);
    kill_at_hook<5>(whole, accumulate, 3);
    kill_at_hook<6>(whole, accumulate, 4);
  }
}

struct Trained {
  TempFolder dir;
  Probe probe;
  FitResult fit(std::int64_t max_epochs, const std::string& resume, std::string* text = nullptr) {
    Trainer trainer({.max_epochs = max_epochs,
                     .callbacks = {ModelCheckpoint({.save_last = true})},
                     .enable_progress_bar = false,
                     .default_root_dir = dir.path(),
                     .seed = 1,
                     .sink = [=](std::string_view line) {
                       if (text) *text += line;
                     }});
    return trainer.fit(probe, counting_loader(2), {.resume = resume});
  }
};

TEST(Resume, AStepLimitIsAbsoluteToo) {
  Trained run;
  run.fit(3, "");
  const FitOptions from{.resume = (run.dir / "anneal_logs/version_0/checkpoints/last.safetensors").string()};
  const auto steps = [&](std::int64_t max_steps) {
    return Trainer(quiet({.max_steps = max_steps})).fit(run.probe, counting_loader(2), from).global_step;
  };
  EXPECT_TRUE(message_of<ConfigError>([&] { steps(5); }).starts_with("max_steps: expected at least the 6"));
  EXPECT_EQ(steps(6), 6);
  EXPECT_EQ(steps(7), 7);
}

TEST(Resume, LimitsAreAbsolute) {
  Trained run;
  run.fit(3, "");
  EXPECT_TRUE(message_of<ConfigError>([&] { run.fit(1, "last"); }).starts_with("max_epochs"));
  EXPECT_EQ(run.fit(3, "last").global_step, 6);
  EXPECT_EQ(run.fit(4, "last").global_step, 8);
  EXPECT_EQ(stems(run.dir / "anneal_logs"), std::vector<std::string>{"version_0"});
}

TEST(Resume, LastAndBest) {
  Trained run;
  std::string text;
  EXPECT_NE(message_of<Error>([&] { run.fit(1, "best"); }).find("no best checkpoint"), std::string::npos);
  EXPECT_EQ(run.fit(1, "last", &text).global_step, 2);
  EXPECT_NE(text.find("there is no last checkpoint"), std::string::npos);
  // A damaged newest file is passed over; there is no older one.
  anneal::testing::write_file(run.dir / "anneal_logs/version_0/checkpoints/last.safetensors", "damaged");
  text.clear();
  EXPECT_EQ(run.fit(2, "last", &text).global_step, 4);
  EXPECT_NE(text.find("passed over"), std::string::npos);
  text.clear();
  EXPECT_EQ(run.fit(3, "best", &text).global_step, 6) << "which the last file of another Trainer tells";
  EXPECT_EQ(text.find("resume"), std::string::npos) << text;

  auto files = std::make_shared<ModelCheckpoint>(ModelCheckpointOptions{.dirpath = run.dir / "own"});
  TrainerOptions options = quiet({.max_epochs = 2, .callbacks = {files}});
  options.enable_checkpointing = true;
  Trainer trainer(options);
  trainer.fit(run.probe, counting_loader(2));
  EXPECT_EQ(trainer.fit(run.probe, counting_loader(2), {.resume = "best"}).global_step, 4);
  EXPECT_EQ(trainer.resumed_from(), files->best_model_path());

  const auto error = [&](const std::string& resume) {
    return message_of<Error>([&] { Trainer(quiet()).fit(run.probe, counting_loader(2), {.resume = resume}); });
  };
  EXPECT_NE(error("best").find("there is no ModelCheckpoint"), std::string::npos);
  EXPECT_NE(error("hpc").find("preempted"), std::string::npos);
}

// T-548
TEST(Resume, BatchesOfAnotherSizeGoOnAfterAsManySamples) {
  const TempFolder dir;
  Probe probe;
  std::vector<std::int64_t> seen;
  probe.in_training_step = [&](const Batch&, StepContext& step) {
    for (const std::int64_t sample : step.samples()) seen.push_back(sample);
  };
  const auto loader_of = [](std::int64_t batch_size) {
    return DataLoader(TensorDataset{{"x", zeros({12, 1})}}, {.batch_size = batch_size, .shuffle = true, .seed = 4});
  };
  for (const std::int64_t saved_at : {1, 3, 5}) {
    seen.clear();
    TrainerOptions options = quiet({.max_epochs = 1, .callbacks = {AtBatchEnd([&](Trainer& trainer, std::int64_t i) {
                                                       if (i == saved_at) {
                                                         trainer.save_checkpoint(dir / "a");
                                                         throw Error("enough");
                                                       }
                                                     })}});
    EXPECT_THROW(Trainer(options).fit(probe, loader_of(2)), Error);
    const FitResult result =
        Trainer(quiet({.max_epochs = 2})).fit(probe, loader_of(4), {.resume = (dir / "a").string()});
    EXPECT_EQ(result.global_step, saved_at + 1 + (12 - 2 * (saved_at + 1)) / 4 + 3);
    ASSERT_EQ(seen.size(), 24U) << saved_at;
    for (const std::int64_t epoch : {0, 12}) {
      std::vector<std::int64_t> of_epoch(seen.begin() + epoch, seen.begin() + epoch + 12);
      std::ranges::sort(of_epoch);
      for (std::int64_t i = 0; i < 12; ++i) EXPECT_EQ(of_epoch[static_cast<std::size_t>(i)], i) << saved_at;
    }
  }
}

// T-532
TEST(Resume, CallbacksWithoutAKeyFindTheirOwnState) {
  struct Count : Callback {
    explicit Count(std::int64_t from) : batches(from) {}
    std::int64_t batches;
    void on_train_batch_end(Trainer&, TrainingModule&, const Tensor&, const Batch&, StepContext&) override {
      ++batches;
    }
    StateMap state() const override { return {{"batches", batches}}; }
    void load_state(const StateMap& state) override { batches = std::get<std::int64_t>(state.at("batches")); }
  };
  const TempFolder dir;
  const auto run = [&](std::int64_t epochs, const std::string& resume) {
    const auto a = std::make_shared<Count>(0), b = std::make_shared<Count>(100);
    Trainer trainer(quiet({.max_epochs = epochs, .callbacks = {a, LambdaCallback({}), b}}));
    Probe probe;
    trainer.fit(probe, counting_loader(2), {.resume = resume});
    trainer.save_checkpoint(dir / "a");
    return std::pair(a->batches, b->batches);
  };
  run(1, "");
  std::vector<std::string> keys;
  for (const auto& entry : load_checkpoint(dir / "a").callbacks) keys.push_back(entry.first);
  EXPECT_EQ(keys, (std::vector<std::string>{"Count", "Count 2"}));
  EXPECT_EQ(run(3, (dir / "a").string()), (std::pair<std::int64_t, std::int64_t>(6, 106)));
}

TEST(Resume, AnotherOptimizerOrModelIsRefused) {
  Trained run;
  run.fit(1, "");
  struct Other : Probe {
    OptimizerConfig configure_optimizers() override { return {optim::AdamW(parameters())}; }
  } other;
  struct More : Probe {
    nn::Parameter second{{this, "second"}, zeros({1})};
  } more;
  const std::string path = (run.dir / "anneal_logs/version_0/checkpoints/last.safetensors").string();
  const auto resume = [&](auto& module) {
    return message_of<Error>(
        [&] { Trainer(quiet({.max_epochs = 2})).fit(module, counting_loader(2), {.resume = path}); });
  };
  EXPECT_NE(resume(other).find("SGD"), std::string::npos);
  EXPECT_NE(resume(more).find("second"), std::string::npos);
}

// T-546
TEST(Resume, OtherGroupsAreNamed) {
  struct Model : TrainingModule {
    nn::Parameter a{{this, "a"}, zeros({1})}, b{{this, "b"}, zeros({1})}, c{{this, "c"}, zeros({1})};
    std::vector<std::vector<std::string>> groups;

    Tensor training_step(const Batch& batch, StepContext&) override { return sum(a * b + c) * mean(batch["x"]); }
    OptimizerConfig configure_optimizers() override {
      std::vector<optim::ParamGroup<optim::SGDOptions>> made;
      for (const auto& names : groups) {
        auto& group = made.emplace_back();
        for (const NamedTensor& p : parameters())
          if (std::ranges::find(names, p.name) != names.end()) group.parameters.push_back(p);
      }
      if (made.empty()) return {};
      return {optim::SGD(made)};
    }
  };
  const TempFolder dir;
  Model saved;
  saved.groups = {{"a", "b"}, {"c"}};
  Trainer trainer(quiet({.max_epochs = 1}));
  trainer.fit(saved, counting_loader(2));
  trainer.save_checkpoint(dir / "a");
  const auto error = [&](std::vector<std::vector<std::string>> groups) {
    Model module;
    module.groups = std::move(groups);
    return message_of<Error>(
        [&] { Trainer(quiet({.max_epochs = 2})).fit(module, counting_loader(2), {.resume = (dir / "a").string()}); });
  };
  EXPECT_EQ(error({{"a", "b"}, {"c"}}), "");
  EXPECT_EQ(error({{"a"}, {"b", "c"}}),
            "resume: group 0 of the checkpoint's optimizer has 2 parameters, the module's 1");
  EXPECT_EQ(error({{"a", "c"}, {"b"}}), "resume: group 0 of the checkpoint's optimizer has b where the module's has c");
  EXPECT_EQ(error({{"a", "b", "c"}}),
            "resume: the checkpoint's optimizer is SGD with 2 groups, the module's is SGD with 1");
  EXPECT_EQ(error({}), "resume: the checkpoint has 1 optimizers, the module has 0");
}

TEST(Resume, TheCheckpointsLearningRateWins) {
  Trained run;
  run.fit(1, "");
  struct Faster : Probe {
    OptimizerConfig configure_optimizers() override { return {optim::SGD(parameters(), {.lr = 100})}; }
  } faster;
  const std::string path = (run.dir / "anneal_logs/version_0/checkpoints/last.safetensors").string();
  std::string text;
  TrainerOptions options = quiet({.max_epochs = 2});
  options.sink = [&](std::string_view line) { text += line; };
  Trainer trainer(options);
  trainer.fit(faster, counting_loader(2), {.resume = path});
  EXPECT_EQ(trainer.optimizer()->lr(), 0.1);
  EXPECT_NE(text.find("the learning rate in the code differs from the checkpoint's"), std::string::npos) << text;
}

}  // namespace
}  // namespace anneal_test
