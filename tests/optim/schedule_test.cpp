// Learning-rate schedules against PyTorch's numbers.
#include "anneal/optim/schedule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "anneal/core/ops.h"
#include "anneal/optim/sgd.h"
#include "anneal/tests/temp_folder.h"

#if !defined(ANNEAL_FIXTURES)
#define ANNEAL_FIXTURES "tests/fixtures"
#endif

using namespace anneal;
using anneal::testing::message_of;
using Json = nlohmann::json;

namespace {

optim::Schedule make(const std::string& kind, const Json& o) {
  if (kind == "StepLR") return optim::step_lr(o["step_size"], o["gamma"]);
  if (kind == "MultiStepLR") return optim::multi_step_lr(o["milestones"], o["gamma"]);
  if (kind == "ExponentialLR") return optim::exponential_lr(o["gamma"]);
  if (kind == "LinearLR") return optim::linear_lr(o["start_factor"], o["end_factor"], o["total_iters"]);
  if (kind == "CosineAnnealingLR") return optim::cosine_annealing_lr(o["T_max"], o["eta_min"]);
  if (kind == "ConstantLR") {
    // A schedule of one's own is a lambda.
    return [factor = o["factor"].get<double>(), steps = o["total_iters"].get<std::int64_t>()](
               double base, std::int64_t step) { return step < steps ? base * factor : base; };
  }
  return optim::warmup_cosine(o["warmup"], o["total"]);
}

TEST(Schedules, FollowPyTorch) {
  std::ifstream file(std::string(ANNEAL_FIXTURES) + "/optim.json");
  const Json all = Json::parse(file);
  ASSERT_EQ(all["schedules"].size(), 7u);
  for (const Json& given : all["schedules"]) {
    SCOPED_TRACE(given["name"].get<std::string>());
    const Tensor p = zeros({1}, {.requires_grad = true});
    optim::SGD sgd({{"p", p}}, {.lr = given["base_lr"]});
    optim::LRScheduler scheduler(sgd, make(given["kind"], given["options"]));
    const std::vector<double> expected = given["lr"];
    for (std::int64_t t = 0; t < static_cast<std::int64_t>(expected.size()); ++t) {
      // PyTorch multiplies its way from step to step, which leaves some rounding.
      EXPECT_NEAR(sgd.lr(), expected[static_cast<std::size_t>(t)], 1e-12) << "step " << t;
      scheduler.step();
    }
  }
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
}

}  // namespace
