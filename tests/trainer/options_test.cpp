// What options take and refuse, from code, JSON, arguments and the environment: rows C-018, C-024 to C-027, C-032,
// C-033, C-040 and C-133.
#include <gtest/gtest.h>

#include <cstdlib>
#include <regex>
#include <set>

#include "anneal/core/gpu.h"
#include "anneal/tests/trainer/support.h"
#include "anneal/trainer/csv_logger.h"
#include "anneal/trainer/option_table.h"
#include "anneal/trainer/tensorboard_logger.h"

namespace anneal_test {
namespace {

std::string error_of(const TrainerOptions& options) {
  return message_of<ConfigError>([&] { resolve(options); });
}
void expect_has(const std::string& text, std::initializer_list<const char*> parts) {
  for (const char* part : parts) EXPECT_NE(text.find(part), std::string::npos) << part << " in: " << text;
}
// One that has the variable while it lives.
struct Variable {
  Variable(const char* name, const char* value) : name(name) { ::setenv(name, value, 1); }
  ~Variable() { ::unsetenv(name); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;
  const char* name;
};
// What a Trainer with these options and a short fit say.
std::string text_of(TrainerOptions options) {
  std::string text;
  options.sink = [&](std::string_view line) { text += line; };
  Trainer trainer(options);
  Probe probe;
  probe.in_training_step = [](const Batch&, StepContext& step) { step.log("a", 1, {.prog_bar = true}); };
  trainer.fit(probe, counting_loader(3));
  return text;
}
std::size_t times(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

TEST(Options, Accelerators) {
  EXPECT_EQ(resolve({.accelerator = "cpu"}).accelerator, "cpu");
  expect_has(error_of({.accelerator = "tpu"}), {"accelerator", "\"tpu\"", "auto", "cpu"});
  for (const char* absent : {"mps", "hpu", "ipu", ""}) expect_has(error_of({.accelerator = absent}), {"accelerator"});
  if (device_count(DeviceKind::cuda) > 0) return;
  EXPECT_EQ(resolve({}).accelerator, "cpu");
  for (const char* gpu : {"gpu", "cuda"}) expect_has(error_of({.accelerator = gpu}), {"accelerator"});
}

TEST(Options, Devices) {
  const auto on_cpu = [](const Devices& devices) { return error_of({.accelerator = "cpu", .devices = devices}); };
  EXPECT_EQ(on_cpu("auto"), "");
  EXPECT_EQ(on_cpu("3"), "");
  EXPECT_EQ(Devices("3").count(), 3);
  EXPECT_EQ(Devices("0,2"), (Devices{0, 2}));
  EXPECT_EQ(Devices({0, 2}).index(1), 2);
  EXPECT_EQ(Devices(2).index(1), 1);
  expect_has(on_cpu(-1), {"devices", "-1"});
  expect_has(on_cpu("-1"), {"devices", "-1"});
  expect_has(on_cpu({0, 2}), {"devices", "0,2"});
  expect_has(message_of<ConfigError>([] { TrainerOptions({.devices = {}}); }), {"devices", "empty"});
  for (const auto& bad : {"0", "-2", "", "x", "1,x", "1,", "1,1", "-1,0"})
    expect_has(message_of<ConfigError>([&] { const Devices devices = bad; }), {"devices"});
  EXPECT_THROW(Devices(0), ConfigError);
  EXPECT_THROW(Devices(-2), ConfigError);
}

TEST(Options, NodesNeedALauncher) {
  expect_has(error_of({.num_nodes = 0}), {"num_nodes", "0"});
  const auto error = [](TrainerOptions options) {
    return message_of<ConfigError>([&] { Trainer trainer(quiet(options)); });
  };
  expect_has(error({.num_nodes = 2}), {"num_nodes", "2 ranks", "are 1"});
  const Variable variables[] = {{"RANK", "0"},
                                {"WORLD_SIZE", "4"},
                                {"LOCAL_RANK", "0"},
                                {"LOCAL_WORLD_SIZE", "2"},
                                {"MASTER_ADDR", "127.0.0.1"},
                                {"MASTER_PORT", "1"}};
  expect_has(error({.num_nodes = 3}), {"num_nodes", "6 ranks", "launcher started 4"});
  expect_has(error({.devices = 2}), {"num_nodes", "2 ranks", "launcher started 4"});
  expect_has(error({.strategy = "single_device"}), {"strategy", "4 ranks"});
}

TEST(Options, Strategies) {
  for (const char* name : {"auto", "single_device", "ddp"})
    EXPECT_EQ(resolve({.strategy = name}).strategy.name(), name);
  for (const char* alias : {"ddp_spawn", "ddp_fork", "ddp_find_unused_parameters_true"})
    EXPECT_EQ(resolve({.strategy = alias}).strategy.name(), "ddp");
  expect_has(error_of({.strategy = "ddpx"}), {"strategy", "ddpx", "auto", "single_device", "ddp_spawn"});
  for (const char* sharded : {"zero1", "zero2", "fsdp", "deepspeed_stage_1", "deepspeed_stage_2", "deepspeed_stage_3"})
    expect_has(error_of({.strategy = sharded}), {"strategy", sharded, "not in this build"});
  expect_has(error_of({.accelerator = "cpu", .devices = 2, .strategy = "single_device"}), {"strategy", "2 devices"});
}

TEST(Options, PrecisionsHaveShortNamesAndNumbers) {
  EXPECT_EQ(resolve({.precision = 16}).precision, "16-mixed");
  EXPECT_EQ(resolve({.precision = "bf16"}).precision, "bf16-mixed");
  EXPECT_EQ(resolve({.precision = 64}).precision, "64-true");
  EXPECT_EQ(resolve({.precision = 32}).precision, "32-true");
  expect_has(error_of({.precision = 8}),
             {"precision", "\"8\"", "64-true", "32-true", "16-true", "bf16-true", "16-mixed"});
  for (const char* absent : {"transformer-engine", "transformer-engine-float16"})
    expect_has(error_of({.precision = absent}), {"precision", absent, "not in this build"});
}

TEST(Options, FastDevRun) {
  const auto batches = [](std::int64_t k) {
    const TrainerOptions o = resolve({.fast_dev_run = k});
    return std::pair(o.limit_train_batches.of(6), o.limit_val_batches.of(6));
  };
  EXPECT_EQ(batches(3), std::pair(std::int64_t{3}, std::int64_t{3}));
  EXPECT_EQ(batches(0), std::pair(std::int64_t{6}, std::int64_t{6}));
  expect_has(error_of({.fast_dev_run = -1}), {"fast_dev_run", "-1"});
  const TrainerOptions both = resolve({.overfit_batches = 2, .fast_dev_run = 3});
  EXPECT_EQ(both.limit_train_batches.of(6), 2);
  EXPECT_EQ(both.limit_test_batches.of(6), 3);
  EXPECT_EQ(times(text_of(quiet({.fast_dev_run = 2})), "fast_dev_run: 2 batches"), 1u);
}

TEST(Options, Clipping) {
  expect_has(error_of({.gradient_clip_val = -1}), {"gradient_clip_val", "-1"});
  expect_has(error_of({.gradient_clip_algorithm = "x"}), {"gradient_clip_algorithm", "\"x\""});
  EXPECT_EQ(resolve({.gradient_clip_algorithm = "NORM"}).gradient_clip_algorithm, "norm");
  EXPECT_EQ(*resolve({}).gradient_clip_val, 0);
}

TEST(Options, Repeatability) {
  for (const auto& good : {std::variant<bool, std::string>("warn"), {true}, {false}})
    EXPECT_EQ(error_of({.deterministic = good}), "");
  expect_has(error_of({.deterministic = "perhaps"}), {"deterministic", "perhaps"});
  EXPECT_EQ(error_of({.accelerator = "cpu", .benchmark = true}), "");
  EXPECT_FALSE(*resolve({.deterministic = true, .benchmark = true}).benchmark);
  EXPECT_EQ(times(text_of(quiet({.deterministic = true, .benchmark = true})), "benchmark"), 1u);
  EXPECT_EQ(times(text_of(quiet({.deterministic = true})), "benchmark"), 0u);
}

TEST(Options, LookingForAnomaliesIsSaidToBeSlow) {
  EXPECT_EQ(times(text_of(quiet({.max_epochs = 1, .detect_anomaly = true})), "detect_anomaly"), 1u);
  EXPECT_EQ(times(text_of(quiet({.max_epochs = 1})), "detect_anomaly"), 0u);
}

TEST(Options, RootIsAFolder) {
  for (const char* url : {"s3://bucket/runs", "hdfs://x"})
    expect_has(error_of({.default_root_dir = url}), {"default_root_dir", url});
  const TempFolder dir;
  Trainer trainer({.default_root_dir = dir / "made/late", .seed = 1, .sink = [](std::string_view) {}});
  EXPECT_FALSE(fs::exists(dir / "made"));
}

TEST(Options, TheDefaultLoggersShareAFolder) {
  const TempFolder dir;
  const auto run = [&] {
    Trainer trainer({.max_epochs = 1,
                     .log_every_n_steps = 1,
                     .enable_checkpointing = false,
                     .enable_progress_bar = false,
                     .default_root_dir = dir.path(),
                     .seed = 5,
                     .sink = [](std::string_view) {}});
    Probe probe;
    probe.in_training_step = [](const Batch&, StepContext& step) { step.log("a", 1); };
    trainer.fit(probe, counting_loader(2));
    EXPECT_EQ(trainer.loggers().size(), 2u);
    EXPECT_EQ(trainer.loggers()[0]->log_dir(), trainer.loggers()[1]->log_dir());
    return trainer.log_dir();
  };
  EXPECT_EQ(run(), dir / "anneal_logs/version_0");
  EXPECT_EQ(run(), dir / "anneal_logs/version_1");
  std::set<std::string> kinds;
  for (const auto& entry : fs::directory_iterator(dir / "anneal_logs/version_1"))
    kinds.insert(entry.path().filename().string().substr(0, 10));
  EXPECT_EQ(kinds, (std::set<std::string>{"events.out", "hparams.js", "metrics.cs"}));
  expect_has(read_text(dir / "anneal_logs/version_1/hparams.json"), {"\"seed\": 5"});
  EXPECT_EQ(read_text(dir / "anneal_logs/version_1/metrics.csv"), "a,epoch,step\n1,0,1\n1,0,2\n");
}

TEST(Options, RarerRowsThanBatchesAreWorthOneWarning) {
  const TempFolder dir;
  TrainerOptions options = quiet({.max_epochs = 2, .default_root_dir = dir.path()});
  options.logger = true;
  EXPECT_EQ(times(text_of(options), "log_every_n_steps (50)"), 1u);
  EXPECT_EQ(times(text_of(quiet({.max_epochs = 2})), "log_every_n_steps"), 0u);
}

TEST(Options, TheModelSummaryIsStandard) {
  const char* const summary = "MB of params";
  EXPECT_EQ(times(text_of(quiet({.max_epochs = 1})), summary), 0u);
  TrainerOptions options{
      .max_epochs = 1, .logger = false, .enable_checkpointing = false, .enable_progress_bar = false, .seed = 1};
  const std::string text = text_of(options);
  EXPECT_EQ(times(text, summary), 1u);
  EXPECT_EQ(times(text, "enable_model_summary"), 0u);
  options.callbacks = {ModelSummary({.max_depth = 0})};
  const std::string own = text_of(options);
  EXPECT_EQ(times(own, summary), 0u);
  EXPECT_EQ(times(own, "enable_model_summary"), 1u);
}

TEST(Barebones, RefusesWhatItTurnsOff) {
  const auto sink = [](std::string_view) {};
  const auto error = [&](TrainerOptions options) {
    options.barebones = true;
    options.sink = sink;
    return message_of<ConfigError>([&] { Trainer trainer(options); });
  };
  expect_has(error({.enable_checkpointing = true}), {"barebones", "enable_checkpointing"});
  expect_has(error({.logger = true}), {"barebones", "logger"});
  expect_has(error({.logger = CsvLogger()}), {"barebones", "logger"});
  expect_has(error({.enable_progress_bar = true}), {"barebones", "enable_progress_bar"});
  expect_has(error({.enable_model_summary = true}), {"barebones", "enable_model_summary"});
  expect_has(error({.log_every_n_steps = 5}), {"barebones", "log_every_n_steps"});
  expect_has(error({.num_sanity_val_steps = 1}), {"barebones", "num_sanity_val_steps"});
  expect_has(error({.fast_dev_run = true}), {"barebones", "fast_dev_run"});
  expect_has(error({.detect_anomaly = true}), {"barebones", "detect_anomaly"});
  expect_has(error({.profiler = "simple"}), {"barebones", "profiler"});
  EXPECT_EQ(error({.num_sanity_val_steps = 0,
                   .log_every_n_steps = 0,
                   .logger = false,
                   .enable_checkpointing = false,
                   .enable_progress_bar = false,
                   .enable_model_summary = false}),
            "");
}

TEST(Barebones, RunsTheLoopAlone) {
  const TempFolder dir;
  std::string text;
  auto watch = std::make_shared<Watch>();
  Trainer trainer({.max_epochs = 2,
                   .callbacks = {watch},
                   .barebones = true,
                   .default_root_dir = dir.path(),
                   .seed = 1,
                   .sink = [&](std::string_view line) { text += line; }});
  Probe probe;
  probe.in_training_step = [](const Batch&, StepContext& step) {
    step.log("a", 1, {.prog_bar = true, .on_step = true, .on_epoch = true});
  };
  probe.in_validation_step = [](const Batch&, StepContext& step) { step.log("v", 1); };
  trainer.fit(probe, counting_loader(3), counting_loader(3));
  EXPECT_EQ(watch->batches, 6);
  EXPECT_EQ(watch->val_batches, 6);
  EXPECT_EQ(watch->sanity_batches, 0);
  EXPECT_EQ(trainer.callbacks().size(), 1u);
  EXPECT_TRUE(trainer.loggers().empty());
  for (const MetricMap* map : {&trainer.callback_metrics(), &trainer.logged_metrics(), &trainer.progress_bar_metrics()})
    EXPECT_EQ(map->begin(), map->end());
  EXPECT_EQ(times(text, "log: does nothing"), 1u) << text;
  EXPECT_EQ(times(text, "\n"), 1u) << text;
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

TEST(OptionsFromJson, Values) {
  const TrainerOptions o = TrainerOptions::from_json(R"({
    "accelerator": "cpu", "devices": [0, 2], "precision": 16, "grad_scaler": {"init_scale": 8}, "max_epochs": 3,
    "max_steps": 7, "max_time": {"days": 1, "hours": 2, "minutes": 3, "seconds": 4.5}, "fast_dev_run": true,
    "check_val_every_n_epoch": null, "log_every_n_steps": 4, "gradient_clip_val": 0.5, "deterministic": "warn",
    "logger": false, "enable_checkpointing": false, "default_root_dir": "a/b", "seed": 18446744073709551615})");
  EXPECT_EQ(o.accelerator, "cpu");
  EXPECT_EQ(o.devices, (Devices{0, 2}));
  EXPECT_EQ(o.precision, "16");
  EXPECT_EQ(o.grad_scaler.value().init_scale, 8);
  EXPECT_EQ(o.max_epochs, 3);
  EXPECT_EQ(o.max_steps, 7);
  EXPECT_EQ(o.max_time.value().seconds(), 86400 + 2 * 3600 + 3 * 60 + 4.5);
  EXPECT_EQ(o.fast_dev_run, 1);
  EXPECT_EQ(o.check_val_every_n_epoch, std::nullopt);
  EXPECT_EQ(o.log_every_n_steps, 4);
  EXPECT_EQ(o.gradient_clip_val, 0.5);
  EXPECT_EQ(std::get<std::string>(o.deterministic), "warn");
  EXPECT_FALSE(o.logger.standard());
  EXPECT_FALSE(o.enable_checkpointing);
  EXPECT_TRUE(o.enable_checkpointing.given());
  EXPECT_TRUE(o.enable_progress_bar);
  EXPECT_FALSE(o.enable_progress_bar.given());
  EXPECT_EQ(o.default_root_dir, "a/b");
  EXPECT_EQ(o.seed, ~std::uint64_t{0});
  EXPECT_EQ(TrainerOptions::from_json(R"({"max_time": "01:00:00:01"})").max_time.value().seconds(), 86401);
  EXPECT_EQ(TrainerOptions::from_json("{}", {.max_epochs = 9}).max_epochs, 9);
}

TEST(OptionsFromJson, OneBatchIsNotAllOfThem) {
  const auto batches = [](const char* json) { return TrainerOptions::from_json(json).limit_train_batches.of(10); };
  EXPECT_EQ(batches(R"({"limit_train_batches": 1})"), 1);
  EXPECT_EQ(batches(R"({"limit_train_batches": 1.0})"), 10);
  const auto typed = [](const char* value) {
    const char* const arguments[] = {"program", "--trainer.limit_train_batches", value};
    return TrainerOptions::from_args(3, arguments).limit_train_batches.of(10);
  };
  EXPECT_EQ(typed("1"), 1);
  EXPECT_EQ(typed("1.0"), 10);
}

TEST(OptionsFromJson, Errors) {
  const auto error = [](const char* json) { return message_of<ConfigError>([&] { TrainerOptions::from_json(json); }); };
  expect_has(error(R"({"max_epoch": 1})"), {"max_epoch:", "did you mean max_epochs?"});
  const std::string far = error(R"({"zzzzzzzzzz": 1})");
  expect_has(far, {"zzzzzzzzzz"});
  EXPECT_EQ(far.find("did you mean"), std::string::npos);
  expect_has(error(R"({"max_epochs": "x"})"), {"max_epochs", "an integer", "\"x\""});
  expect_has(error(R"({"max_epochs": 1.5})"), {"max_epochs", "an integer", "1.5"});
  expect_has(error(R"({"max_steps": 9223372036854775808})"), {"max_steps"});
  expect_has(error(R"({"barebones": 1})"), {"barebones", "true or false", "1"});
  expect_has(error(R"({"seed": -1})"), {"seed", "-1"});
  expect_has(error(R"({"devices": []})"), {"devices", "empty"});
  expect_has(error(R"({"max_time": {"weeks": 1}})"), {"max_time"});
  expect_has(error(R"({"grad_scaler": {"init_scal": 1}})"), {"grad_scaler", "init_scale"});
  expect_has(error("[1]"), {"object"});
  expect_has(error("{\n\"max_epochs\": }"), {"no JSON", "line 2"});
}

TEST(OptionsFromArguments, ValuesAndErrors) {
  const auto parse = [](std::vector<const char*> arguments) {
    arguments.insert(arguments.begin(), "program");
    return TrainerOptions::from_args(static_cast<int>(arguments.size()), arguments.data());
  };
  const TrainerOptions o =
      parse({"--other", "--trainer.max_epochs", "5", "--trainer.precision=bf16", "--trainer.devices", "0,2",
             "--trainer.fast_dev_run", "true", "--trainer.default_root_dir", "12", "--trainer.max_time=00:00:01:00",
             "--trainer.max_epochs=6", "rest"});
  EXPECT_EQ(o.max_epochs, 6);
  EXPECT_EQ(o.precision, "bf16");
  EXPECT_EQ(o.devices, (Devices{0, 2}));
  EXPECT_EQ(o.fast_dev_run, 1);
  EXPECT_EQ(o.default_root_dir, "12");
  EXPECT_EQ(o.max_time.value().seconds(), 60);
  EXPECT_EQ(parse({"--trainer.precision", "16"}).precision, "16");
  const auto error = [&](std::vector<const char*> arguments) {
    return message_of<ConfigError>([&] { parse(std::move(arguments)); });
  };
  expect_has(error({"--trainer.max_epoch", "1"}), {"--trainer.max_epoch:", "max_epochs"});
  expect_has(error({"--trainer.max_epochs", "many"}), {"--trainer.max_epochs:", "an integer", "many"});
  expect_has(error({"--trainer.max_epochs"}), {"--trainer.max_epochs", "an integer", "true"});
  EXPECT_TRUE(parse({"--trainer.barebones", "--trainer.max_steps", "-1"}).barebones);
}

TEST(OptionsFromTheEnvironment, AreBelowAllOthers) {
  const Variable epochs("ANNEAL_TRAINER_MAX_EPOCHS", "4"), steps("ANNEAL_TRAINER_MAX_STEPS", "40");
  const TrainerOptions o = TrainerOptions::from_json(R"({"max_steps": 3})", {.max_epochs = 9});
  EXPECT_EQ(o.max_epochs, 4);
  EXPECT_EQ(o.max_steps, 3);
  const char* const arguments[] = {"program", "--trainer.max_epochs=5"};
  EXPECT_EQ(TrainerOptions::from_args(2, arguments).max_epochs, 5);
  EXPECT_EQ(TrainerOptions::from_args(2, arguments).max_steps, 40);
  const Variable bad("ANNEAL_TRAINER_MIN_EPOCHS", "x");
  expect_has(message_of<ConfigError>([] { TrainerOptions::from_json("{}"); }), {"ANNEAL_TRAINER_MIN_EPOCHS"});
}

TEST(OptionsAsJson, GiveTheSameOptions) {
  const TrainerOptions o{.devices = {1, 3},
                         .precision = "bf16-mixed",
                         .grad_scaler = optim::GradScalerOptions{.growth_interval = 7},
                         .max_time = std::chrono::minutes(90),
                         .limit_train_batches = 1,
                         .limit_val_batches = 0.25,
                         .check_val_every_n_epoch = std::nullopt,
                         .log_every_n_steps = 3,
                         .gradient_clip_val = 0.1,
                         .deterministic = "warn",
                         .logger = false,
                         .enable_progress_bar = false,
                         .seed = 7};
  const TrainerOptions again = TrainerOptions::from_json(o.to_json());
  EXPECT_EQ(again.to_json(), o.to_json());
  EXPECT_EQ(again.devices, o.devices);
  EXPECT_EQ(again.max_time.value().seconds(), 5400);
  EXPECT_TRUE(again.limit_train_batches.is_count());
  EXPECT_EQ(again.limit_val_batches.value(), 0.25);
  EXPECT_EQ(again.check_val_every_n_epoch, std::nullopt);
  EXPECT_TRUE(again.log_every_n_steps.given());
  EXPECT_FALSE(again.enable_checkpointing.given());
  EXPECT_FALSE(again.logger.standard());
  EXPECT_EQ(TrainerOptions::from_json(TrainerOptions().to_json()).to_json(), TrainerOptions().to_json());
}

// Every option but those that are objects: the table must not forget one.
TEST(OptionTable, HasAllOptions) {
  const std::string header = read_text(fs::path(ANNEAL_SOURCES) / "trainer/options.h");
  const std::size_t begin = header.find("struct TrainerOptions {"), end = header.find("\n};", begin);
  const std::string members = header.substr(begin, end - begin);
  const std::regex member(R"(\n  [A-Za-z][A-Za-z0-9_:<>, ()]* ([a-z_]+)( = [^\n(]*|\{by_default, [^}]*\});)");
  std::set<std::string> declared, listed{"callbacks", "plugins", "sink", "clock"};
  for (std::sregex_iterator at(members.begin(), members.end(), member); at != std::sregex_iterator(); ++at)
    declared.insert((*at)[1]);
  TrainerOptions options;
  for (const Option& option : table_of(options)) {
    EXPECT_TRUE(listed.insert(option.name).second) << option.name << " is there twice";
    EXPECT_TRUE(declared.contains(option.name)) << option.name;
  }
  for (const std::string& name : declared) EXPECT_TRUE(listed.contains(name)) << name << " is not in the table";
  for (const Option& option : table_of(options)) {
    expect_has(TrainerOptions::help(), {("--trainer." + option.name + " = ").c_str()});
    EXPECT_NE(option.help, "") << option.name;
  }
}

}  // namespace
}  // namespace anneal_test
