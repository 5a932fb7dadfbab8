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
  EXPECT_EQ(run.fit(1, "last", &text).global_step, 2);
  EXPECT_NE(text.find("there is no last checkpoint"), std::string::npos);
  // A damaged newest file is passed over; there is no older one.
  anneal::testing::write_file(run.dir / "anneal_logs/version_0/checkpoints/last.safetensors", "damaged");
  text.clear();
  EXPECT_EQ(run.fit(2, "last", &text).global_step, 4);
  EXPECT_NE(text.find("passed over"), std::string::npos);
  EXPECT_THROW(run.fit(2, "best"), Error);

  auto files = std::make_shared<ModelCheckpoint>(ModelCheckpointOptions{.dirpath = run.dir / "own"});
  TrainerOptions options = quiet({.max_epochs = 2, .callbacks = {files}});
  options.enable_checkpointing = true;
  Trainer trainer(options);
  trainer.fit(run.probe, counting_loader(2));
  EXPECT_EQ(trainer.fit(run.probe, counting_loader(2), {.resume = "best"}).global_step, 4);
  EXPECT_EQ(trainer.resumed_from(), files->best_model_path());
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

TEST(Resume, TheCheckpointsLearningRateWins) {
  Trained run;
  run.fit(1, "");
  struct Faster : Probe {
    OptimizerConfig configure_optimizers() override { return {optim::SGD(parameters(), {.lr = 100})}; }
  } faster;
  const std::string path = (run.dir / "anneal_logs/version_0/checkpoints/last.safetensors").string();
  Trainer trainer(quiet({.max_epochs = 2}));
  trainer.fit(faster, counting_loader(2), {.resume = path});
  EXPECT_EQ(trainer.optimizer()->lr(), 0.1);
}

}  // namespace
}  // namespace anneal_test
