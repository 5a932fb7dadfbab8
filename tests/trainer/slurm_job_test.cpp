// A Slurm job that is preempted: its signal, its checkpoint, scontrol, and the run that goes on. Row T-255.
#include "anneal/trainer/slurm_job.h"

#include <gtest/gtest.h>

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <map>

#include "anneal/tests/trainer/support.h"
#include "anneal/trainer/signals.h"

#if ANNEAL_HAS_GLOO
#include "anneal/tests/dist/spawn_ranks.h"
#endif

namespace anneal_test {
namespace {

// The variables of job 77, and a scontrol that notes its arguments and ends with `code`.
class SlurmRun : public ::testing::Test {
 protected:
  void SetUp() override {
    set("SLURM_JOB_ID", "77");
    give_scontrol(0);
    set("PATH", dir_.path().string() + ":" + std::getenv("PATH"));
  }
  void TearDown() override {
    for (const auto& [name, value] : before_)
      value ? ::setenv(name.c_str(), value->c_str(), 1) : ::unsetenv(name.c_str());
  }

  void set(const std::string& name, const std::string& value) {
    const char* const old = std::getenv(name.c_str());
    before_.try_emplace(name, old ? std::optional<std::string>(old) : std::nullopt);
    ::setenv(name.c_str(), value.c_str(), 1);
  }
  void give_scontrol(int code) {
    std::ofstream(dir_ / "scontrol") << "#!/bin/sh\necho \"$@\" >> '" << noted().string() << "'\nexit " << code << "\n";
    fs::permissions(dir_ / "scontrol", fs::perms::owner_all);
  }
  fs::path noted() const { return dir_ / "noted"; }
  fs::path checkpoint(const std::string& id = "77") const { return dir_ / ("preempt-" + id + ".safetensors"); }
  TrainerOptions options(TrainerOptions given = {}) const {
    given = quiet(std::move(given));
    given.max_epochs = 2;
    given.accumulate_grad_batches = 3;
    given.default_root_dir = dir_.path();
    return given;
  }

 private:
  TempFolder dir_;
  std::map<std::string, std::optional<std::string>> before_;
};

// Raises signals in the training step of one batch.
struct Preempted : Probe {
  explicit Preempted(std::int64_t at, std::vector<int> signals = {SIGUSR1}) {
    in_training_step = [at, signals](const Batch&, StepContext& step) {
      if (step.trainer().total_batch_idx() != at) return;
      for (const int signal : signals) std::raise(signal);
    };
  }
};

double weight_of(const Probe& module) { return module.weight.item(); }

TEST_F(SlurmRun, GoesOnWhereItWasPreempted) {
  Probe undisturbed;
  Trainer(options()).fit(undisturbed, counting_loader(5));
  EXPECT_FALSE(fs::exists(checkpoint()));
  for (const std::int64_t at : {0, 1, 4, 7}) {
    fs::remove(noted());
    Preempted module(at);
    const FitResult ended = Trainer(options()).fit(module, counting_loader(5));
    EXPECT_EQ(ended.reason, StopReason::signal);
    EXPECT_EQ(ended.signal, SIGUSR1);
    EXPECT_EQ(read_text(noted()), "requeue 77\n");
    EXPECT_TRUE(fs::exists(checkpoint()));
    Probe again;
    EXPECT_EQ(Trainer(options()).fit(again, counting_loader(5)).reason, StopReason::max_epochs);
    EXPECT_EQ(weight_of(again), weight_of(undisturbed)) << at;
    EXPECT_FALSE(fs::exists(checkpoint())) << "a run that has ended leaves nothing to go on from";
  }
}

// T-542
TEST_F(SlurmRun, ItsFileIsFoundByName) {
  Probe undisturbed;
  Trainer(options()).fit(undisturbed, counting_loader(5));
  Preempted module(4);
  Trainer(options()).fit(module, counting_loader(5));
  for (const char* name : {"preempt", "hpc", "last"}) {
    Probe again;
    Trainer trainer(options({.requeue = false}));
    trainer.fit(again, counting_loader(5), {.resume = name});
    EXPECT_EQ(trainer.resumed_from(), checkpoint());
    EXPECT_EQ(weight_of(again), weight_of(undisturbed)) << name;
  }
  fs::copy_file(checkpoint(), checkpoint("78"));
  Probe again;
  Trainer trainer(options());
  trainer.fit(again, counting_loader(5), {.resume = "preempt"});
  EXPECT_EQ(trainer.resumed_from(), checkpoint()) << "not another job's, which is newer";
}

TEST_F(SlurmRun, SavesInPeace) {
  set("SLURM_ARRAY_JOB_ID", "5");
  set("SLURM_ARRAY_TASK_ID", "3");
  Preempted module(1, {SIGUSR1, SIGTERM, SIGUSR1});
  Trainer(options()).fit(module, counting_loader(5));
  EXPECT_EQ(read_text(noted()), "requeue 5_3\n");
  EXPECT_TRUE(fs::exists(checkpoint("5_3")));
  struct sigaction now = {};
  ::sigaction(SIGTERM, nullptr, &now);
  EXPECT_EQ(now.sa_handler, SIG_DFL);
}

TEST_F(SlurmRun, TakesTheSignalThatIsNamed) {
  Preempted module(1, {SIGTERM});
  TrainerOptions by_sigterm = options({.handle_signals = true});
  by_sigterm.requeue_signal = "SIGTERM";
  EXPECT_EQ(Trainer(by_sigterm).fit(module, counting_loader(5)).signal, SIGTERM);
  EXPECT_EQ(read_text(noted()), "requeue 77\n");
  TrainerOptions unknown = options();
  unknown.requeue_signal = "SIGKILL";
  EXPECT_NE(message_of<ConfigError>([&] { Trainer trainer(unknown); }).find("requeue_signal: expected SIGUSR1"),
            std::string::npos);
}

TEST_F(SlurmRun, OtherSignalsDoNotRunItAgain) {
  Preempted module(1, {SIGINT});
  EXPECT_EQ(Trainer(options({.handle_signals = true})).fit(module, counting_loader(5)).signal, SIGINT);
  EXPECT_FALSE(fs::exists(noted()));
}

TEST_F(SlurmRun, AScontrolThatFailsIsToldOf) {
  give_scontrol(3);
  std::string text;
  TrainerOptions told = options();
  told.sink = [&](std::string_view part) { text += part; };
  Preempted module(1);
  Trainer(told).fit(module, counting_loader(5));
  EXPECT_NE(text.find("`scontrol requeue 77` failed with code 3"), std::string::npos) << text;
  EXPECT_TRUE(fs::exists(checkpoint()));
}

TEST_F(SlurmRun, OfRunsWithinEachOtherTheFirstIsRunAgain) {
  Probe inner;
  Preempted module(1);
  const auto raise = module.in_training_step;
  module.in_training_step = [&](const Batch& batch, StepContext& step) {
    raise(batch, step);
    if (step.trainer().total_batch_idx() != 0) return;
    EXPECT_EQ(Trainer(options()).fit(inner, counting_loader(2)).reason, StopReason::max_epochs);
  };
  EXPECT_EQ(Trainer(options()).fit(module, counting_loader(5)).signal, SIGUSR1);
  EXPECT_EQ(read_text(noted()), "requeue 77\n");
}

int calls_of_own = 0;

TEST_F(SlurmRun, LeavesOtherHandlersAndJobsAlone) {
  struct sigaction own = {}, before = {};
  own.sa_handler = [](int) { ++calls_of_own; };
  ::sigaction(SIGUSR1, &own, &before);
  const auto runs_through = [&](const TrainerOptions& given) {
    Preempted module(1);
    return Trainer(given).fit(module, counting_loader(5)).reason == StopReason::max_epochs;
  };
  EXPECT_TRUE(runs_through(options())) << "a handler of one's own";
  ::sigaction(SIGUSR1, &before, nullptr);
  EXPECT_EQ(calls_of_own, 1);
  EXPECT_FALSE(SlurmJob::of(options({.requeue = false})));
  EXPECT_FALSE(SlurmJob::of(options({.fast_dev_run = 1})));
  EXPECT_TRUE(SlurmJob::of(options()));
  set("SLURM_JOB_NAME", "bash");
  EXPECT_FALSE(SlurmJob::of(options())) << "a shell's job";
  ::unsetenv("SLURM_JOB_ID");
  EXPECT_FALSE(SlurmJob::of(options()));
}

#if ANNEAL_HAS_GLOO

using anneal::testing::RankFunction;
using anneal::testing::RankResults;
using anneal::testing::spawn_ranks;

// The signal comes to rank 1 alone. Each rank writes its reason and its weight.
const RankFunction train_preempted("preempted", [] {
  const char* const at = std::getenv("TEST_AT");
  TrainerOptions options = quiet({.max_epochs = 2, .accumulate_grad_batches = 3});
  options.default_root_dir = std::getenv("TEST_FOLDER");
  Trainer trainer(options);
  Preempted module(at && trainer.global_rank() == 1 ? std::atoll(at) : -1);
  const FitResult result = trainer.fit(module, counting_loader(5));
  std::fputs(format("{} {} {}", result.reason, result.global_step, weight_of(module)).c_str(), stderr);
  return 0;
});

TEST_F(SlurmRun, AllRanksGoOnTogether) {
  const TempFolder dir;
  const auto run = [&](const std::string& at) {
    std::map<std::string, std::string> variables{{"TEST_FOLDER", dir.path().string()}};
    if (!at.empty()) variables["TEST_AT"] = at;
    const RankResults results = spawn_ranks(2, "preempted", variables, std::chrono::seconds(60));
    EXPECT_EQ(results.codes(), std::vector<int>({0, 0})) << results.ranks[0].err << results.ranks[1].err;
    EXPECT_EQ(results.ranks[0].err, results.ranks[1].err);
    return results.ranks[0].err;
  };
  const std::string undisturbed = run("");
  EXPECT_NE(run("1").find("signal 1 "), std::string::npos);
  EXPECT_EQ(read_text(noted()), "requeue 77\n") << "rank 0 alone asks for it";
  EXPECT_EQ(run(""), undisturbed);
}

#endif

}  // namespace
}  // namespace anneal_test
