// The searches for a learning rate and a batch size: rows C-030 and C-176 to C-180.
#include "anneal/trainer/tuner.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "anneal/tests/trainer/markup.h"
#include "anneal/tests/trainer/support.h"
#include "anneal/trainer/checkpoint.h"

namespace anneal_test {
namespace {

using Values = std::vector<double>;
using Sizes = std::vector<std::int64_t>;
using Weights = std::vector<Values>;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

void expect_near(const Values& values, const Values& wanted, double relative = 1e-12) {
  ASSERT_EQ(values.size(), wanted.size());
  for (std::size_t i = 0; i < values.size(); ++i)
    EXPECT_NEAR(values[i], wanted[i], relative * std::abs(wanted[i])) << "at " << i;
}

Weights weights_of(const nn::Module& module) {
  Weights weights;
  for (const NamedTensor& entry : module.state_dict()) weights.push_back(entry.tensor.to_vector());
  return weights;
}

// Everything that has state: dropout, batch norm, moments, a schedule of the run's numbers, metrics, a count of its
// own.
struct Net : TrainingModule {
  nn::Sequential net{{this, "net"}, nn::Linear(3, 8), nn::BatchNorm1d(8),
                     nn::ReLU(),    nn::Dropout(0.3), nn::Linear(8, 1)};
  double learning_rate = 1e-2;
  int batch_size = 0;
  std::int64_t seen = 0, limit = std::numeric_limits<std::int64_t>::max();
  Sizes sizes;   // of training batches
  Values rates;  // of optimizer steps
  std::function<void(Net&)> in_training_step;

  void take(const Batch& batch) {
    sizes.push_back(batch.size());
    check<OutOfMemory>(batch.size() <= limit, "no memory for {}", batch.size());
  }
  Tensor training_step(const Batch& batch, StepContext& step) override {
    ++seen;
    take(batch);
    if (in_training_step) in_training_step(*this);
    const Tensor loss = mse_loss(net(batch["x"]), batch["y"]);
    step.log("loss", loss, {.on_step = true, .on_epoch = true});
    return loss;
  }
  void validation_step(const Batch& batch, StepContext& step) override {
    take(batch);
    step.log("val_loss", mse_loss(net(batch["x"]), batch["y"]));
  }
  void test_step(const Batch& batch, StepContext&) override { take(batch); }
  Batch predict_step(const Batch& batch, StepContext&) override {
    take(batch);
    return {{"y", net(batch["x"])}};
  }
  OptimizerConfig configure_optimizers() override {
    return {optim::AdamW(parameters(), {.lr = learning_rate}), optim::linear_lr(1, 0, optim::total_steps),
            Interval::step};
  }
  void on_before_optimizer_step(optim::Optimizer& optimizer) override { rates.push_back(optimizer.lr()); }
  void on_save_checkpoint(Checkpoint& checkpoint) override { checkpoint.user["seen"] = seen; }
  void on_load_checkpoint(Checkpoint& checkpoint) override {
    seen = std::get<std::int64_t>(checkpoint.user.at("seen"));
  }
};

Net fresh_net() {
  Generator generator(3);
  const GeneratorScope scope(generator);
  return Net();
}

DataLoader loader(std::int64_t samples = 24, std::int64_t batch_size = 4) {
  Generator generator(9);
  const Tensor x = randn({samples, 3}, {}, generator), y = randn({samples, 1}, {}, generator);
  return DataLoader(TensorDataset{{"x", x}, {"y", y}}, {.batch_size = batch_size, .shuffle = true, .seed = 4});
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

// ---- the learning rate ----

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

// A search in every second epoch.
template <class Finder>
struct EverySecondEpoch : Finder {
  using Finder::Finder;
  std::int64_t searches = 0;
  void on_train_epoch_start(Trainer& trainer, TrainingModule& module) override {
    if (trainer.current_epoch() % 2 == 1) return;
    ++searches;
    if constexpr (std::derived_from<Finder, LearningRateFinder>) this->lr_find(trainer, module);
    else this->scale_batch_size(trainer, module);
  }
};

struct Outcome {
  Weights weights;
  std::string rows;
  std::int64_t seen;
  bool operator==(const Outcome&) const = default;
};

Outcome outcome_of(std::vector<Shared<Callback>> callbacks, const DataLoader& data) {
  const TempFolder dir;
  Net net = fresh_net();
  Trainer trainer(quiet({.max_epochs = 4,
                         .log_every_n_steps = 1,
                         .accumulate_grad_batches = 2,
                         .logger = CsvLogger({.save_dir = dir.path()}),
                         .callbacks = std::move(callbacks)}));
  trainer.fit(net, data, loader(7));
  return {weights_of(net), read_text(trainer.log_dir() / "metrics.csv"), net.seen};
}

TEST(LearningRateFinder, ASearchLeavesNoTraceInTheRun) {
  const auto finder = std::make_shared<EverySecondEpoch<LearningRateFinder>>(
      LearningRateFinderOptions{.num_training = 7, .update_attr = false});
  const Outcome plain = outcome_of({}, loader());
  EXPECT_TRUE(outcome_of({finder}, loader()) == plain);
  EXPECT_EQ(finder->searches, 2);
  EXPECT_EQ(finder->curve().lr.size(), 7u);
  EXPECT_EQ(plain.seen, 24);
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

// ---- the batch size ----

std::int64_t size_for(std::int64_t limit, const BatchSizeFinderOptions& options, std::int64_t samples = 1000) {
  Net net = fresh_net();
  net.net.eval();  // batch norm trains on no batch of one
  net.limit = limit;
  DataLoader data = loader(samples);
  Trainer trainer(quiet());
  const std::int64_t found = Tuner(trainer).scale_batch_size(net, data, options);
  EXPECT_EQ(data.options().batch_size, found);
  EXPECT_EQ(net.batch_size, found);
  return found;
}

TEST(BatchSizeFinder, DoublesOrHalvesUntilItFits) {
  EXPECT_EQ(size_for(20, {}), 16);
  EXPECT_EQ(size_for(20, {.max_trials = 3}), 8);
  EXPECT_EQ(size_for(1, {.init_val = 8}), 1);
  EXPECT_EQ(size_for(5, {.init_val = 8}), 4);
  EXPECT_EQ(message_of<Error>([] { size_for(0, {}); }), "scale_batch_size: not even batches of 1 fit into memory");
}

TEST(BatchSizeFinder, SearchesBetweenTheLastTwo) {
  EXPECT_EQ(size_for(20, {.mode = "binsearch"}), 19);
  EXPECT_EQ(size_for(20, {.mode = "binsearch", .margin = 0}), 20);
  EXPECT_EQ(size_for(31, {.mode = "binsearch", .margin = 0}), 31);
  EXPECT_EQ(size_for(1, {.mode = "binsearch", .init_val = 8}), 1);
  EXPECT_EQ(size_for(6, {.mode = "binsearch", .init_val = 8, .margin = 0}), 6);
  EXPECT_THROW(size_for(0, {.mode = "binsearch"}), Error);
}

TEST(BatchSizeFinder, IsBoundedByTheDataSet) {
  EXPECT_EQ(size_for(1000, {}, 50), 50);
  EXPECT_EQ(size_for(1000, {.mode = "binsearch"}, 50), 50);
  EXPECT_EQ(size_for(1000, {.max_val = 16}, 50), 16);
  EXPECT_EQ(size_for(1000, {.init_val = 64}, 50), 50);
  EXPECT_EQ(size_for(40, {}, 50), 32);
}

TEST(BatchSizeFinder, TriesStepsOfEachSizeAndLeavesTheRestAsItWas) {
  Net net = fresh_net();
  net.limit = 10;
  const Weights weights = weights_of(net);
  DataLoader data = loader(50, 3);
  data.set_epoch(2);
  Trainer trainer(quiet());
  const auto offset = trainer.generator().offset();
  EXPECT_EQ(Tuner(trainer).scale_batch_size(net, data, {.steps_per_trial = 2}), 8);
  EXPECT_EQ(net.sizes, (Sizes{2, 2, 4, 4, 8, 8, 16}));
  EXPECT_EQ(weights_of(net), weights);
  EXPECT_EQ(net.seen, 0);
  EXPECT_EQ(trainer.global_step(), 0);
  EXPECT_EQ(trainer.generator().offset(), offset);
  EXPECT_EQ(data.epoch(), 2);
  EXPECT_TRUE(data.options().shuffle);
}

TEST(BatchSizeFinder, GoesThroughShortEpochsAgain) {
  Net net = fresh_net();
  DataLoader data = loader(4, 3);
  Trainer trainer(quiet());
  Tuner(trainer).scale_batch_size(net, data);
  EXPECT_EQ(net.sizes, (Sizes{2, 2, 2, 4, 4, 4}));
}

// Takes a megabyte for each sample.
struct Hungry : Probe {
  Tensor training_step(const Batch& batch, StepContext& step) override {
    const Tensor much = empty({batch.size(), 1 << 18});
    return Probe::training_step(batch, step);
  }
};

TEST(BatchSizeFinder, AsksTheAllocator) {
  Hungry module;
  DataLoader data = counting_loader(64);
  Trainer trainer(quiet());
  allocator().empty_cache();
  allocator().set_limit(allocator().stats().active + (24 << 20));
  const std::int64_t found = Tuner(trainer).scale_batch_size(module, data);
  allocator().set_limit(0);
  EXPECT_EQ(found, 16);
  EXPECT_LT(allocator().stats().cached, 24u << 20);  // memory went back to the system
}

TEST(BatchSizeFinder, OtherErrorsEndIt) {
  Net net = fresh_net();
  const Weights weights = weights_of(net);
  net.in_training_step = [](Net& at) {
    if (at.sizes.back() == 8) throw std::runtime_error("eight");
  };
  DataLoader data = loader();
  Trainer trainer(quiet());
  EXPECT_EQ(message_of<std::runtime_error>([&] { Tuner(trainer).scale_batch_size(net, data); }), "eight");
  EXPECT_EQ(weights_of(net), weights);
  EXPECT_EQ(data.options().batch_size, 4);
  EXPECT_EQ(trainer.global_step(), 0);
}

TEST(BatchSizeFinder, TriesEvaluationsToo) {
  for (const std::string method : {"validate", "test", "predict"}) {
    Net net = fresh_net();
    net.limit = 9;
    DataLoader data = loader(50);
    Trainer trainer(quiet());
    EXPECT_EQ(Tuner(trainer).scale_batch_size(net, data, {.method = method}), 8) << method;
    EXPECT_EQ(net.sizes, (Sizes{2, 2, 2, 4, 4, 4, 8, 8, 8, 16})) << method;
    EXPECT_EQ(net.seen, 0);

    // As a callback of the run itself.
    net.sizes.clear();
    const auto finder = std::make_shared<BatchSizeFinder>(BatchSizeFinderOptions{.init_val = 8});
    Trainer with(quiet({.limit_test_batches = 2, .callbacks = {finder}}));
    const DataLoader same = loader(50);
    if (method == "validate") {
      const auto metrics = with.validate(net, same, {.verbose = false});
      EXPECT_EQ(metrics.at(0).names(), "val_loss");
    } else if (method == "test") {
      with.test(net, same, {.verbose = false});
    } else {
      EXPECT_EQ(with.predict(net, same).size(), 7u);
    }
    EXPECT_EQ(finder->optimal_batch_size(), 8);
    const Sizes run(net.sizes.begin() + 4, net.sizes.end());  // after 8, 8, 8, 16
    EXPECT_EQ(run, method == "test" ? (Sizes{8, 8}) : (Sizes{8, 8, 8, 8, 8, 8, 2})) << method;
  }
}

TEST(BatchSizeFinder, TheRunHasTheSizeFromItsFirstBatch) {
  const auto finder = std::make_shared<BatchSizeFinder>(BatchSizeFinderOptions{.max_val = 8});
  const Outcome found = outcome_of({finder}, loader(24, 3));
  EXPECT_TRUE(found == outcome_of({}, loader(24, 8)));  // its schedule knows of the new number of steps
  EXPECT_EQ(finder->optimal_batch_size(), 8);
}

TEST(BatchSizeFinder, SearchesAgainInLaterEpochs) {
  Net net = fresh_net();
  std::int64_t kept = 0;
  const auto finder =
      std::make_shared<EverySecondEpoch<BatchSizeFinder>>(BatchSizeFinderOptions{.steps_per_trial = 1, .attr = &kept});
  net.in_training_step = [&](Net& at) { at.limit = finder->searches < 2 ? 9 : 4; };
  net.limit = 9;
  Trainer(quiet({.max_epochs = 3, .callbacks = {finder}})).fit(net, loader(16));
  EXPECT_EQ(finder->searches, 2);
  EXPECT_EQ(kept, 4);
  EXPECT_EQ(net.batch_size, 0);  // attr took its place
  // on_fit_start: 2 4 8 16; epoch 0: the same, then its batches; epoch 1; epoch 2.
  EXPECT_EQ(net.sizes, (Sizes{2, 4, 8, 16, 2, 4, 8, 16, 8, 8, 8, 8, 2, 4, 8, 4, 4, 4, 4}));
}

TEST(BatchSizeFinder, AResumedRunKeepsTheSize) {
  const TempFolder dir;
  const auto run = [&](const std::string& resume, std::int64_t epochs) {
    Net net = fresh_net();
    const auto finder = std::make_shared<BatchSizeFinder>(BatchSizeFinderOptions{.max_val = 8});
    TrainerOptions options = quiet({.max_epochs = epochs, .callbacks = {finder}});
    options.callbacks.push_back(LambdaCallback({.on_train_end = [&](Trainer& trainer, TrainingModule&) {
      trainer.save_checkpoint(dir / (std::to_string(epochs) + ".safetensors"));
    }}));
    std::string text;
    options.sink = [&](std::string_view line) { text += line; };
    Trainer(options).fit(net, loader(24, 3), {.resume = resume});
    EXPECT_EQ(text.find("differ"), std::string::npos) << text;
    EXPECT_EQ(net.batch_size, 8);
    return net.sizes;
  };
  run("", 1);
  EXPECT_EQ(run((dir / "1.safetensors").string(), 2), (Sizes{8, 8, 8}));
}

TEST(BatchSizeFinder, BadOptionsAreNamed) {
  const auto message = [](BatchSizeFinderOptions options) {
    return message_of<ConfigError>([&] { BatchSizeFinder finder(options); });
  };
  EXPECT_TRUE(message({.mode = "linear"}).starts_with("mode"));
  EXPECT_TRUE(message({.steps_per_trial = 0}).starts_with("steps_per_trial"));
  EXPECT_TRUE(message({.init_val = 0}).starts_with("init_val"));
  EXPECT_TRUE(message({.max_trials = 0}).starts_with("max_trials"));
  EXPECT_TRUE(message({.margin = 1}).starts_with("margin"));
  EXPECT_TRUE(message({.margin = -0.1}).starts_with("margin"));
  EXPECT_TRUE(message({.max_val = 0}).starts_with("max_val"));
  Net net = fresh_net();
  DataLoader data = loader();
  Trainer trainer(quiet());
  EXPECT_TRUE(message_of<ConfigError>([&] {
                Tuner(trainer).scale_batch_size(net, data, {.method = "tune"});
              }).starts_with("method"));
  Trainer with(quiet({.callbacks = {BatchSizeFinder()}}));
  EXPECT_NE(message_of<ConfigError>([&] {
              with.validate(net, {data, data});
            }).find("one loader, got 2"),
            std::string::npos);
}

}  // namespace
}  // namespace anneal_test
