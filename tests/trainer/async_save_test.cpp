// ModelCheckpoint's async_save: row T-523.
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <thread>

#include "anneal/tests/trainer/support.h"
#include "anneal/trainer/checkpoint.h"
#include "anneal/trainer/plugin.h"

namespace anneal_test {
namespace {

using Texts = std::vector<std::string>;

// A function around each save.
struct Watched : CheckpointIO {
  explicit Watched(std::function<void()> before_save) : before_save(std::move(before_save)) {}
  std::function<void()> before_save;
  void save(const fs::path& path, const Checkpoint& checkpoint) override {
    before_save();
    CheckpointIO::save(path, checkpoint);
  }
};

// Two epochs of six batches, each with a check that logs its number as val_loss.
std::shared_ptr<ModelCheckpoint> fit(ModelCheckpointOptions checkpoint, TrainerOptions options = {}) {
  const auto files = std::make_shared<ModelCheckpoint>(checkpoint);
  options = quiet(options);
  options.enable_checkpointing = true;
  options.max_epochs = 2;
  options.num_sanity_val_steps = 0;
  options.callbacks.push_back(files);
  Probe probe;
  double checks = 0;
  probe.in_validation_step = [&](const Batch&, StepContext& step) { step.log("val_loss", checks++); };
  Trainer(options).fit(probe, counting_loader(6), counting_loader(1));
  return files;
}

TEST(AsyncSave, LeavesTheSameFiles) {
  for (const ModelCheckpointOptions& options : {ModelCheckpointOptions{.save_top_k = -1, .every_n_train_steps = 1},
                                                {.monitor = "val_loss", .save_top_k = 1, .save_last = true},
                                                {.save_last = "link", .every_n_train_steps = 2},
                                                {.save_top_k = 0, .save_last = true, .save_weights_only = true}}) {
    const TempFolder now, later;
    ModelCheckpointOptions o = options;
    o.dirpath = now.path();
    const auto expected = fit(o);
    o.dirpath = later.path();
    o.async_save = true;
    const auto files = fit(o);
    EXPECT_EQ(stems(later.path()), stems(now.path()));
    EXPECT_EQ(files->best_model_path().filename(), expected->best_model_path().filename());
    EXPECT_EQ(fs::is_symlink(later / "last.safetensors"), fs::is_symlink(now / "last.safetensors"));
    for (const std::string& name : stems(now.path())) {
      const Checkpoint a = load_checkpoint(now / (name + ".safetensors"));
      const Checkpoint b = load_checkpoint(later / (name + ".safetensors"));
      EXPECT_EQ(a.counters.global_step, b.counters.global_step) << name;
      EXPECT_EQ(a.model[0].tensor.item(), b.model[0].tensor.item()) << name << " has the weights of its step";
    }
  }
}

TEST(AsyncSave, TrainingGoesOnMeanwhile) {
  const TempFolder dir;
  std::promise<void> trained;
  std::future<void> until_trained = trained.get_future();
  bool was_trained = false, elsewhere = false;
  int saves = 0;
  const std::thread::id own = std::this_thread::get_id();
  const auto io = std::make_shared<Watched>([&] {
    elsewhere = std::this_thread::get_id() != own;
    if (saves++ == 0) was_trained = until_trained.wait_for(std::chrono::seconds(20)) == std::future_status::ready;
  });
  const AtBatchEnd release([&](Trainer& trainer, std::int64_t) {
    if (trainer.global_step() == 4) trained.set_value();
  });
  fit({.dirpath = dir.path(), .save_top_k = -1, .every_n_train_steps = 3, .async_save = true},
      {.callbacks = {release}, .plugins = {io}});
  EXPECT_TRUE(was_trained);
  EXPECT_TRUE(elsewhere);
  EXPECT_EQ(saves, 4);
}

TEST(AsyncSave, OneAtATimeAndAllBeforeFitReturns) {
  const TempFolder dir;
  std::atomic<int> running = 0, most = 0, saves = 0;
  const auto io = std::make_shared<Watched>([&] {
    most = std::max(most.load(), ++running);
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
    --running;
    ++saves;
  });
  fit({.dirpath = dir.path(), .save_top_k = -1, .save_last = true, .every_n_train_steps = 1, .async_save = true},
      {.plugins = {io}});
  EXPECT_EQ(most, 1);
  EXPECT_EQ(saves, 24);
  EXPECT_EQ(stems(dir.path()).size(), 13U);
}

TEST(AsyncSave, AFailureCountsAsTheSaves) {
  const TempFolder dir;
  int saves = 0;
  const auto io = std::make_shared<Watched>([&] {
    if (++saves == 2) throw Error("the disk is full");
  });
  const ModelCheckpointOptions options{
      .dirpath = dir.path(), .filename = "{step}", .every_n_train_steps = 4, .async_save = true};
  EXPECT_EQ(message_of<Error>([&] { fit(options, {.plugins = {io}}); }), "the disk is full");

  saves = 0;
  const TempFolder second;
  ModelCheckpointOptions elsewhere = options;
  elsewhere.dirpath = second.path();
  const auto files = fit(elsewhere, {.plugins = {io}, .on_save_error = "warn"});
  EXPECT_EQ(stems(second.path()), Texts{"step=12"});
  EXPECT_EQ(files->best_model_path().stem(), "step=12");
  EXPECT_EQ(files->best_k_models().size(), 1U);
}

// What a failing run has begun to write is whole.
TEST(AsyncSave, AnExceptionWaitsForTheFile) {
  const TempFolder dir;
  const AtBatchEnd fail([](Trainer& trainer, std::int64_t) {
    if (trainer.global_step() == 5) throw Error("enough");
  });
  const auto io = std::make_shared<Watched>([] { std::this_thread::sleep_for(std::chrono::milliseconds(5)); });
  EXPECT_EQ(message_of<Error>([&] {
              fit({.dirpath = dir.path(), .every_n_train_steps = 4, .async_save = true},
                  {.callbacks = {fail}, .plugins = {io}});
            }),
            "enough");
  EXPECT_EQ(load_checkpoint(dir / "epoch=0-step=4.safetensors").counters.global_step, 4);
}

}  // namespace
}  // namespace anneal_test
