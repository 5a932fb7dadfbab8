// The search for a learning rate, and what searches have in common: rows C-030 and C-176 to C-178.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "anneal/tests/trainer/markup.h"
#include "anneal/tests/trainer/tuner_support.h"

namespace anneal_test {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

void expect_near(const Values& values, const Values& wanted, double relative = 1e-12) {
  ASSERT_EQ(values.size(), wanted.size());
  for (std::size_t i = 0; i < values.size(); ++i)
    EXPECT_NEAR(values[i], wanted[i], relative * std::abs(wanted[i])) << "at " << i;
}

// The loss of step i of the run is losses[i]; NaN: there is none.
struct Scripted : TrainingModule {
  explicit Scripted(Values losses) : losses(std::move(losses)) {}
  nn::Parameter weight{{this, "weight"}, zeros({1}, {.dtype = DType::f64})};
  Values losses;
  bool automatic_optimization() const override { return false; }
  Tensor training_step(const Batch&, StepContext& step) override {
    const double wanted = losses.at(static_cast<std::size_t>(step.global_step()));
    const Tensor loss = sum(weight) * 0.0 + (std::isnan(wanted) ? 0 : wanted);
    manual_backward(loss);
    optimizer().step();
    optimizer().zero_grad();
    return std::isnan(wanted) ? Tensor() : loss;
  }
  OptimizerConfig configure_optimizers() override { return {optim::SGD(parameters(), {.lr = 0.1})}; }
};

TEST(LearningRateFinder, TriesRatesFromTheLeastToTheLargest) {
  const auto rates = [](const char* mode, double least, double largest) {
    Net net = fresh_net();
    Trainer trainer(quiet());
    const LearningRateCurve curve = Tuner(trainer).lr_find(
        net, loader(),
        {.min_lr = least, .max_lr = largest, .num_training = 5, .mode = mode, .early_stop_threshold = {}});
    EXPECT_EQ(net.rates, curve.lr);  // what the steps were made with
    EXPECT_EQ(curve.loss.size(), 5u);
    return curve.lr;
  };
  expect_near(rates("linear", 0.1, 1), {0.1, 0.325, 0.55, 0.775, 1});
  expect_near(rates("exponential", 1e-8, 1), {1e-8, 1e-6, 1e-4, 1e-2, 1});
}

struct NetData : DataModule {
  int batch_size = 4;
  std::vector<std::string> calls;
  void setup(Stage) override { calls.push_back("setup"); }
  void teardown(Stage) override { calls.push_back("teardown"); }
  DataLoader train_dataloader() override { return loader(24, batch_size); }
  LoaderSet val_dataloader() override { return loader(6, 2); }
  LoaderSet test_dataloader() override { return loader(12, 2); }
};

TEST(Tuner, SearchesWithTheLoadersOfADataModule) {
  const LearningRateFinderOptions options{.num_training = 8};
  Net net = fresh_net(), other = fresh_net();
  NetData data;
  Trainer trainer(quiet()), second(quiet());
  const LearningRateCurve curve = Tuner(trainer).lr_find(net, data, options);
  EXPECT_EQ(curve.loss, Tuner(second).lr_find(other, loader(), options).loss);
  EXPECT_EQ(net.learning_rate, other.learning_rate);
  EXPECT_EQ(data.calls, (std::vector<std::string>{"setup", "teardown"}));

  net.limit = 9;
  EXPECT_EQ(Tuner(trainer).scale_batch_size(net, data), 8);
  EXPECT_EQ(data.batch_size, 8);
  EXPECT_EQ(net.batch_size, 8);
  net.limit = 5;
  EXPECT_EQ(Tuner(trainer).scale_batch_size(net, data, {.method = "test"}), 4);
  EXPECT_EQ(data.batch_size, 4);
}

TEST(LearningRateFinder, SmoothsLosses) {
  const Values losses{3, 1, 4, nan, 5};
  Scripted module(losses);
  Trainer trainer(quiet());
  const auto curve = Tuner(trainer).lr_find(module, counting_loader(2), {.num_training = 5, .update_attr = false});
  Values wanted;
  double average = 0;
  int n = 0;
  for (const double loss : losses) {
    if (!std::isnan(loss)) average = 0.98 * average + 0.02 * loss, ++n;
    wanted.push_back(std::isnan(loss) ? nan : average / (1 - std::pow(0.98, n)));
  }
  ASSERT_EQ(curve.loss.size(), 5u);
  EXPECT_TRUE(std::isnan(curve.loss[3]));
  for (const std::size_t i : {0u, 1u, 2u, 4u}) EXPECT_NEAR(curve.loss[i], wanted[i], 1e-12) << i;
}

TEST(LearningRateFinder, AveragesTheLossesOfAnAccumulationWindow) {
  Net net = fresh_net();
  Trainer trainer(quiet({.accumulate_grad_batches = 2}));
  net.in_training_step = [](Net& at) { at.net.eval(); };  // no dropout: losses can be computed again
  const auto curve = Tuner(trainer).lr_find(net, loader(), {.num_training = 3});
  EXPECT_EQ(curve.lr.size(), 3u);
  EXPECT_EQ(net.sizes.size(), 6u);
  Net same = fresh_net();
  same.eval();
  double sum = 0;
  DataLoader data = loader();
  BatchIterator it = data.begin(0, 0);
  for (int i = 0; i < 2; ++i, ++it) sum += mse_loss(same.net((*it)["x"]), (*it)["y"]).item();
  EXPECT_NEAR(curve.loss[0], sum / 2, 1e-6);
}

TEST(LearningRateFinder, StopsWhenTheLossDiverges) {
  const auto steps = [](std::optional<double> threshold) {
    Scripted module({1, 1, 1, 500, 1, 1, 1, 1});
    Trainer trainer(quiet());
    return Tuner(trainer)
        .lr_find(module, counting_loader(3),
                 {.num_training = 8, .early_stop_threshold = threshold, .update_attr = false})
        .lr.size();
  };
  EXPECT_EQ(steps(4), 4u);
  EXPECT_EQ(steps(1000), 8u);
  EXPECT_EQ(steps({}), 8u);
}

LearningRateCurve curve_of(std::size_t n, const std::function<double(double)>& loss, bool logarithmic = true) {
  LearningRateCurve curve{.logarithmic = logarithmic};
  for (std::size_t i = 0; i < n; ++i) {
    const double t = static_cast<double>(i);
    curve.lr.push_back(logarithmic ? std::pow(10, t / 10 - 6) : 0.01 * (t + 1));
    curve.loss.push_back(loss(t));
  }
  return curve;
}

TEST(LearningRateCurve, SuggestsWhereTheLossFallsFastest) {
  const auto step = [](double t) { return -std::atan((t - 40) / 5); };
  EXPECT_EQ(curve_of(60, step).suggestion(), curve_of(60, step).lr[40]);
  EXPECT_EQ(curve_of(60, step, false).suggestion(), curve_of(60, step, false).lr[40]);
  // The same points on another axis: over the rate itself the fall at small rates is the steepest.
  LearningRateCurve by_rate = curve_of(60, step);
  by_rate.logarithmic = false;
  EXPECT_LT(*by_rate.suggestion(), by_rate.lr[40]);
}

TEST(LearningRateCurve, LeavesOutEndsAndPointsThatAreNotFinite) {
  LearningRateCurve curve = curve_of(30, [](double t) { return -t * t; });  // ever steeper
  EXPECT_EQ(curve.suggestion(10, 1), curve.lr[28]);
  EXPECT_EQ(curve.suggestion(0, 10), curve.lr[19]);
  curve.loss[27] = nan;
  curve.loss[28] = std::numeric_limits<double>::infinity();
  EXPECT_EQ(curve.suggestion(10, 1), curve.lr[26]);
}

TEST(LearningRateCurve, SuggestsNothingWithoutAFall) {
  const auto falls = [](double t) { return -t; };
  EXPECT_FALSE(LearningRateCurve().suggestion());
  EXPECT_FALSE(curve_of(12, falls).suggestion());  // one point is left
  EXPECT_TRUE(curve_of(13, falls).suggestion());
  EXPECT_FALSE(curve_of(40, falls).suggestion(50, 50));
  EXPECT_FALSE(curve_of(40, [](double t) { return t; }).suggestion());
  EXPECT_FALSE(curve_of(40, [](double) { return nan; }).suggestion());
}

TEST(LearningRateCurve, IsDrawn) {
  const TempFolder dir;
  const LearningRateCurve curve = curve_of(61, [](double t) { return -std::atan((t - 40) / 5); });
  curve.plot(dir / "a/rate.svg");
  const std::string svg = read_text(dir / "a/rate.svg");
  EXPECT_EQ(svg, curve.svg());
  const auto elements = elements_of(svg);
  EXPECT_EQ(elements.at(0), "svg");
  EXPECT_EQ(std::count(elements.begin(), elements.end(), "circle"), 1);  // the suggestion
  EXPECT_NE(svg.find("suggestion: 0.01<"), std::string::npos);
  EXPECT_NE(svg.find(">1e-06<"), std::string::npos);  // the axis' ends
  EXPECT_NE(svg.find(">1e+00<"), std::string::npos);
  const auto without = elements_of(curve.svg(false));
  EXPECT_EQ(std::count(without.begin(), without.end(), "circle"), 0);
  EXPECT_EQ(elements_of(LearningRateCurve().svg()).at(0), "svg");
}

TEST(Tuner, FindsALearningRateAndLeavesTheRestAsItWas) {
  Net net = fresh_net();
  net.net.eval();
  const auto watch = std::make_shared<Watch>();
  Trainer trainer(quiet({.max_epochs = 1, .callbacks = {watch}}));
  const DataLoader train = loader();
  trainer.fit(net, train);
  const Watch seen = *watch;
  const Weights weights = weights_of(net);
  const auto offset = trainer.generator().offset();
  const double loss = trainer.callback_metrics()["loss"];
  const std::int64_t steps = net.seen;
  net.sizes.clear();

  const LearningRateCurve curve = Tuner(trainer).lr_find(net, train, {.min_lr = 1e-4, .num_training = 40});
  EXPECT_GT(net.sizes.size(), 20u);
  EXPECT_EQ(weights_of(net), weights);
  EXPECT_EQ(net.seen, steps);
  EXPECT_FALSE(net.net.training());
  EXPECT_EQ(trainer.generator().offset(), offset);
  EXPECT_EQ(trainer.global_step(), 6);
  EXPECT_EQ(trainer.current_epoch(), 1);
  EXPECT_EQ(trainer.callback_metrics()["loss"], loss);
  EXPECT_EQ(watch->batches, seen.batches);
  EXPECT_EQ(trainer.callbacks().size(), 1u);
  ASSERT_TRUE(curve.suggestion());
  EXPECT_EQ(net.learning_rate, *curve.suggestion());

  net.rates.clear();
  trainer.fit(net, train);
  EXPECT_EQ(net.rates.at(0), *curve.suggestion());
}

TEST(Tuner, UndoesTheStepsAfterAnExceptionToo) {
  Net net = fresh_net();
  const Weights weights = weights_of(net);
  Trainer trainer(quiet());
  net.in_training_step = [](Net& at) {
    if (at.seen == 7) throw std::runtime_error("the seventh");
  };
  EXPECT_EQ(message_of<std::runtime_error>([&] { Tuner(trainer).lr_find(net, loader()); }), "the seventh");
  EXPECT_EQ(net.sizes.size(), 7u);
  EXPECT_EQ(weights_of(net), weights);
  EXPECT_EQ(net.seen, 0);
  EXPECT_EQ(net.learning_rate, 1e-2);
  EXPECT_EQ(trainer.global_step(), 0);
  net.in_training_step = {};
  EXPECT_TRUE(Tuner(trainer).lr_find(net, loader()).suggestion());
}

TEST(LearningRateFinder, ASearchLeavesNoTraceInTheRun) {
  for (const char* precision : {"32-true", "bf16-true", "16-mixed"}) {
    const auto finder = std::make_shared<EverySecondEpoch<LearningRateFinder>>(
        LearningRateFinderOptions{.num_training = 7, .update_attr = false});
    const Outcome plain = outcome_of({}, loader(), precision);
    EXPECT_TRUE(outcome_of({finder}, loader(), precision) == plain) << precision;
    EXPECT_EQ(finder->searches, 2);
    EXPECT_EQ(finder->curve().lr.size(), 7u);
    EXPECT_EQ(plain.seen, 24);
  }
}

// Steps with every third batch, so that gradients wait from epoch to epoch.
struct Accumulating : Net {
  bool automatic_optimization() const override { return false; }
  Tensor training_step(const Batch& batch, StepContext& step) override {
    const Tensor loss = Net::training_step(batch, step);
    manual_backward(loss);
    if (trainer().total_batch_idx() % 3 == 2) {
      optimizer().step();
      optimizer().zero_grad();
    }
    return loss;
  }
};

TEST(LearningRateFinder, GradientsThatWaitAreKept) {
  const auto weights = [](std::vector<Shared<Callback>> callbacks) {
    Generator generator(3);
    const GeneratorScope scope(generator);
    Accumulating module;
    Trainer(quiet({.max_epochs = 4, .callbacks = std::move(callbacks)})).fit(module, loader(16));
    return weights_of(module);
  };
  const auto finder = std::make_shared<EverySecondEpoch<LearningRateFinder>>(
      LearningRateFinderOptions{.num_training = 4, .update_attr = false});
  EXPECT_EQ(weights({finder}), weights({}));
  EXPECT_EQ(finder->curve().lr.size(), 4u);
}

TEST(LearningRateFinder, TheRunTakesTheSuggestion) {
  Net net = fresh_net();
  const auto finder = std::make_shared<LearningRateFinder>(LearningRateFinderOptions{.num_training = 30});
  Trainer trainer(quiet({.max_epochs = 2, .callbacks = {finder}}));
  trainer.fit(net, loader());
  const auto found = finder->curve().suggestion();
  ASSERT_TRUE(found);
  EXPECT_EQ(net.learning_rate, *found);
  // The steps after those of the search: a line from there to 0.
  const std::size_t first = finder->curve().lr.size();
  ASSERT_EQ(net.rates.size(), first + 12);
  for (std::size_t i = 0; i < 12; ++i)
    EXPECT_NEAR(net.rates[first + i], *found * (1 - static_cast<double>(i) / 12), 1e-12) << i;
}

struct WithFloat : Probe {
  float lr = 0.1F;
};
class WithPrivateNumber : public Probe {
  double learning_rate = 0.1;

 public:
  double read() const { return learning_rate; }
};
struct WithConstant : Probe {
  const double lr = 0.1;
  double rate = 0.1;
};

TEST(LearningRateFinder, KeepsTheSuggestionWhereItIsTold) {
  const LearningRateFinderOptions options{.num_training = 20, .early_stop_threshold = {}};
  const auto search = [](auto& module, const LearningRateFinderOptions& how) {
    Trainer trainer(quiet());
    return Tuner(trainer).lr_find(module, counting_loader(3), how).suggestion();
  };
  WithFloat with_float;
  EXPECT_EQ(with_float.lr, static_cast<float>(*search(with_float, options)));
  WithConstant named;
  LearningRateFinderOptions by_pointer = options;
  by_pointer.attr = &named.rate;
  EXPECT_EQ(*search(named, by_pointer), named.rate);
  const auto error = [&](auto module) { return message_of<ConfigError>([&] { search(module, options); }); };
  EXPECT_TRUE(error(Probe()).starts_with("attr"));
  EXPECT_TRUE(error(WithPrivateNumber()).starts_with("attr"));
  EXPECT_TRUE(error(WithConstant()).starts_with("attr"));
}

TEST(LearningRateFinder, WarnsIfThereIsNoSuggestion) {
  std::string text;
  Net net = fresh_net();
  TrainerOptions options = quiet();
  options.sink = [&](std::string_view line) { text += line; };
  Trainer trainer(options);
  Tuner(trainer).lr_find(net, loader(), {.num_training = 5});
  EXPECT_NE(text.find("no learning rate is suggested"), std::string::npos) << text;
  EXPECT_EQ(net.learning_rate, 1e-2);
}

TEST(LearningRateFinder, BadOptionsAreNamed) {
  const auto message = [](LearningRateFinderOptions options) {
    return message_of<ConfigError>([&] { LearningRateFinder finder(options); });
  };
  EXPECT_TRUE(message({.min_lr = 0}).starts_with("min_lr"));
  EXPECT_TRUE(message({.max_lr = 1e-9}).starts_with("max_lr"));
  EXPECT_TRUE(message({.num_training = 1}).starts_with("num_training"));
  EXPECT_TRUE(message({.mode = "log"}).starts_with("mode"));
  EXPECT_TRUE(message({.early_stop_threshold = 0}).starts_with("early_stop_threshold"));
}

struct TwoOptimizers : Probe {
  nn::Parameter other{{this, "other"}, zeros({1})};
  double lr = 0.1;
  bool automatic_optimization() const override { return false; }
  OptimizerConfig configure_optimizers() override {
    return {{.optimizer = optim::SGD({{"weight", weight}}, {.lr = 0.1})},
            {.optimizer = optim::SGD({{"other", other}}, {.lr = 0.1})}};
  }
};

TEST(Tuner, RefusesWhatItCannotDo) {
  Net net = fresh_net();
  DataLoader data = loader();
  Trainer trainer(quiet({.callbacks = {LearningRateFinder(), BatchSizeFinder()}}));
  EXPECT_NE(message_of<ConfigError>([&] { Tuner(trainer).lr_find(net, data); }).find("LearningRateFinder"),
            std::string::npos);
  EXPECT_NE(message_of<ConfigError>([&] { Tuner(trainer).scale_batch_size(net, data); }).find("BatchSizeFinder"),
            std::string::npos);
  TwoOptimizers two;
  Trainer plain(quiet());
  EXPECT_NE(message_of<ConfigError>([&] { Tuner(plain).lr_find(two, data); }).find("one optimizer, got 2"),
            std::string::npos);
  const auto in_a_batch = message_of<Error>([&] {
    LearningRateFinder finder;
    Trainer(quiet({.max_epochs = 1,
                   .callbacks = {AtBatchEnd([&](Trainer& at, std::int64_t) { finder.lr_find(at, net); })}}))
        .fit(net, data);
  });
  EXPECT_NE(in_a_batch.find("on_train_batch_end"), std::string::npos);
}

TEST(Tuner, FastDevRunSkipsIt) {
  std::string text;
  Net net = fresh_net();
  DataLoader data = loader();
  TrainerOptions options = quiet({.fast_dev_run = 1});
  options.sink = [&](std::string_view line) { text += line; };
  Trainer trainer(options);
  EXPECT_TRUE(Tuner(trainer).lr_find(net, data).lr.empty());
  EXPECT_EQ(Tuner(trainer).scale_batch_size(net, data), 4);
  EXPECT_NE(text.find("lr_find: skipped"), std::string::npos);
  EXPECT_NE(text.find("scale_batch_size: skipped"), std::string::npos);
  EXPECT_TRUE(net.sizes.empty());
  options.callbacks = {LearningRateFinder(), BatchSizeFinder()};
  Trainer(options).fit(net, data);
  EXPECT_EQ(net.sizes, Sizes{4});
}

struct Plain : Callback {};

TEST(Callbacks, TunersComeFirstAndCheckpointsLast) {
  TrainerOptions options = quiet({.callbacks = {ModelCheckpoint(), EarlyStopping({.monitor = "loss"}),
                                                LearningRateFinder(), Plain(), BatchSizeFinder()}});
  options.enable_checkpointing = true;
  const Trainer trainer(options);
  std::string order;
  for (const auto& callback : trainer.callbacks()) {
    const Callback& c = *callback;
    order += typeid(c) == typeid(LearningRateFinder) ? "L"
             : typeid(c) == typeid(BatchSizeFinder)  ? "B"
             : typeid(c) == typeid(EarlyStopping)    ? "E"
             : typeid(c) == typeid(Plain)            ? "p"
                                                     : "M";
  }
  EXPECT_EQ(order, "LBEpM");
}

}  // namespace
}  // namespace anneal_test
