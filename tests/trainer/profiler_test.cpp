// Profilers: what a run tells them, what they make of it, and where it goes.
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>

#include "anneal/tests/trainer/support.h"

namespace anneal_test {
namespace {

using Texts = std::vector<std::string>;

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A linear layer, for ops whose FLOPs are known: 2 * 4 * 3 a sample.
struct Line : TrainingModule {
  nn::Linear layer{{this, "layer"}, 4, 3};
  Tensor training_step(const Batch& batch, StepContext&) override { return sum(layer(batch["x"])); }
  void validation_step(const Batch& batch, StepContext&) override { layer(batch["x"]); }
  Batch predict_step(const Batch& batch, StepContext&) override { return {{"y", layer(batch["x"])}}; }
  OptimizerConfig configure_optimizers() override { return {optim::SGD(parameters(), {.lr = 0.1})}; }
};
DataLoader rows_of_four(std::int64_t batches) {
  return DataLoader(TensorDataset{{"x", ones({2 * batches, 4})}}, {.batch_size = 2});
}

// ---- the option ----

TEST(ProfilerOption, NamesAreChecked) {
  for (const char* name : {"x", "xla"})
    EXPECT_EQ(message_of<ConfigError>([&] { Trainer(quiet({.profiler = name})); }),
              format("profiler: expected simple, ops (advanced), trace (pytorch) or an object, got \"{}\"", name));
  const auto type_of = [](const char* name) {
    const Trainer trainer(quiet({.profiler = name}));
    const Profiler& profiler = *trainer.profiler();
    return std::string(typeid(profiler).name());
  };
  EXPECT_EQ(type_of("simple"), typeid(SimpleProfiler).name());
  EXPECT_EQ(type_of("ops"), typeid(OpsProfiler).name());
  EXPECT_EQ(type_of("advanced"), typeid(OpsProfiler).name());
  EXPECT_EQ(type_of("trace"), typeid(TraceProfiler).name());
  EXPECT_EQ(type_of("pytorch"), typeid(TraceProfiler).name());
  EXPECT_EQ(Trainer(quiet()).profiler(), nullptr);
  const auto own = std::make_shared<SimpleProfiler>();
  EXPECT_EQ(Trainer(quiet({.profiler = own})).profiler(), own.get());
}

// ---- SimpleProfiler ----

TEST(SimpleProfiler, ActionsBeginAndEndInTurn) {
  SimpleProfiler profiler;
  EXPECT_EQ(message_of<Error>([&] { profiler.stop("a"); }), "profiler: action \"a\" was stopped, but not started");
  profiler.start("a");
  profiler.start("b");
  EXPECT_EQ(message_of<Error>([&] { profiler.start("a"); }), "profiler: action \"a\" was started twice");
  profiler.stop("a");
  EXPECT_EQ(message_of<Error>([&] { profiler.stop("a"); }), "profiler: action \"a\" was stopped, but not started");
  profiler.start("a");
  profiler.stop("a");
  EXPECT_EQ(profiler.calls("a"), 2);
  EXPECT_EQ(profiler.calls("b"), 0);
  EXPECT_GE(profiler.seconds("a"), 0);
}

TEST(SimpleProfiler, SeesTheActionsOfAFit) {
  const auto profiler = std::make_shared<SimpleProfiler>();
  const auto watch = std::make_shared<Watch>();
  Trainer trainer(quiet({.max_epochs = 2, .num_sanity_val_steps = 1, .profiler = profiler, .callbacks = {watch}}));
  Probe probe;
  probe.in_training_step = [&](const Batch&, StepContext&) {
    const ProfiledAction action(trainer.profiler(), "of its own");
  };
  trainer.fit(probe, counting_loader(3), counting_loader(2));
  const std::pair<const char*, std::int64_t> calls[] = {{"run_training_epoch", 2},
                                                        {"run_training_batch", 6},
                                                        {"train_dataloader_next", 6},
                                                        {"optimizer_step", 6},
                                                        {"run_validation_batch", 5},
                                                        {"validation_dataloader_next", 5},
                                                        {"[Module]Probe.training_step", 6},
                                                        {"[Module]Probe.optimizer_step", 6},
                                                        {"[Module]Probe.backward", 6},
                                                        {"[Module]Probe.validation_step", 5},
                                                        {"[Module]Probe.configure_optimizers", 1},
                                                        {"[Callback]Watch.on_train_batch_end", 6},
                                                        {"[Callback]Watch.on_train_epoch_end", 2},
                                                        {"[Callback]Watch.setup", 1},
                                                        {"[Callback]Watch.teardown", 1},
                                                        {"of its own", 6}};
  const std::string report = profiler->report();
  for (const auto& [name, n] : calls) {
    EXPECT_EQ(profiler->calls(name), n) << name;
    EXPECT_NE(report.find(name), std::string::npos) << name;
  }
  EXPECT_GE(profiler->seconds("run_training_epoch"), profiler->seconds("run_training_batch"));
  EXPECT_GE(profiler->seconds("run_training_batch"), profiler->seconds("[Module]Probe.training_step"));

  trainer.validate(probe, counting_loader(2));  // a run of its own
  EXPECT_EQ(profiler->calls("run_training_batch"), 0);
  EXPECT_EQ(profiler->calls("run_validation_batch"), 2);
}

TEST(SimpleProfiler, ReportsTheLongestFirst) {
  const auto profiler = std::make_shared<SimpleProfiler>();
  std::string printed;
  TrainerOptions options = quiet({.max_epochs = 1, .profiler = profiler});
  options.sink = [&](std::string_view text) { printed += text; };
  Trainer trainer(options);
  Probe probe;
  trainer.fit(probe, counting_loader(4));
  EXPECT_NE(printed.find(profiler->report()), std::string::npos);

  std::istringstream lines(profiler->report());
  std::string line;
  std::getline(lines, line);
  Texts head;
  std::istringstream cells(line);
  for (std::string cell; std::getline(cells, cell, '|');) {
    const auto from = cell.find_first_not_of(' ');
    head.push_back(cell.substr(from, cell.find_last_not_of(' ') + 1 - from));
  }
  EXPECT_EQ(head, (Texts{"Action", "Mean (ms)", "Calls", "Total (s)", "Share (%)"}));
  double before = 1e9;
  int rows = 0;
  while (std::getline(lines, line)) {
    if (line.find('|') == std::string::npos) continue;
    const double share = std::stod(line.substr(line.rfind('|') + 1));
    EXPECT_LE(share, before) << line;
    before = share;
    ++rows;
  }
  EXPECT_GT(rows, 10);
}

TEST(Profiler, ReportsAlsoOnExceptions) {
  const auto profiler = std::make_shared<SimpleProfiler>();
  std::string printed;
  TrainerOptions options = quiet({.max_epochs = 1, .profiler = profiler});
  options.sink = [&](std::string_view text) { printed += text; };
  Trainer trainer(options);
  Probe probe;
  probe.in_training_step = [](const Batch&, StepContext& step) {
    if (step.batch_idx() == 2) throw Failure("no more");
  };
  EXPECT_THROW(trainer.fit(probe, counting_loader(4)), Failure);
  EXPECT_EQ(profiler->calls("run_training_batch"), 3);  // what an exception leaves has ended
  EXPECT_NE(printed.find("[Module]Probe.training_step"), std::string::npos);
  probe.in_training_step = {};
  trainer.fit(probe, counting_loader(4));  // and can begin again
  EXPECT_EQ(profiler->calls("run_training_batch"), 4);
}

TEST(Profiler, WritesAFileForEachStage) {
  const TempFolder dir;
  Line module;
  Trainer trainer(
      quiet({.max_epochs = 1, .profiler = SimpleProfiler({.dirpath = dir.path() / "reports", .filename = "times"})}));
  trainer.fit(module, rows_of_four(2));
  trainer.validate(module, rows_of_four(2));
  trainer.predict(module, rows_of_four(2));
  EXPECT_EQ(stems(dir.path() / "reports"), (Texts{"fit-times", "predict-times", "validate-times"}));
  EXPECT_NE(read_text(dir.path() / "reports" / "predict-times.txt").find("run_predict_batch"), std::string::npos);
}

TEST(Profiler, OneThatCannotWriteIsAWarning) {
  const TempFolder dir;
  std::ofstream(dir.path() / "file") << "in the way";
  std::string printed;
  TrainerOptions options =
      quiet({.max_epochs = 1, .profiler = SimpleProfiler({.dirpath = dir.path() / "file", .filename = "times"})});
  options.sink = [&](std::string_view text) { printed += text; };
  Trainer trainer(options);
  Probe probe;
  EXPECT_EQ(trainer.fit(probe, counting_loader(2)).global_step, 2);
  EXPECT_NE(printed.find("the profiler failed"), std::string::npos);
}

struct Own : Profiler {
  Texts events;
  void start(std::string_view action) override { events.push_back("+" + std::string(action)); }
  void stop(std::string_view action) override { events.push_back("-" + std::string(action)); }
  void begin_run() override { events.push_back("begin"); }
  void end_run() override { events.push_back("end"); }
  void end_batch() override { events.push_back("batch"); }
  std::string report() const override { return "seen"; }
};

TEST(Profiler, MayBeOnesOwn) {
  const auto profiler = std::make_shared<Own>();
  Trainer trainer(quiet({.max_epochs = 1, .profiler = profiler}));
  Probe probe;
  trainer.fit(probe, counting_loader(2), counting_loader(3));
  const Texts& events = profiler->events;
  EXPECT_EQ(events.front(), "begin");
  EXPECT_EQ(events.back(), "end");
  EXPECT_EQ(std::count(events.begin(), events.end(), "batch"), 2);  // those of training
  Texts open;
  for (const std::string& event : events) {
    if (event[0] == '+') open.push_back(event.substr(1));
    if (event[0] != '-') continue;
    ASSERT_FALSE(open.empty());
    EXPECT_EQ(open.back(), event.substr(1));
    open.pop_back();
  }
  EXPECT_TRUE(open.empty());
}

// ---- OpsProfiler ----

TEST(OpsProfiler, CountsWhatOpsDo) {
  const auto profiler = std::make_shared<OpsProfiler>();
  Trainer trainer(quiet({.max_epochs = 1, .profiler = profiler}));
  Line module;
  trainer.fit(module, rows_of_four(5));
  const auto& ops = profiler->ops();
  const OpsProfiler::Totals& gemm = ops.at("gemm");
  EXPECT_EQ(gemm.calls, 2 * 5);  // the forward, and the weight's gradient
  EXPECT_EQ(gemm.flops, 2 * 5 * 2.0 * (2 * 4 * 3));
  EXPECT_EQ(gemm.bytes, 5 * ((2 * 4 + 4 * 3 + 3 + 2 * 3) + (2 * 4 + 4 * 3 + 2 * 3)) * 4.0);
  EXPECT_GT(gemm.seconds, 0);
  EXPECT_EQ(ops.at("sgd_step").calls, 5);
  EXPECT_EQ(ops.at("sgd_step").bytes, 5 * 15 * 3 * 4.0);
  EXPECT_EQ(ops.at("sgd_step").flops, 0);
  const std::string report = profiler->report();
  for (const char* text :
       {"Op ", "Calls", "Time (ms)", "Share (%)", "MB", "GFLOP", "GB/s", "GFLOP/s", "gemm", "sgd_step", "of the run's"})
    EXPECT_NE(report.find(text), std::string::npos) << text;

  EXPECT_FALSE(OpObserver::any());
  trainer.predict(module, rows_of_four(3));
  EXPECT_EQ(ops.at("gemm").calls, 3);
  EXPECT_FALSE(ops.contains("sgd_step"));
}

TEST(OpsProfiler, LooksNoLongerAfterAnException) {
  const auto profiler = std::make_shared<OpsProfiler>();
  Trainer trainer(quiet({.max_epochs = 1, .profiler = profiler}));
  Probe probe;
  probe.in_training_step = [](const Batch&, StepContext&) { throw Failure("no more"); };
  EXPECT_THROW(trainer.fit(probe, counting_loader(2)), Failure);
  EXPECT_FALSE(OpObserver::any());
}

// ---- TraceProfiler ----

// The events of a trace by category, and how often each name comes.
std::map<std::string, int> names_in(const nlohmann::json& trace, const std::string& category) {
  std::map<std::string, int> names;
  for (const auto& event : trace["traceEvents"])
    if (event["ph"] == "X" && event["cat"] == category) ++names[event["name"].get<std::string>()];
  return names;
}
nlohmann::json trace_of(TraceProfilerOptions options, std::int64_t batches) {
  const TempFolder dir;
  options.dirpath = dir.path();
  Trainer trainer(quiet({.max_epochs = 1, .profiler = TraceProfiler(options)}));
  Line module;
  trainer.fit(module, rows_of_four(batches));
  return nlohmann::json::parse(read_text(dir.path() / "fit-trace.json"));
}

TEST(TraceProfiler, TracesTheBatchesOfItsSchedule) {
  const auto batches = [](TraceProfilerOptions options) {
    return names_in(trace_of(options, 10), "action")["run_training_batch"];
  };
  EXPECT_EQ(batches({}), 3);
  EXPECT_EQ(batches({.repeat = 2}), 6);
  EXPECT_EQ(batches({.wait = 0, .warmup = 2, .active = 1, .repeat = 0}), 3);
  EXPECT_EQ(batches({.wait = 0, .warmup = 0, .active = 2}), 2);
  EXPECT_EQ(batches({.wait = 8}), 1);  // the run ends meanwhile
  EXPECT_EQ(batches({.wait = 20}), 0);
}

TEST(TraceProfiler, HasActionsAndOpsInTheirPlaces) {
  const nlohmann::json trace = trace_of({.wait = 2, .warmup = 1, .active = 2}, 10);
  const auto actions = names_in(trace, "action"), ops = names_in(trace, "op");
  EXPECT_EQ(actions.at("[Module]Line.training_step"), 2);
  EXPECT_EQ(actions.at("train_dataloader_next"), 2);
  EXPECT_FALSE(actions.contains("run_training_epoch"));  // it began before
  EXPECT_EQ(ops.at("gemm"), 4);
  EXPECT_EQ(ops.at("sgd_step"), 2);
  // Each op of a forward lies within a step.
  std::vector<std::pair<double, double>> steps;
  int within = 0;
  for (const auto& event : trace["traceEvents"])
    if (event["name"] == "[Module]Line.training_step" || event["name"] == "[Module]Line.backward")
      steps.emplace_back(event["ts"], event["ts"].get<double>() + event["dur"].get<double>());
  for (const auto& event : trace["traceEvents"])
    if (event["name"] == "gemm") {
      EXPECT_EQ(event["args"]["flops"], 2 * 2 * 4 * 3);
      const double start = event["ts"], end = start + event["dur"].get<double>();
      for (const auto& [from, to] : steps) within += from <= start && end <= to + 0.002;  // as printed
    }
  EXPECT_EQ(within, 4);
}

TEST(TraceProfiler, ChecksItsSchedule) {
  const std::vector<TraceProfilerOptions> wrong{
      {.filename = ""}, {.wait = -1}, {.warmup = -1}, {.active = 0}, {.repeat = -1}};
  for (const TraceProfilerOptions& options : wrong) EXPECT_THROW(TraceProfiler{options}, ConfigError);
}

}  // namespace
}  // namespace anneal_test
