// What log keeps, where it may be called, and the rows that loggers get: rows C-118 to C-134.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "anneal/tests/expect.h"
#include "anneal/tests/trainer/support.h"

namespace anneal_test {
namespace {

// Rows as text: "step: key=value ...".
struct Rows : Logger {
  std::vector<std::string> rows;
  std::vector<std::string> ends;
  void log_metrics(const MetricMap& metrics, std::int64_t step) override {
    std::string row = std::to_string(step) + ":";
    for (const auto& [name, value] : metrics) row += format(" {}={}", name, value);
    rows.push_back(row);
  }
  void finalize(std::string_view status) override { ends.emplace_back(status); }
  fs::path log_dir() const override { return "."; }
};
using Texts = std::vector<std::string>;
using Step = std::function<void(const Batch&, StepContext&)>;

// A run whose steps log; what came of it.
struct Logged {
  std::shared_ptr<Rows> rows = std::make_shared<Rows>();
  Trainer trainer;
  Probe probe;
  explicit Logged(TrainerOptions options = {.max_epochs = 1}) : trainer(quiet(with_logger(std::move(options), rows))) {}
  Logged& fit(std::int64_t n, Step train, std::int64_t v = 0, Step val = nullptr, std::int64_t batch_size = 1) {
    probe.in_training_step = train;
    probe.in_validation_step = val;
    const DataLoader train_loader = counting_loader(n, batch_size), val_loader = counting_loader(v);
    if (v > 0) trainer.fit(probe, train_loader, val_loader);
    else trainer.fit(probe, train_loader);
    return *this;
  }
  static TrainerOptions with_logger(TrainerOptions options, const std::shared_ptr<Rows>& rows) {
    options.logger = rows;
    return options;
  }
};

double index(StepContext& step) { return static_cast<double>(step.batch_idx()); }
Texts names(const MetricMap& map) {
  Texts texts;
  for (const auto& [name, value] : map) texts.push_back(name);
  std::sort(texts.begin(), texts.end());
  return texts;
}

TEST(Rows, OfStepsCarryTheStepsValues) {
  Logged run({.max_epochs = 2, .log_every_n_steps = 2});
  run.fit(5, [](const Batch&, StepContext& step) { step.log("a", index(step)); });
  EXPECT_EQ(run.rows->rows,
            (Texts{"2: a=1 epoch=0", "4: a=3 epoch=0", "6: a=0 epoch=1", "8: a=2 epoch=1", "10: a=4 epoch=1"}));
  EXPECT_EQ(run.rows->ends, Texts{"success"});
  Logged none({.max_epochs = 1, .log_every_n_steps = 0});
  none.fit(5, [](const Batch&, StepContext& step) { step.log("a", 1, {.on_epoch = true}); });
  EXPECT_EQ(none.rows->rows, (Texts{"5: a_epoch=1 epoch=0"}));
  std::string text;
  TrainerOptions options = quiet({.max_epochs = 1, .logger = std::make_shared<Rows>()});
  options.sink = [&](std::string_view line) { text += line; };
  Probe probe;
  Trainer(options).fit(probe, counting_loader(3));
  const std::size_t warning = text.find("log_every_n_steps");
  EXPECT_NE(warning, std::string::npos) << "no row is due";
  EXPECT_EQ(text.find("log_every_n_steps", warning + 1), std::string::npos) << text;
}

TEST(Rows, OfAWindowAreReducedOverIt) {
  Logged run({.max_epochs = 1, .log_every_n_steps = 1, .accumulate_grad_batches = 2});
  run.fit(4, [](const Batch&, StepContext& step) { step.log("a", index(step)); });
  EXPECT_EQ(run.rows->rows, (Texts{"1: a=0.5 epoch=0", "2: a=2.5 epoch=0"}));
}

TEST(Rows, OfChecksAndEpochsInOrder) {
  Logged run({.max_epochs = 1, .val_check_interval = 2, .log_every_n_steps = 0, .accumulate_grad_batches = 2});
  run.fit(
      5, [](const Batch&, StepContext& step) { step.log("loss", 1, {.on_step = false, .on_epoch = true}); }, 1,
      [](const Batch&, StepContext& step) { step.log("val_loss", 3); });
  EXPECT_EQ(run.rows->rows, (Texts{"1: val_loss=3 epoch=0", "2: val_loss=3 epoch=0", "3: loss=1 epoch=0"}));
}

TEST(Rows, AKeyNamedStepIsTheirPlace) {
  Logged run({.max_epochs = 1, .log_every_n_steps = 1});
  run.fit(3, [](const Batch&, StepContext& step) { step.log("step", 100 * index(step)); });
  EXPECT_EQ(run.rows->rows, (Texts{"0: step=0", "100: step=100", "200: step=200"}));
}

TEST(Rows, AKeyNamedEpochIsItsColumn) {
  Logged run({.max_epochs = 1, .log_every_n_steps = 1});
  run.fit(1, [](const Batch&, StepContext& step) { step.log("epoch", 7); });
  EXPECT_EQ(run.rows->rows, Texts{"1: epoch=7"});
}

TEST(Rows, OneIsWrittenWhereTrainingIsAskedToEnd) {
  Logged run({.max_epochs = 1, .log_every_n_steps = 3, .accumulate_grad_batches = 2});
  run.fit(8, [](const Batch&, StepContext& step) {
    step.log("a", index(step));
    if (step.batch_idx() == 2) step.trainer().stop();
  });
  EXPECT_EQ(run.rows->rows, Texts{"2: a=2.5 epoch=0"});
}

TEST(Rows, OfBatchesOfChecksAreCountedOverTheRun) {
  Logged run({.max_epochs = 2, .num_sanity_val_steps = 2, .log_every_n_steps = 2});
  const LogOptions options{.on_step = true, .on_epoch = false};
  run.fit(1, nullptr, 3, [&](const Batch&, StepContext& step) { step.log("v", index(step), options); });
  EXPECT_EQ(run.rows->rows, (Texts{"2: v=1", "4: v=0", "6: v=2"}));
}

TEST(Rows, OfTestAndItsResult) {
  Logged run({.max_epochs = 1, .log_every_n_steps = 1});
  run.probe.in_test_step = [](const Batch&, StepContext& step) { step.log("t", index(step), {.on_step = true}); };
  const auto results = run.trainer.test(run.probe, counting_loader(3));
  ASSERT_EQ(results.size(), 1u);
  EXPECT_EQ(names(results[0]), Texts{"t_epoch"});
  EXPECT_EQ(results[0]["t_epoch"], 1);
  EXPECT_EQ(run.rows->rows, (Texts{"1: t_step=0", "2: t_step=1", "3: t_step=2", "0: t_epoch=1 epoch=0"}));
  EXPECT_THROW(results[0]["other"], Error);
}

TEST(Rows, AFailingLoggerIsSwitchedOff) {
  struct Bad : Rows {
    void log_metrics(const MetricMap&, std::int64_t) override { throw Error("disk full"); }
  };
  auto good = std::make_shared<Rows>();
  std::string text;
  TrainerOptions options = quiet({.max_epochs = 1, .log_every_n_steps = 1});
  options.logger = {std::make_shared<Bad>(), good};
  options.sink = [&](std::string_view line) { text += line; };
  Trainer trainer(options);
  Probe probe;
  probe.in_training_step = [](const Batch&, StepContext& step) { step.log("a", 1); };
  trainer.fit(probe, counting_loader(3));
  EXPECT_EQ(good->rows.size(), 3u);
  EXPECT_NE(text.find("disk full"), std::string::npos);
}

TEST(Reductions, OverTheEpoch) {
  const auto reduced = [](std::string_view reduce) {
    Logged run;
    run.fit(5, [=](const Batch&, StepContext& step) {
      step.log("a", index(step), {.on_step = false, .on_epoch = true, .reduce = reduce});
    });
    return run.trainer.callback_metrics()["a"];
  };
  EXPECT_EQ(reduced("max"), 4);
  EXPECT_EQ(reduced("min"), 0);
  EXPECT_EQ(reduced("sum"), 10);
  EXPECT_EQ(reduced("mean"), 2);
  anneal::testing::expect_contains(message_of<Error>([&] { reduced("median"); }), "log a Metric instead");
}

TEST(Reductions, MeansAreWeightedByBatchSize) {
  const auto mean_of = [](std::optional<std::int64_t> batch_size) {
    Probe probe;
    probe.in_training_step = [=](const Batch&, StepContext& step) {
      step.log("a", index(step), {.on_step = false, .on_epoch = true, .batch_size = batch_size});
    };
    Trainer trainer(quiet({.max_epochs = 1}));
    // 5 samples in batches of 4 and 1.
    trainer.fit(probe, DataLoader(TensorDataset{{"x", zeros({5, 1})}}, {.batch_size = 4}));
    return trainer.callback_metrics()["a"];
  };
  EXPECT_DOUBLE_EQ(mean_of({}), 0.2);
  EXPECT_DOUBLE_EQ(mean_of(1), 0.5);
}

TEST(Reductions, TensorsOfOtherSizesThanTheFirstAreWarnedOf) {
  std::string text;
  TrainerOptions options = quiet({.max_epochs = 1});
  options.sink = [&](std::string_view line) { text += line; };
  Probe probe;
  probe.in_training_step = [](const Batch&, StepContext& step) {
    step.log("a", index(step), {.on_step = false, .on_epoch = true});
  };
  const Transform add = [](Batch& batch, Generator&) { batch.set("y", zeros({7})); };
  Trainer trainer(options);
  trainer.fit(probe, DataLoader(TensorDataset{{"x", zeros({3, 1})}}, {.batch_size = 2, .transform = add}));
  EXPECT_DOUBLE_EQ(trainer.callback_metrics()["a"], 1.0 / 3);
  const std::size_t warning = text.find("different first dimensions");
  EXPECT_NE(warning, std::string::npos);
  EXPECT_EQ(text.find("different first dimensions", warning + 1), std::string::npos) << "once: " << text;
}

TEST(Log, LevelsAndNames) {
  struct AfterFirst : Callback {
    std::vector<Texts> seen;
    void on_train_batch_start(Trainer& trainer, TrainingModule&, const Batch&, StepContext& step) override {
      if (step.batch_idx() == 1)
        seen = {names(trainer.callback_metrics()), names(trainer.logged_metrics()),
                names(trainer.progress_bar_metrics())};
    }
  };
  auto after = std::make_shared<AfterFirst>();
  Trainer trainer(quiet({.max_epochs = 1, .callbacks = {after}}));
  Probe probe;
  probe.in_training_step = [](const Batch&, StepContext& step) {
    step.log("a", 1);
    step.log("b", 2, {.on_step = true, .on_epoch = true});
    step.log("p", 3, {.prog_bar = true, .logger = false});
    step.log("c", 4, {.on_step = false, .on_epoch = true});
  };
  trainer.fit(probe, counting_loader(2));
  EXPECT_EQ(after->seen, (std::vector<Texts>{{"a", "b", "b_step", "p"}, {"a", "b_step"}, {"p"}}));
  EXPECT_EQ(names(trainer.callback_metrics()), (Texts{"a", "b", "b_epoch", "b_step", "c", "p"}));
}

TEST(Log, TheSameKeyTwiceInOneHook) {
  Logged run;
  run.fit(1, [](const Batch&, StepContext& step) {
    step.log("a", 1, {.on_epoch = true});
    step.log("a", 3, {.on_epoch = true});
  });
  EXPECT_EQ(run.trainer.callback_metrics()["a_step"], 3);
  EXPECT_EQ(run.trainer.callback_metrics()["a_epoch"], 2);
  EXPECT_THROW(Logged().fit(1,
                            [](const Batch&, StepContext& step) {
                              step.log("a", 1);
                              step.log("a", 1, {.prog_bar = true});
                            }),
               Error);
}

TEST(Log, TheSameKeyInTwoHooksIsTwoMetricsOfWhichTheLaterCounts) {
  const LogOptions both{.on_epoch = true};
  Logged run({.max_epochs = 1, .log_every_n_steps = 1, .callbacks = {AtBatchEnd([&](Trainer& t, std::int64_t i) {
                                                         t.log("a", i == 0 ? 10 : 20, both);
                                                       })}});
  run.fit(2, [&](const Batch&, StepContext& step) { step.log("a", index(step), both); });
  EXPECT_EQ(run.trainer.callback_metrics()["a_step"], 20);
  EXPECT_EQ(run.trainer.callback_metrics()["a_epoch"], 15) << "not the mean of all four";
  EXPECT_EQ(run.rows->rows, (Texts{"1: a_step=10 epoch=0", "2: a_step=20 epoch=0", "2: a_epoch=15 epoch=0"}));
}

TEST(Log, MapsAreEmptyWhenAFitBegins) {
  Logged run;
  run.fit(1, [](const Batch&, StepContext& step) { step.log("a", 1, {.prog_bar = true}); });
  EXPECT_EQ(run.trainer.progress_bar_metrics()["a"], 1);
  run.fit(1, [](const Batch&, StepContext& step) { step.log("b", 1, {.prog_bar = true}); });
  for (const MetricMap* map :
       {&run.trainer.callback_metrics(), &run.trainer.logged_metrics(), &run.trainer.progress_bar_metrics()})
    EXPECT_EQ(names(*map), Texts{"b"});
}

TEST(Log, Values) {
  Logged run;
  run.fit(1, [](const Batch&, StepContext& step) {
    step.log("integer", 1);
    step.log("tensor", full({1}, 2.5));
    step.log("count", full({}, 7, {.dtype = DType::i64}));
  });
  EXPECT_EQ(run.trainer.callback_metrics()["integer"], 1.0);
  EXPECT_EQ(run.trainer.callback_metrics()["tensor"], 2.5);
  EXPECT_EQ(run.trainer.callback_metrics()["count"], 7);
  EXPECT_THROW(Logged().fit(1, [](const Batch&, StepContext& step) { step.log("two", zeros({2})); }), Error);
  EXPECT_THROW(Logged().fit(1, [](const Batch&, StepContext& step) { step.log("none", 1, {.on_step = false}); }),
               Error);
  EXPECT_THROW(
      Logged().fit(1, [](const Batch&,
                         StepContext& step) { step.log("whose", 1, {.sync_dist = true, .rank_zero_only = true}); }),
      Error);
}

TEST(Csv, ColumnsAreSortedAndGrow) {
  const TempFolder dir;
  CsvLogger csv({.save_dir = dir.path()});
  const auto row = [](std::initializer_list<std::pair<const char*, double>> values) {
    MetricMap map;
    for (const auto& [name, value] : values) map.set(name, value);
    return map;
  };
  csv.log_metrics(row({{"loss", 0.1}, {"epoch", 0}}), 1);
  csv.save();
  csv.log_metrics(row({{"a,\"b", 1e-9}, {"loss", 1.0 / 3}}), 2);
  csv.log_metrics(row({{"loss", std::nan("")}}), 3);
  csv.finalize("success");
  EXPECT_EQ(read_text(dir.path() / "anneal_logs/version_0/metrics.csv"),
            "\"a,\"\"b\",epoch,loss,step\n,0,0.1,1\n1e-09,,0.3333333333333333,2\n,,nan,3\n");
  csv.log_metrics(row({{"z", -std::numeric_limits<double>::infinity()}}), 4);
  csv.save();
  EXPECT_EQ(read_text(dir.path() / "anneal_logs/version_0/metrics.csv"),
            "\"a,\"\"b\",epoch,loss,step,z\n,0,0.1,1,\n1e-09,,0.3333333333333333,2,\n,,nan,3,\n,,,4,-inf\n");
}

// T-765
TEST(Csv, RowsAreHeldBackUpToANumber) {
  const TempFolder dir;
  CsvLogger csv({.dir = dir.path(), .flush_logs_every_n_steps = 3});
  MetricMap row;
  row.set("a", 1);
  const auto lines = [&] {
    const std::string text = read_text(dir / "metrics.csv");
    return std::count(text.begin(), text.end(), '\n');
  };
  std::vector<std::ptrdiff_t> seen;
  for (std::int64_t step = 1; step <= 6; ++step) {
    csv.log_metrics(row, step);
    seen.push_back(lines());
  }
  EXPECT_EQ(seen, (std::vector<std::ptrdiff_t>{1, 1, 4, 4, 4, 7})) << "with the head";
}

// T-763
TEST(Csv, SaysWhereItIs) {
  const TempFolder dir;
  const CsvLogger numbered({.save_dir = dir.path(), .version = 3}), named({.name = "n", .version = "long-name"}),
      own({.dir = dir / "own"});
  EXPECT_EQ(numbered.save_dir(), dir.path());
  EXPECT_EQ(numbered.name(), "anneal_logs");
  EXPECT_EQ(numbered.version(), "3");
  EXPECT_EQ(named.name(), "n");
  EXPECT_EQ(named.version(), "long-name");
  EXPECT_EQ(own.save_dir(), own.log_dir());
  EXPECT_EQ(own.name() + own.version(), "");
}

TEST(Csv, Folders) {
  const TempFolder dir;
  MetricMap one;
  one.set("a", 1);
  const auto written = [&](CsvLoggerOptions options) {
    options.save_dir = dir.path();
    CsvLogger csv(options);
    csv.log_metrics(one, 1);
    csv.save();
    return fs::relative(csv.log_dir(), dir.path()).string();
  };
  EXPECT_EQ(written({}), "anneal_logs/version_0");
  EXPECT_EQ(written({}), "anneal_logs/version_1");
  EXPECT_EQ(written({.version = 7}), "anneal_logs/version_7");
  EXPECT_EQ(written({}), "anneal_logs/version_8");
  EXPECT_EQ(written({.name = "n", .version = "vv"}), "n/vv");
  EXPECT_EQ(written({.name = ""}), "version_0");
  EXPECT_EQ(written({.dir = dir / "own"}), "own");
  EXPECT_TRUE(fs::exists(dir / "own/metrics.csv"));
}

TEST(Csv, IsADefaultLogger) {
  const TempFolder dir;
  Trainer trainer({.max_epochs = 1,
                   .log_every_n_steps = 1,
                   .enable_checkpointing = false,
                   .enable_progress_bar = false,
                   .default_root_dir = dir.path(),
                   .seed = 1,
                   .sink = [](std::string_view) {}});
  Probe probe;
  probe.in_training_step = [](const Batch&, StepContext& step) { step.log("a", index(step)); };
  trainer.fit(probe, counting_loader(2));
  EXPECT_EQ(trainer.log_dir(), dir / "anneal_logs/version_0");
  EXPECT_EQ(read_text(trainer.log_dir() / "metrics.csv"), "a,epoch,step\n0,0,1\n1,0,2\n");
}

}  // namespace
}  // namespace anneal_test
