// Learning-rate schedules against PyTorch's numbers.
#include "anneal/optim/schedule.h"

#include <gtest/gtest.h>

#include <cmath>

#include "anneal/core/ops.h"
#include "anneal/optim/adam.h"
#include "anneal/optim/sgd.h"
#include "anneal/tests/fixture.h"
#include "anneal/tests/temp_folder.h"

using namespace anneal;
using anneal::testing::fixture;
using anneal::testing::message_of;
using Json = nlohmann::json;

namespace {

using optim::RunNumbers;
using optim::Schedule;

using Int = std::int64_t;
Schedule make(const std::string& kind, const Json& o);

std::vector<Schedule> make_all(const Json& list) {
  std::vector<Schedule> schedules;
  for (const Json& part : list) schedules.push_back(make(part["kind"], part["options"]));
  return schedules;
}
std::vector<optim::Steps> steps_of(const Json& list) {
  const auto numbers = list.get<std::vector<Int>>();
  return {numbers.begin(), numbers.end()};
}

Schedule make(const std::string& kind, const Json& o) {
  const auto steps = [&](const char* name) { return o.at(name).get<Int>(); };
  if (kind == "StepLR") return optim::step_lr(steps("step_size"), o["gamma"]);
  if (kind == "MultiStepLR") return optim::multi_step_lr(steps_of(o["milestones"]), o["gamma"]);
  if (kind == "ExponentialLR") return optim::exponential_lr(o["gamma"]);
  if (kind == "LinearLR") return optim::linear_lr(o["start_factor"], o["end_factor"], steps("total_iters"));
  if (kind == "PolynomialLR") return optim::polynomial_lr(steps("total_iters"), o["power"]);
  if (kind == "CosineAnnealingLR") return optim::cosine_annealing_lr(steps("T_max"), o["eta_min"]);
  if (kind == "CosineAnnealingWarmRestarts")
    return optim::cosine_annealing_warm_restarts(steps("T_0"), steps("T_mult"), o["eta_min"]);
  if (kind == "OneCycleLR") {
    optim::OneCycleOptions options;
    options.pct_start = o.value("pct_start", options.pct_start);
    options.anneal_strategy = o.value("anneal_strategy", options.anneal_strategy);
    options.div_factor = o.value("div_factor", options.div_factor);
    options.final_div_factor = o.value("final_div_factor", options.final_div_factor);
    options.three_phase = o.value("three_phase", options.three_phase);
    options.cycle_momentum = o.value("cycle_momentum", options.cycle_momentum);
    options.base_momentum = o.value("base_momentum", options.base_momentum);
    options.max_momentum = o.value("max_momentum", options.max_momentum);
    return optim::one_cycle_lr(steps("total_steps"), options);
  }
  if (kind == "CyclicLR") {
    optim::CyclicOptions options{.step_size_up = steps("step_size_up")};
    if (o.contains("step_size_down")) options.step_size_down = steps("step_size_down");
    options.mode = o.value("mode", options.mode);
    options.gamma = o.value("gamma", options.gamma);
    options.base_momentum = o.value("base_momentum", options.base_momentum);
    return optim::cyclic_lr(o["max_lr"], options);
  }
  if (kind == "SequentialLR") return optim::sequential_lr(make_all(o["schedules"]), steps_of(o["milestones"]));
  if (kind == "ChainedScheduler") return optim::chained(make_all(o["schedules"]));
  if (kind == "SWALR") return optim::swa_lr(o["swa_lr"], steps("anneal_epochs"), o["anneal_strategy"]);
  if (kind == "ConstantLR") {
    // A schedule of one's own is a lambda.
    return [factor = o["factor"].get<double>(), steps = steps("total_iters")](double base, Int step) {
      return step < steps ? base * factor : base;
    };
  }
  EXPECT_EQ(kind, "warmup_cosine");
  return optim::warmup_cosine(steps("warmup"), steps("total"));
}

std::vector<double> rates(const Schedule& schedule, Int first, Int last, double base = 1) {
  std::vector<double> rates;
  for (Int step = first; step <= last; ++step) rates.push_back(schedule(base, step));
  return rates;
}
void expect_near(const std::vector<double>& got, const std::vector<double>& expected, double tolerance) {
  ASSERT_EQ(got.size(), expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], expected[i], tolerance) << "entry " << i;
}

TEST(Schedules, FollowPyTorch) {
  const Json all = fixture("optim.json");
  ASSERT_EQ(all["schedules"].size(), 24u);
  for (const Json& given : all["schedules"]) {
    SCOPED_TRACE(given["name"].get<std::string>());
    const Tensor p = zeros({1}, {.requires_grad = true});
    optim::SGD sgd({{"p", p}}, {.lr = given["base_lr"]});
    optim::LRScheduler scheduler(sgd, make(given["kind"], given["options"]));
    const std::vector<double> expected = given["lr"], momentum = given["momentum"];
    for (std::int64_t t = 0; t < static_cast<std::int64_t>(expected.size()); ++t) {
      // PyTorch multiplies its way from step to step, which leaves some rounding.
      EXPECT_NEAR(sgd.lr(), expected[static_cast<std::size_t>(t)], 1e-12) << "step " << t;
      EXPECT_NEAR(sgd.momentum(), momentum[static_cast<std::size_t>(t)], 1e-12) << "step " << t;
      scheduler.step();
    }
  }
}

TEST(Schedules, MomentumIsAdamsFirstBeta) {
  const Tensor p = zeros({1}, {.requires_grad = true}), q = zeros({1}, {.requires_grad = true});
  const std::vector<NamedTensor> first{{"p", p}}, second{{"q", q}};
  optim::Adam adam(std::vector<optim::ParamGroup<optim::AdamOptions>>{{first, {.beta1 = 0.7}}, {second, {}}});
  optim::LRScheduler scheduler(adam, optim::cyclic_lr(1, {.step_size_up = 2}));
  EXPECT_EQ(adam.momentum(0), 0.9);
  scheduler.set_steps(2);
  EXPECT_NEAR(adam.momentum(0), 0.8, 1e-15);
  EXPECT_EQ(adam.numbers(1).beta1, adam.momentum(0));
}

// A part that has none leaves it as it was at the end of the one before.
TEST(Schedules, MomentumInSequencesAndChains) {
  const Schedule cyclic = optim::cyclic_lr(1, {.step_size_up = 4, .step_size_down = 4});
  EXPECT_FALSE(optim::constant_lr().momentum(0));
  const Schedule sequence = optim::sequential_lr({cyclic, optim::constant_lr(), cyclic}, {3, 10});
  const std::vector<double> expected{0.9, 0.875, 0.85, 0.85, 0.85};
  for (Int step = 0; step < 5; ++step)
    EXPECT_NEAR(*sequence.momentum(step), expected[static_cast<std::size_t>(step)], 1e-15) << step;
  EXPECT_NEAR(*sequence.momentum(12), 0.85, 1e-15);
  EXPECT_NEAR(*optim::chained({cyclic, optim::exponential_lr(0.5)}).momentum(4), 0.8, 1e-15);
  const Schedule later = optim::cyclic_lr(1, {.step_size_up = optim::num_epochs});
  EXPECT_NEAR(*later.in({.num_epochs = 4}).momentum(2), 0.85, 1e-15);
}

TEST(Schedules, OneForEachGroup) {
  const Tensor p = zeros({1}, {.requires_grad = true}), q = zeros({1}, {.requires_grad = true});
  const std::vector<NamedTensor> first{{"p", p}}, second{{"q", q}};
  optim::SGD sgd(std::vector<optim::ParamGroup<optim::SGDOptions>>{{first, {.lr = 1}}, {second, {.lr = 2}}});
  const Schedule both = optim::per_group({optim::exponential_lr(0.5), optim::constant_lr()});
  optim::LRScheduler scheduler(sgd, optim::chained({both, optim::exponential_lr(0.1)}));
  scheduler.set_steps(2);
  EXPECT_NEAR(sgd.lr(0), 0.25 * 0.01, 1e-15);
  EXPECT_NEAR(sgd.lr(1), 2 * 0.01, 1e-15);
  const auto by_group = [](double base, std::int64_t, std::size_t group) { return base * static_cast<double>(group); };
  EXPECT_EQ(Schedule(by_group)(3, 0, 2), 6);
  EXPECT_EQ(message_of<Error>([&] { optim::LRScheduler(sgd, optim::per_group({optim::constant_lr()})); }),
            "per_group: expected a schedule for each group, got 1 and there is a group 1");
}

TEST(Schedules, WarmupCosine) {
  const auto schedule = optim::warmup_cosine(4, 12, 0.1);
  EXPECT_EQ(schedule(2, 0), 0.5);
  EXPECT_EQ(schedule(2, 3), 2);
  EXPECT_EQ(schedule(2, 4), 2);
  EXPECT_NEAR(schedule(2, 8), (2 + 0.2) / 2, 1e-15);
  EXPECT_NEAR(schedule(2, 12), 0.2, 1e-15);
  EXPECT_EQ(schedule(2, 1000), schedule(2, 12));
  EXPECT_EQ(optim::warmup_cosine(0, 1)(2, 0), 2);
}

TEST(Schedules, CosineOfPytorchAccelerated) {
  const Schedule cosine = optim::cosine_lr(10, {.warmup = 2, .cooldown = 2, .min_lr = 0, .warmup_starting_lr = 0.5});
  expect_near(rates(cosine, 0, 2), {0.5, 0.75, 1}, 1e-15);
  EXPECT_NEAR(cosine(1, 5), 0.5, 1e-15);
  expect_near(rates(cosine, 8, 12), {0, 0, 0, 0, 0}, 0);
  EXPECT_EQ(optim::cosine_lr(10)(1, 10), 1e-6);

  const Schedule shares =
      optim::cosine_lr(8, {.warmup = 4, .min_lr_ratio = 0.1, .warmup_starting_lr_ratio = 0.2, .k_decay = 2});
  EXPECT_NEAR(shares(10, 0), 2, 1e-15);
  EXPECT_NEAR(shares(10, 6), 1 + 4.5 * (1 + std::cos(std::acos(-1) / 4)), 1e-14);
  EXPECT_NEAR(shares(10, 8), 1, 1e-15);
}

TEST(Schedules, WarmUpStableDecay) {
  optim::WSDOptions options{.decay_phase_ratio = 0.2, .min_lr_ratio = 0.1};
  expect_near(rates(optim::wsd_lr(20, options), 0, 21),
              {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0.55, 0.363604, 0.220577, 0.1, 0.1}, 1e-6);
  options.inverse = true;
  expect_near(rates(optim::wsd_lr(20, options), 16, 20), {1, 0.307692, 0.181818, 0.129032, 0.1}, 1e-6);
  options.warmup = 4;
  options.warmup_starting_lr = 0.2;
  expect_near(rates(optim::wsd_lr(20, options), 0, 5), {0.2, 0.4, 0.6, 0.8, 1, 1}, 1e-15);
}

TEST(Schedules, WarmUpStableDecayWithSeveralCheckpoints) {
  const auto ends = [](Int total_steps, Int checkpoints) {
    std::vector<Int> ends;
    for (const auto& decay : optim::wsd_decays(total_steps, {.num_checkpoints = checkpoints}))
      ends.push_back(decay.end);
    return ends;
  };
  EXPECT_EQ(ends(200, 3), (std::vector<Int>{50, 100, 200}));
  EXPECT_EQ(ends(203, 9), (std::vector<Int>{50, 100, 200, 203}));
  EXPECT_EQ(ends(200, 1), (std::vector<Int>{200}));

  const optim::WSDOptions options{.decay_phase_ratio = 0.2, .min_lr_ratio = 0.1, .num_checkpoints = 3};
  EXPECT_EQ(optim::wsd_decays(200, options)[1].begin, 90);
  const Schedule schedule = optim::wsd_lr(200, options);
  EXPECT_EQ(schedule(1, 40), 1);
  EXPECT_NEAR(schedule(1, 49), 0.1 + 0.9 * (1 - std::sqrt(0.9)), 1e-15);
  EXPECT_EQ(schedule(1, 50), 1);
  EXPECT_LT(schedule(1, 91), 1);
  EXPECT_EQ(schedule(1, 180), 1);
  EXPECT_NEAR(schedule(1, 200), 0.1, 1e-15);
  EXPECT_NEAR(schedule(1, 999), 0.1, 1e-15);
}

TEST(Schedules, AnnealToTheRateOfAveraging) {
  expect_near(rates(optim::swa_lr(0.1, 2, "linear"), 0, 3), {1, 0.55, 0.1, 0.1}, 1e-15);
  expect_near(rates(optim::swa_lr(0.1, 3), 0, 4), {1, 0.775, 0.325, 0.1, 0.1}, 1e-15);
}

TEST(Schedules, StayAtTheirEnd) {
  for (const Schedule& schedule : {optim::one_cycle_lr(10), optim::polynomial_lr(10), optim::one_cycle_lr(1),
                                   optim::one_cycle_lr(10, {.pct_start = 0.1, .three_phase = true})}) {
    EXPECT_NEAR(schedule(1, 10), 0, 1e-5);
    EXPECT_EQ(schedule(1, 1000), schedule(1, 10));
  }
}

TEST(Placeholders, AreNumbersOfTheRun) {
  const RunNumbers run{.num_epochs = 3,
                       .train_dataloader_len = 5,
                       .eval_dataloader_len = 7,
                       .total_steps = 9,
                       .accumulate_grad_batches = 2};
  EXPECT_EQ(optim::Steps(optim::num_epochs).in(run), 3);
  EXPECT_EQ(optim::Steps(optim::num_update_steps_per_epoch).in(run), 3);
  EXPECT_EQ(optim::Steps(optim::per_process_num_update_steps_per_epoch).in(run), 3);
  EXPECT_EQ(optim::Steps(optim::train_dataloader_len).in(run), 5);
  EXPECT_EQ(optim::Steps(optim::eval_dataloader_len).in(run), 7);
  EXPECT_EQ(optim::Steps(optim::total_steps).in(run), 9);
  EXPECT_EQ((2 * optim::num_epochs + optim::total_steps - 1).in(run), 14);
  EXPECT_EQ((optim::total_steps * 0.5).in(run), 4);
  EXPECT_EQ((optim::total_steps / optim::num_epochs / 2 * 2).in(run), 3);
  EXPECT_EQ((100 * optim::num_epochs / optim::num_epochs * 0.29).in(run), 29);
  EXPECT_FALSE((optim::num_epochs * 2).known());
  EXPECT_TRUE((optim::Steps(1) + 2).known());
  EXPECT_EQ((optim::Steps(7) / 2 - 1).in({}), 2);
}

TEST(Placeholders, MakeASchedulesNumbers) {
  const RunNumbers run{.train_dataloader_len = 4, .accumulate_grad_batches = 2};
  const Schedule schedule = optim::step_lr(optim::num_update_steps_per_epoch * 2, 0.5);
  EXPECT_TRUE(schedule);
  EXPECT_FALSE(schedule.known());
  EXPECT_EQ(message_of<Error>([&] { schedule(1, 0); }),
            "schedule: its numbers are known in a run; ask for in(run) first");
  expect_near(rates(schedule.in(run), 0, 8), {1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25}, 0);

  const Tensor p = zeros({1}, {.requires_grad = true});
  optim::SGD sgd({{"p", p}}, {.lr = 1});
  optim::LRScheduler scheduler(sgd, schedule, run);
  scheduler.set_steps(4);
  EXPECT_EQ(sgd.lr(), 0.5);
  EXPECT_EQ(scheduler.base(), std::vector<double>{1});
}

TEST(Placeholders, ReachThroughEverySchedule) {
  const RunNumbers run{.num_epochs = 8, .total_steps = 40};
  const auto& epochs = optim::num_epochs;
  const auto& total = optim::total_steps;
  const auto of_run = [](const RunNumbers& numbers) { return optim::exponential_lr(1 - 1.0 / *numbers.num_epochs); };
  const std::vector<std::pair<Schedule, Schedule>> pairs = {
      {optim::step_lr(epochs), optim::step_lr(8)},
      {optim::multi_step_lr({3, epochs, total / 2}), optim::multi_step_lr({3, 8, 20})},
      {optim::linear_lr(0.5, 1, epochs), optim::linear_lr(0.5, 1, 8)},
      {optim::polynomial_lr(total), optim::polynomial_lr(40)},
      {optim::cosine_annealing_lr(epochs), optim::cosine_annealing_lr(8)},
      {optim::cosine_annealing_warm_restarts(epochs, 2), optim::cosine_annealing_warm_restarts(8, 2)},
      {optim::one_cycle_lr(total), optim::one_cycle_lr(40)},
      {optim::cyclic_lr(2, {.step_size_up = epochs}), optim::cyclic_lr(2, {.step_size_up = 8})},
      {optim::swa_lr(0.1, epochs), optim::swa_lr(0.1, 8)},
      {optim::warmup_cosine(epochs, total), optim::warmup_cosine(8, 40)},
      {optim::cosine_lr(total, {.warmup = epochs}), optim::cosine_lr(40, {.warmup = 8})},
      {optim::wsd_lr(total, {.num_checkpoints = 2}), optim::wsd_lr(40, {.num_checkpoints = 2})},
      {optim::sequential_lr({optim::step_lr(2), optim::step_lr(epochs)}, {total - epochs}),
       optim::sequential_lr({optim::step_lr(2), optim::step_lr(8)}, {32})},
      {optim::chained({optim::step_lr(2), optim::step_lr(epochs)}),
       optim::chained({optim::step_lr(2), optim::step_lr(8)})},
      {of_run, optim::exponential_lr(0.875)},
  };
  for (const auto& [named, known] : pairs) {
    EXPECT_FALSE(named.known());
    EXPECT_TRUE(known.known());
    EXPECT_EQ(rates(named.in(run), 0, 45), rates(known, 0, 45));
  }
}

TEST(Placeholders, ThrowWhatTheRunDoesNotKnow) {
  EXPECT_EQ(message_of<ConfigError>([] { optim::one_cycle_lr(optim::total_steps * 2).in({}); }),
            "total_steps: a schedule needs it, but it is not known: the run has no limit, or a loader no length");
  EXPECT_EQ(message_of<ConfigError>([] { optim::step_lr(optim::num_epochs - 3).in({.num_epochs = 3}); }),
            "step_size: expected at least 1, got 0");
  EXPECT_NE(message_of<ConfigError>([] { (1 / (optim::num_epochs - 3)).in({.num_epochs = 3}); }), "");
  EXPECT_EQ(message_of<Error>([] { Schedule()(1, 0); }), "schedule: an empty one has no rate");
}

TEST(LRScheduler, ScalesEachGroupAndResumes) {
  const Tensor a = zeros({1}, {.requires_grad = true});
  const Tensor b = zeros({1}, {.requires_grad = true});
  optim::SGD sgd({{{{"a", a}}, {.lr = 1}}, {{{"b", b}}, {.lr = 8}}});
  optim::LRScheduler scheduler(sgd, optim::exponential_lr(0.5));
  scheduler.step();
  scheduler.step();
  EXPECT_EQ(scheduler.steps(), 2);
  EXPECT_EQ(sgd.lr(0), 0.25);
  EXPECT_EQ(sgd.lr(1), 2);
  scheduler.set_steps(1);
  EXPECT_EQ(sgd.lr(1), 4);
}

TEST(Schedules, RefuseBadOptions) {
  EXPECT_EQ(message_of<ConfigError>([] { optim::step_lr(0); }), "step_size: expected at least 1, got 0");
  EXPECT_NE(message_of<ConfigError>([] { optim::cosine_annealing_lr(0); }), "");
  EXPECT_NE(message_of<ConfigError>([] { optim::linear_lr(0, 1, 0); }), "");
  EXPECT_NE(message_of<ConfigError>([] { optim::warmup_cosine(5, 5); }), "");
  EXPECT_NE(message_of<ConfigError>([] { optim::warmup_cosine(-1, 5); }), "");
  EXPECT_NE(message_of<ConfigError>([] { optim::polynomial_lr(0); }), "");
  EXPECT_NE(message_of<ConfigError>([] { optim::cosine_annealing_warm_restarts(0); }), "");
  EXPECT_NE(message_of<ConfigError>([] { optim::cosine_annealing_warm_restarts(5, 0); }), "");
  EXPECT_NE(message_of<ConfigError>([] { optim::one_cycle_lr(0); }), "");
  EXPECT_NE(message_of<ConfigError>([] { optim::one_cycle_lr(10, {.pct_start = 1.5}); }), "");
  EXPECT_EQ(message_of<ConfigError>([] { optim::one_cycle_lr(10, {.anneal_strategy = "log"}); }),
            "anneal_strategy: expected \"cos\" or \"linear\", got \"log\"");
  EXPECT_NE(message_of<ConfigError>([] { optim::cyclic_lr(1, {.step_size_up = 0}); }), "");
  EXPECT_NE(message_of<ConfigError>([] { optim::cyclic_lr(1, {.mode = "square"}); }), "");
  EXPECT_NE(message_of<ConfigError>([] { optim::swa_lr(0.1, -1); }), "");
  EXPECT_NE(message_of<ConfigError>([] { optim::cosine_lr(10, {.warmup = 5, .cooldown = 5}); }), "");
  EXPECT_EQ(message_of<ConfigError>([] { optim::wsd_lr(40, {.decay_phase_ratio = 0.5, .num_checkpoints = 2}); }),
            "decay_phase_ratio: expected 0 to 1/3 with several checkpoints, got 0.5");
  EXPECT_NE(message_of<ConfigError>([] { optim::wsd_lr(3, {.num_checkpoints = 2}); }), "");
  EXPECT_NE(message_of<ConfigError>([] { optim::wsd_lr(3, {.num_checkpoints = 0}); }), "");
  EXPECT_EQ(message_of<ConfigError>([] { optim::sequential_lr({optim::constant_lr()}, {1}); }),
            "milestones: expected one less than the 1 schedules, got 1");
  EXPECT_NE(message_of<ConfigError>([] {
              optim::sequential_lr({optim::constant_lr(), optim::constant_lr(), optim::constant_lr()}, {5, 1});
            }),
            "");
}

}  // namespace
