// Throughput and its monitor, and the monitor of the machine.
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "anneal/tests/trainer/support.h"

namespace anneal_test {
namespace {

using Texts = std::vector<std::string>;

struct Row {
  std::int64_t x;
  MetricMap metrics;
};
struct Rows : Logger {
  std::vector<Row> rows;
  void log_metrics(const MetricMap& metrics, std::int64_t step) override { rows.push_back({step, metrics}); }
  fs::path log_dir() const override { return "."; }
  // Those whose names begin so.
  std::vector<Row> with(const std::string& prefix) const {
    std::vector<Row> found;
    for (const Row& row : rows)
      if (row.metrics.begin() != row.metrics.end() && row.metrics.begin()->first.starts_with(prefix))
        found.push_back(row);
    return found;
  }
};
std::vector<std::int64_t> places(const std::vector<Row>& rows) {
  std::vector<std::int64_t> list;
  for (const Row& row : rows) list.push_back(row.x);
  return list;
}

// ---- Throughput ----

TEST(Throughput, HasRatesOnceItsWindowIsFull) {
  Throughput throughput({.window_size = 3, .peak_flops = 400});
  EXPECT_TRUE(throughput.compute().empty());
  throughput.update({.time = 1, .batches = 1, .samples = 2, .lengths = 8, .flops = 100});
  EXPECT_EQ(throughput.compute().names(), "time, batches, samples, lengths");
  throughput.update({.time = 2, .batches = 2, .samples = 4, .lengths = 16, .flops = 200});
  EXPECT_EQ(throughput.compute().size(), 4u);
  throughput.update({.time = 5, .batches = 3, .samples = 6, .lengths = 24, .flops = 300});
  MetricMap metrics = throughput.compute();
  EXPECT_EQ(metrics.names(),
            "time, batches, samples, lengths, device/batches_per_sec, device/samples_per_sec, device/items_per_sec, "
            "device/flops_per_sec, device/mfu");
  EXPECT_EQ(metrics["time"], 5);
  EXPECT_EQ(metrics["samples"], 6);
  EXPECT_EQ(metrics["device/batches_per_sec"], 0.5);
  EXPECT_EQ(metrics["device/samples_per_sec"], 1);
  EXPECT_EQ(metrics["device/items_per_sec"], 4);
  EXPECT_EQ(metrics["device/flops_per_sec"], 50);
  EXPECT_EQ(metrics["device/mfu"], 0.125);
  throughput.update({.time = 6, .batches = 5, .samples = 10});  // the first one is forgotten
  metrics = throughput.compute();
  EXPECT_EQ(metrics.names(), "time, batches, samples, device/batches_per_sec, device/samples_per_sec");
  EXPECT_EQ(metrics["device/batches_per_sec"], 0.75);
  throughput.reset();
  EXPECT_TRUE(throughput.compute().empty());
}

TEST(Throughput, SeveralDevicesAddUp) {
  Throughput throughput({.window_size = 2, .world_size = 4, .peak_flops = 100, .separator = "."});
  throughput.update({.time = 0, .batches = 0, .samples = 0, .flops = 0});
  throughput.update({.time = 2, .batches = 1, .samples = 8, .flops = 100});
  const MetricMap metrics = throughput.compute();
  EXPECT_EQ(metrics["device.samples_per_sec"], 4);
  EXPECT_EQ(metrics["samples_per_sec"], 16);
  EXPECT_EQ(metrics["batches_per_sec"], 2);
  EXPECT_EQ(metrics["flops_per_sec"], 200);
  EXPECT_EQ(metrics["device.mfu"], 0.5);
  EXPECT_FALSE(metrics.contains("mfu"));
}

TEST(Throughput, RefusesWhatMakesNoSense) {
  EXPECT_TRUE(message_of<ConfigError>([] { Throughput({.window_size = 1}); }).starts_with("window_size"));
  EXPECT_TRUE(message_of<ConfigError>([] { ThroughputMonitor({.window_size = 1}); }).starts_with("window_size"));
  EXPECT_TRUE(message_of<ConfigError>([] { ThroughputMonitor({.peak_flops = -1}); }).starts_with("peak_flops"));
  Throughput throughput;
  throughput.update({.time = 2, .batches = 1, .samples = 1});
  EXPECT_THROW(throughput.update({.time = 1, .batches = 2, .samples = 2}), Error);
  EXPECT_THROW(throughput.update({.time = 3, .batches = 2, .samples = 1}), Error);
  EXPECT_THROW(throughput.update({.time = 3, .batches = 2, .samples = 2, .lengths = 1}), Error);
}

// ---- ThroughputMonitor ----

TEST(ThroughputMonitor, LogsTotalsThenRates) {
  const auto logger = std::make_shared<Rows>();
  Trainer trainer(quiet({.max_epochs = 1,
                         .log_every_n_steps = 1,
                         .logger = logger,
                         .callbacks = {ThroughputMonitor({.window_size = 3})}}));
  Probe probe;
  trainer.fit(probe, counting_loader(4, 2));
  const std::vector<Row> rows = logger->with("train/");
  ASSERT_EQ(places(rows), (std::vector<std::int64_t>{1, 2, 3, 4}));
  for (std::size_t i = 0; i < 4; ++i) {
    const MetricMap& row = rows[i].metrics;
    EXPECT_EQ(row["train/batches"], static_cast<double>(i + 1));
    EXPECT_EQ(row["train/samples"], static_cast<double>(2 * (i + 1)));
    EXPECT_EQ(row["epoch"], 0);
    EXPECT_EQ(row.contains("train/device/samples_per_sec"), i >= 2);
    EXPECT_GE(row["train/time"], i == 0 ? 0 : rows[i - 1].metrics["train/time"]);
    EXPECT_FALSE(row.contains("train/device/flops_per_sec"));  // there are none
  }
  for (std::size_t i = 2; i < 4; ++i) {
    const MetricMap& row = rows[i].metrics;
    EXPECT_EQ(row["train/device/samples_per_sec"], 2 * row["train/device/batches_per_sec"]);
  }
}

TEST(ThroughputMonitor, WritesRowsWhereTheyAreDue) {
  const auto logger = std::make_shared<Rows>();
  Trainer trainer(quiet({.max_epochs = 2,
                         .num_sanity_val_steps = 1,
                         .log_every_n_steps = 2,
                         .accumulate_grad_batches = 2,
                         .logger = logger,
                         .callbacks = {ThroughputMonitor(
                             {.length_fn = [](const Batch&) { return 7; }, .window_size = 4, .separator = "."})}}));
  Probe probe;
  trainer.fit(probe, counting_loader(8), counting_loader(3));
  const std::vector<Row> train = logger->with("train."), validate = logger->with("validate.");
  EXPECT_EQ(places(train), (std::vector<std::int64_t>{2, 4, 6, 8}));
  EXPECT_EQ(train[0].metrics["train.batches"], 4);  // a row covers the batches since the last
  EXPECT_EQ(train[3].metrics["train.batches"], 16);
  EXPECT_EQ(train[3].metrics["train.lengths"], 16 * 7);
  EXPECT_DOUBLE_EQ(train[3].metrics["train.device.items_per_sec"],
                   7 * train[3].metrics["train.device.samples_per_sec"]);
  EXPECT_EQ(places(validate), (std::vector<std::int64_t>{2, 4, 6}));
  EXPECT_EQ(validate[1].metrics["validate.batches"], 1);  // each check starts anew
  EXPECT_EQ(validate[2].metrics["validate.batches"], 3);

  logger->rows.clear();
  trainer.test(probe, counting_loader(4));
  EXPECT_EQ(places(logger->with("test.")), (std::vector<std::int64_t>{2, 4}));
}

TEST(ThroughputMonitor, ASecondFitStartsAtZero) {
  const auto logger = std::make_shared<Rows>();
  Trainer trainer(
      quiet({.max_epochs = 1, .log_every_n_steps = 3, .logger = logger, .callbacks = {ThroughputMonitor()}}));
  Probe probe;
  trainer.fit(probe, counting_loader(3));
  trainer.fit(probe, counting_loader(3));
  const std::vector<Row> rows = logger->with("train/");
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[1].metrics["train/batches"], 3);
}

// FLOPs: 2 * 4 * 3 a sample, two samples a batch.
struct Line : TrainingModule {
  nn::Linear layer{{this, "layer"}, 4, 3};
  double said = 0;
  Tensor training_step(const Batch& batch, StepContext&) override { return sum(layer(batch["x"])); }
  void validation_step(const Batch& batch, StepContext&) override { layer(batch["x"]); }
  Batch predict_step(const Batch& batch, StepContext&) override { return {{"y", layer(batch["x"])}}; }
  OptimizerConfig configure_optimizers() override { return {optim::SGD(parameters(), {.lr = 0.1})}; }
  double flops_per_batch() const override { return said; }
};
DataLoader rows_of_four(std::int64_t batches) {
  return DataLoader(TensorDataset{{"x", ones({2 * batches, 4})}}, {.batch_size = 2});
}
// FLOPs a batch, by the rates of the last row of a kind.
double flops_per_batch(const Rows& logger, const std::string& kind) {
  const MetricMap row = logger.with(kind + "/").back().metrics;
  return row[kind + "/device/flops_per_sec"] / row[kind + "/device/batches_per_sec"];
}

TEST(ThroughputMonitor, CountsFlopsOnceUnlessTheModuleTells) {
  for (const double said : {0.0, 1000.0}) {
    const auto logger = std::make_shared<Rows>();
    Trainer trainer(quiet({.max_epochs = 1,
                           .log_every_n_steps = 1,
                           .logger = logger,
                           .callbacks = {ThroughputMonitor({.window_size = 2, .peak_flops = 1e9})}}));
    Line module;
    module.said = said;
    trainer.fit(module, rows_of_four(4), rows_of_four(3));
    trainer.predict(module, rows_of_four(3));
    const double forward = 2 * 2 * 4 * 3;
    EXPECT_NEAR(flops_per_batch(*logger, "train"), said > 0 ? said : 3 * forward, 1e-6);
    EXPECT_NEAR(flops_per_batch(*logger, "validate"), said > 0 ? said : forward, 1e-6);
    EXPECT_NEAR(flops_per_batch(*logger, "predict"), said > 0 ? said : forward, 1e-6);
    const MetricMap row = logger->with("train/").back().metrics;
    EXPECT_NEAR(row["train/device/mfu"], row["train/device/flops_per_sec"] / 1e9, 1e-12);
    EXPECT_FALSE(OpObserver::any());
  }
}

TEST(ThroughputMonitor, WhatChecksTakeIsNotTrainings) {
  const auto logger = std::make_shared<Rows>();
  const auto timer = std::make_shared<Timer>();
  double in_checks = 0;
  std::chrono::steady_clock::time_point start;
  LambdaHooks checks;
  checks.on_validation_batch_start = [&](Trainer&, TrainingModule&, const Batch&, StepContext&) {
    start = std::chrono::steady_clock::now();
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  };
  checks.on_validation_batch_end = [&](Trainer&, TrainingModule&, const Batch&, StepContext&) {
    in_checks += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  Trainer trainer(quiet({.max_epochs = 3,
                         .num_sanity_val_steps = 0,
                         .log_every_n_steps = 1,
                         .logger = logger,
                         .callbacks = {timer, ThroughputMonitor(), LambdaCallback(checks)}}));
  Probe probe;
  trainer.fit(probe, counting_loader(2), counting_loader(1));
  const double last = logger->with("train/").back().metrics["train/time"];
  EXPECT_GE(in_checks, 6e-3);
  EXPECT_LE(last, timer->time_elapsed() - in_checks + 1e-9);
}

// ---- DeviceStatsMonitor ----

std::shared_ptr<Rows> stats_of(DeviceStatsMonitorOptions options) {
  const auto logger = std::make_shared<Rows>();
  Trainer trainer(quiet({.accelerator = "cpu",
                         .max_epochs = 1,
                         .log_every_n_steps = 2,
                         .logger = logger,
                         .callbacks = {DeviceStatsMonitor(options)}}));
  Probe probe;
  trainer.fit(probe, counting_loader(4), counting_loader(2));
  trainer.test(probe, counting_loader(2));
  return logger;
}

TEST(DeviceStatsMonitor, LogsTheMachineAtBothEndsOfABatch) {
  const auto logger = stats_of({});
  const std::pair<const char*, std::vector<std::int64_t>> hooks[] = {
      {"on_train_batch_start", {2, 4}}, {"on_train_batch_end", {2, 4}}, {"on_validation_batch_start", {2}},
      {"on_validation_batch_end", {2}}, {"on_test_batch_start", {2}},   {"on_test_batch_end", {2}}};
  for (const auto& [hook, x] : hooks) {
    const std::string prefix = format("DeviceStatsMonitor.{}/", hook);
    const std::vector<Row> rows = logger->with(prefix);
    EXPECT_EQ(places(rows), x) << hook;
    for (const Row& row : rows) {
      for (const char* stat : {"cpu_percent", "cpu_vm_percent", "cpu_swap_percent"}) {
        EXPECT_GE(row.metrics[prefix + stat], 0) << stat;
        EXPECT_LE(row.metrics[prefix + stat], 100) << stat;
      }
      EXPECT_GT(row.metrics[prefix + "rss_bytes"], 1e6);
    }
  }
}

TEST(DeviceStatsMonitor, LogsNothingOfACpuThatIsNotAskedFor) {
  EXPECT_TRUE(stats_of({.cpu_stats = false})->with("DeviceStatsMonitor").empty());
  EXPECT_FALSE(stats_of({.cpu_stats = true})->with("DeviceStatsMonitor").empty());
}

TEST(DeviceStatsMonitor, NeedsALogger) {
  Probe probe;
  Trainer without(quiet({.max_epochs = 1, .callbacks = {DeviceStatsMonitor()}}));
  EXPECT_TRUE(message_of<ConfigError>([&] { without.fit(probe, counting_loader(1)); }).starts_with("logger"));
  Trainer trial(quiet({.fast_dev_run = 1, .callbacks = {DeviceStatsMonitor()}}));
  EXPECT_EQ(trial.fit(probe, counting_loader(1)).global_step, 1);
}

}  // namespace
}  // namespace anneal_test
