// Hyper-parameters and load_from_checkpoint: row C-055.
#include <gtest/gtest.h>

#include <cmath>

#include "anneal/tests/trainer/support.h"
#include "anneal/trainer/load_from_checkpoint.h"

namespace anneal_test {
namespace {

struct Net : TrainingModule {
  explicit Net(const HParams& hparams)
      : width(hparam<std::int64_t>(hparams, "width")), dropout(hparam(hparams, "dropout", 0.1)) {}
  std::int64_t width;
  double dropout;
  nn::Linear linear{{this, "linear"}, 1, width};

  HParams hparams() const override { return {{"width", width}, {"dropout", dropout}, {"name", std::string("net")}}; }
  Tensor training_step(const Batch& batch, StepContext&) override { return mean(linear(batch["x"])); }
  OptimizerConfig configure_optimizers() override { return {optim::SGD(parameters(), {.lr = 0.1})}; }
};

struct Sized : DataModule {
  explicit Sized(const HParams& hparams) : size(hparam<std::int64_t>(hparams, "size")) {}
  std::int64_t size, loaded = 0;
  HParams hparams() const override { return {{"size", size}}; }
  DataLoader train_dataloader() override { return counting_loader(size); }
  StateMap state() const override { return {{"loaded", size * 10}}; }
  void load_state(const StateMap& state) override { loaded = std::get<std::int64_t>(state.at("loaded")); }
};

TEST(LoadFromCheckpoint, MakesTheModuleOfItsRun) {
  const TempFolder dir;
  Net net({{"width", std::int64_t{3}}, {"dropout", 0.5}});
  Sized data({{"size", std::int64_t{4}}});
  Trainer(quiet({.max_epochs = 1, .callbacks = {AtBatchEnd([&](Trainer& t, std::int64_t i) {
                                    if (i == 3) t.save_checkpoint(dir / "end");
                                    if (i == 3) t.save_checkpoint(dir / "weights", {.weights_only = true});
                                  })}}))
      .fit(net, data);
  const Net loaded = load_from_checkpoint<Net>(dir / "end");
  EXPECT_EQ(loaded.width, 3);
  EXPECT_EQ(loaded.dropout, 0.5);
  EXPECT_EQ(loaded.linear.weight.to_vector(), net.linear.weight.to_vector());
  EXPECT_EQ(load_from_checkpoint<Net>(dir / "end", {{"dropout", 0.0}}).dropout, 0);
  EXPECT_THROW(load_from_checkpoint<Net>(dir / "end", {{"width", std::int64_t{2}}}), Error);  // the weights do not fit
  const Sized sized = load_from_checkpoint<Sized>(dir / "end");
  EXPECT_EQ(sized.size, 4);
  EXPECT_EQ(sized.loaded, 40);
  EXPECT_EQ(load_from_checkpoint<Net>(dir / "weights").linear.weight.to_vector(), net.linear.weight.to_vector());
}

TEST(HParams, OfAllKindsSurviveACheckpoint) {
  struct All : Probe {
    HParams hparams() const override {
      return {{"z", true},
              {"a", std::int64_t{4}},
              {"lr", 1.0},
              {"best", -INFINITY},
              {"opt", std::string("sgd")},
              {"sizes", std::vector<std::int64_t>{}},
              {"betas", std::vector<double>{1, 0.5}},
              {"names", std::vector<std::string>{"x"}}};
    }
  };
  const TempFolder dir;
  All module;
  Trainer(quiet({.max_epochs = 1,
                 .callbacks = {AtBatchEnd([&](Trainer& t, std::int64_t) { t.save_checkpoint(dir / "c"); })}}))
      .fit(module, counting_loader(1));
  EXPECT_EQ(load_checkpoint(dir / "c").hparams, module.hparams());
}

TEST(HParams, AreReadByNameAndKind) {
  const HParams hparams{{"n", std::int64_t{2}}, {"p", 0.5}, {"s", std::string("x")}};
  EXPECT_EQ(hparam<int>(hparams, "n"), 2);
  EXPECT_EQ(hparam<double>(hparams, "n"), 2.0);
  EXPECT_EQ(hparam<std::string>(hparams, "s"), "x");
  EXPECT_EQ(hparam(hparams, "q", 3.0), 3.0);
  EXPECT_NE(message_of<Error>([&] { hparam<int>(hparams, "q"); }).find("\"p\": 0.5"), std::string::npos);
  EXPECT_THROW(hparam<std::int64_t>(hparams, "p"), Error);
  EXPECT_THROW(hparam<bool>(hparams, "n"), Error);
}

struct HParamsLogger : Logger {
  explicit HParamsLogger(HParams* to) : to(to) {}
  HParams* to;
  void log_metrics(const MetricMap&, std::int64_t) override {}
  void log_hyperparams(const HParams& hparams) override { merge(*to, hparams); }
  fs::path log_dir() const override { return "."; }
};

TEST(HParams, OfModuleAndDataGoToLoggers) {
  Net net({{"width", std::int64_t{1}}});
  Sized data({{"size", std::int64_t{2}}});
  HParams logged;
  Trainer(quiet({.max_epochs = 1, .logger = HParamsLogger(&logged), .seed = 7})).fit(net, data);
  EXPECT_EQ(logged, HParams({{"seed", std::int64_t{7}},
                             {"width", std::int64_t{1}},
                             {"dropout", 0.1},
                             {"name", std::string("net")},
                             {"size", std::int64_t{2}}}));
  logged.clear();
  Trainer(quiet({.max_epochs = 1, .logger = HParamsLogger(&logged), .enable_autolog_hparams = false, .seed = 7}))
      .fit(net, data);
  EXPECT_EQ(logged, HParams({{"seed", std::int64_t{7}}}));

  struct Contrary : Sized {
    using Sized::Sized;
    HParams hparams() const override { return {{"width", std::int64_t{9}}}; }
  };
  Contrary contrary({{"size", std::int64_t{2}}});
  EXPECT_NE(message_of<ConfigError>([&] { Trainer(quiet({.max_epochs = 1})).fit(net, contrary); }).find("width"),
            std::string::npos);
}

}  // namespace
}  // namespace anneal_test
