// Which of several files `resume` means: row T-542.
#include <gtest/gtest.h>

#include "anneal/tests/trainer/support.h"
#include "anneal/trainer/checkpoint.h"

namespace anneal_test {
namespace {

TEST(FindCheckpoint, LastIsTheFileOfMostSteps) {
  const TempFolder dir;
  Probe probe;
  Trainer source(quiet({.max_epochs = 1}));
  source.fit(probe, counting_loader(1));
  source.save_checkpoint(dir / "any");
  Checkpoint checkpoint = load_checkpoint(dir / "any");
  const auto write = [&](const fs::path& path, std::int64_t steps, int age) {
    checkpoint.counters.global_step = steps;
    fs::create_directories(path.parent_path());
    save_checkpoint(path, checkpoint);
    fs::last_write_time(path, fs::file_time_type::clock::now() - std::chrono::hours(age));
  };
  const auto last = [&] {
    TrainerOptions options = quiet({.callbacks = {ModelCheckpoint(), OnExceptionCheckpoint()}});
    options.enable_checkpointing = true;
    options.logger = CsvLogger({.save_dir = dir.path()});
    options.default_root_dir = dir.path();
    Trainer trainer(options);
    trainer.validate(probe, counting_loader(1), {.verbose = false, .ckpt = "last"});
    return fs::relative(trainer.resumed_from(), dir.path()).replace_extension().string();
  };
  const fs::path logs = dir / "anneal_logs";
  write(logs / "version_9/checkpoints/last.safetensors", 5, 1);
  EXPECT_EQ(last(), "anneal_logs/version_9/checkpoints/last");
  write(logs / "version_10/checkpoints/last.safetensors", 1, 9);
  EXPECT_EQ(last(), "anneal_logs/version_10/checkpoints/last") << "the newest version";
  write(logs / "version_10/checkpoints/last-v1.safetensors", 2, 10);
  EXPECT_EQ(last(), "anneal_logs/version_10/checkpoints/last-v1");
  write(logs / "version_10/checkpoints/last-v2.safetensors", 2, 9);
  EXPECT_EQ(last(), "anneal_logs/version_10/checkpoints/last-v2") << "the newer of equals";
  write(logs / "version_10/checkpoints/on_exception.safetensors", 3, 11);
  EXPECT_EQ(last(), "anneal_logs/version_10/checkpoints/on_exception");
  write(dir / "preempt-7.safetensors", 4, 12);
  EXPECT_EQ(last(), "preempt-7");
  // What is damaged is passed over.
  anneal::testing::write_file(dir / "preempt-7.safetensors", "damaged");
  EXPECT_EQ(last(), "anneal_logs/version_10/checkpoints/on_exception");
  anneal::testing::write_file(logs / "version_10/checkpoints/on_exception.safetensors", "damaged");
  EXPECT_EQ(last(), "anneal_logs/version_10/checkpoints/last-v2");
  for (const char* name : {"last", "last-v1", "last-v2"})
    anneal::testing::write_file(logs / "version_10/checkpoints" / (std::string(name) + ".safetensors"), "damaged");
  EXPECT_EQ(last(), "anneal_logs/version_9/checkpoints/last");
}

}  // namespace
}  // namespace anneal_test
