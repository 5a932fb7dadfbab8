// Metrics as JSON lines, and hyper-parameters.
#include "anneal/trainer/json_logger.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "anneal/tests/trainer/support.h"

namespace anneal_test {
namespace {

using anneal::testing::write_file;
using nlohmann::json;

MetricMap row(std::initializer_list<std::pair<const char*, double>> values) {
  MetricMap map;
  for (const auto& [name, value] : values) map.set(name, value);
  return map;
}

std::vector<json> lines_of(const fs::path& path) {
  std::vector<json> lines;
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) lines.push_back(json::parse(line));
  return lines;
}
std::vector<std::int64_t> steps_of(const fs::path& path) {
  std::vector<std::int64_t> steps;
  for (const json& line : lines_of(path)) steps.push_back(line.at("step"));
  return steps;
}
using Steps = std::vector<std::int64_t>;

TEST(JsonLogger, OneObjectARow) {
  const TempFolder dir;
  JsonLogger logger({.save_dir = dir.path()});
  logger.log_metrics(row({{"loss", 0.1}, {"epoch", 0}, {"a\"b\n", 3}, {"step", 7}}), 7);
  logger.log_metrics(row({{"x", std::nan("")},
                          {"y", std::numeric_limits<double>::infinity()},
                          {"z", -std::numeric_limits<double>::infinity()},
                          {"wall_time", 5},
                          {"bad \xff", 1e-9}}),
                     8);
  EXPECT_FALSE(fs::exists(dir / "anneal_logs"));
  logger.finalize("success");
  const fs::path file = dir / "anneal_logs/version_0/metrics.jsonl";
  const std::string text = read_text(file);
  EXPECT_TRUE(text.starts_with("{\"step\":7,\"epoch\":0,\"wall_time\":1")) << text;
  EXPECT_NE(text.find(",\"loss\":0.1,\"a\\\"b\\n\":3}\n"), std::string::npos) << text;
  EXPECT_NE(
      text.find(
          "\n{\"step\":8,\"x\":\"nan\",\"y\":\"inf\",\"z\":\"-inf\",\"wall_time\":5,\"bad \xEF\xBF\xBD\":1e-09}\n"),
      std::string::npos)
      << text;
  EXPECT_EQ(lines_of(file).size(), 2u);
}

TEST(JsonLogger, NumbersReadBackEqual) {
  const TempFolder dir;
  JsonLogger logger({.dir = dir.path()});
  const std::vector<double> values{1.0 / 3, 0.1f, 5e-324, 1.7976931348623157e308, -0.0, 123456789012345678.0};
  for (const double value : values) logger.log_metrics(row({{"v", value}}), 0);
  logger.save();
  const auto lines = lines_of(dir / "metrics.jsonl");
  ASSERT_EQ(lines.size(), values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(lines[i].at("v").get<double>(), values[i]);
    EXPECT_EQ(std::signbit(lines[i].at("v").get<double>()), std::signbit(values[i]));
  }
}

TEST(JsonLogger, HoldsRowsBackUpToALimit) {
  const TempFolder dir;
  JsonLogger logger({.dir = dir.path(), .prefix = "p", .flush_logs_every_n_steps = 2});
  logger.log_metrics(row({{"a", 1}, {"epoch", 2}}), 1);
  EXPECT_FALSE(fs::exists(dir / "metrics.jsonl"));
  logger.log_metrics(row({{"a", 1}}), 2);
  EXPECT_EQ(steps_of(dir / "metrics.jsonl"), (Steps{1, 2}));
  EXPECT_EQ(lines_of(dir / "metrics.jsonl")[0].at("p-a"), 1);
  EXPECT_EQ(lines_of(dir / "metrics.jsonl")[0].at("epoch"), 2);
}

TEST(JsonLogger, DropsATornLastLine) {
  const TempFolder dir;
  const fs::path file = dir / "metrics.jsonl";
  for (const std::string before : {"", "{\"step\":1}\n", "{\"step\":1}\n{\"st", "{\"st"}) {
    write_file(file, before);
    JsonLogger logger({.dir = dir.path()});
    logger.log_metrics(row({{"a", 1}}), 2);
    logger.save();
    EXPECT_EQ(steps_of(file), before.starts_with("{\"step") ? (Steps{1, 2}) : (Steps{2})) << before;
  }
}

TEST(JsonLogger, AResumedRunGoesOnBehindTheCheckpointsRows) {
  const TempFolder dir;
  StateMap state;
  const fs::path file = dir / "anneal_logs/version_0/metrics.jsonl";
  {
    JsonLogger logger({.save_dir = dir.path()});
    logger.log_metrics(row({{"a", 1}}), 1);
    state = logger.state();
    logger.log_metrics(row({{"a", 1}}), 2);
    logger.save();
  }
  write_file(file, read_text(file) + "{\"step\":3,");
  JsonLogger logger({.save_dir = dir.path()});
  logger.load_state(state);
  EXPECT_EQ(steps_of(file), Steps{1});
  logger.log_metrics(row({{"a", 1}}), 5);
  logger.save();
  EXPECT_EQ(steps_of(file), (Steps{1, 5}));

  // The file has lost what the checkpoint counts on.
  write_file(file, "{\"step\":0}\n{");
  JsonLogger after_loss({.save_dir = dir.path()});
  after_loss.load_state(state);
  EXPECT_EQ(steps_of(file), Steps{0});
}

TEST(JsonLogger, ACheckpointBeforeTheFirstRowKeepsOlderOnes) {
  const TempFolder dir;
  write_file(dir / "metrics.jsonl", "{\"step\":1}\n");
  const StateMap state = JsonLogger({.dir = dir.path()}).state();
  JsonLogger logger({.dir = dir.path()});
  logger.load_state(state);
  EXPECT_EQ(steps_of(dir / "metrics.jsonl"), Steps{1});
  logger.load_state({});  // another logger's
}

TEST(JsonLogger, ARunAndItsResumption) {
  const TempFolder dir;
  const auto run = [&](std::int64_t epochs, const std::string& resume) {
    TrainerOptions options = quiet({.max_epochs = epochs, .log_every_n_steps = 1});
    options.logger = JsonLogger({.save_dir = dir.path()});
    // Behind the checkpoint there is one more row.
    options.callbacks = {AtBatchEnd([&](Trainer& trainer, std::int64_t) {
      if (trainer.global_step() == 2) trainer.save_checkpoint(dir / "checkpoint");
    })};
    Trainer trainer(options);
    Probe probe;
    probe.in_training_step = [](const Batch&, StepContext& step) {
      step.log("a", static_cast<double>(step.batch_idx()));
    };
    trainer.fit(probe, counting_loader(3), {.resume = resume});
  };
  run(1, "");
  const fs::path file = dir / "anneal_logs/version_0/metrics.jsonl";
  EXPECT_EQ(steps_of(file), (Steps{1, 2, 3}));
  run(2, (dir / "checkpoint").string());
  EXPECT_EQ(steps_of(file), (Steps{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(lines_of(file).back().at("a"), 2);
  EXPECT_EQ(lines_of(file).back().at("epoch"), 1);
}

TEST(Loggers, ShareAFolder) {
  const TempFolder dir;
  fs::create_directories(dir / "anneal_logs/version_4");
  JsonLogger json_logger({.save_dir = dir.path()});
  CsvLogger csv({.prefix = "p"}, json_logger.folder());
  json_logger.log_metrics(row({{"a", 1}}), 1);
  json_logger.save();
  csv.log_metrics(row({{"a", 1}, {"epoch", 0}}), 1);
  csv.save();
  EXPECT_EQ(csv.log_dir(), dir / "anneal_logs/version_5");
  EXPECT_EQ(csv.version(), "5");
  EXPECT_TRUE(fs::exists(dir / "anneal_logs/version_5/metrics.jsonl"));
  EXPECT_EQ(read_text(dir / "anneal_logs/version_5/metrics.csv"), "epoch,p-a,step\n0,1,1\n");
}

TEST(HParams, AreAJsonFile) {
  const TempFolder dir;
  JsonLogger first({.dir = dir / "a"});
  CsvLogger second({.dir = dir / "b"});
  for (Logger* logger : {static_cast<Logger*>(&first), static_cast<Logger*>(&second)}) {
    logger->log_hyperparams({{"lr", 0.1}, {"layers", 3}, {"optimizer", "a\"b"}, {"nesterov", true}});
    logger->log_hyperparams({{"lr", std::nan("")},
                             {"sizes", std::vector<std::int64_t>{1, 2}},
                             {"names", std::vector<std::string>{"x", "y"}}});
  }
  EXPECT_EQ(read_text(dir / "a/hparams.json"),
            "{\n  \"lr\": \"nan\",\n  \"layers\": 3,\n  \"optimizer\": \"a\\\"b\",\n  \"nesterov\": true,\n"
            "  \"sizes\": [1, 2],\n  \"names\": [\"x\", \"y\"]\n}\n");
  EXPECT_EQ(read_text(dir / "b/hparams.json"), read_text(dir / "a/hparams.json"));
  EXPECT_TRUE(json::accept(read_text(dir / "a/hparams.json")));
}

}  // namespace
}  // namespace anneal_test
