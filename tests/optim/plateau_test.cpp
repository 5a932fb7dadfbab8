// ReduceLROnPlateau against PyTorch's numbers.
#include "anneal/optim/plateau.h"

#include <gtest/gtest.h>

#include <cmath>

#include "anneal/optim/sgd.h"
#include "anneal/tests/fixture.h"
#include "anneal/tests/temp_folder.h"

using namespace anneal;
using anneal::testing::fixture;
using anneal::testing::message_of;
using Json = nlohmann::json;

namespace {

optim::SGD sgd_with(double lr) { return optim::SGD({{"p", zeros({1}, {.requires_grad = true})}}, {.lr = lr}); }

optim::PlateauOptions options_of(const Json& o) {
  optim::PlateauOptions options;
  options.mode = o.value("mode", options.mode);
  options.factor = o.value("factor", options.factor);
  options.patience = o.value("patience", options.patience);
  options.threshold = o.value("threshold", options.threshold);
  options.threshold_mode = o.value("threshold_mode", options.threshold_mode);
  options.cooldown = o.value("cooldown", options.cooldown);
  options.eps = o.value("eps", options.eps);
  if (o.contains("min_lr")) options.min_lr = {o["min_lr"].get<double>()};
  return options;
}

TEST(ReduceLROnPlateau, FollowsPyTorch) {
  const Json all = fixture("optim.json");
  ASSERT_EQ(all["plateaus"].size(), 8u);
  for (const Json& given : all["plateaus"]) {
    SCOPED_TRACE(given["name"].get<std::string>());
    optim::SGD sgd = sgd_with(given["base_lr"]);
    optim::ReduceLROnPlateau plateau(sgd, options_of(given["options"]));
    const std::vector<double> metric = given["metric"];
    for (std::size_t t = 0; t < metric.size(); ++t) {
      plateau.step(metric[t]);
      EXPECT_EQ(sgd.lr(), given["lr"][t].get<double>()) << "look " << t;
      EXPECT_EQ(plateau.state().best, given["state"][t][0].get<double>());
      EXPECT_EQ(plateau.state().num_bad_epochs, given["state"][t][1].get<int>());
      EXPECT_EQ(plateau.state().cooldown_counter, given["state"][t][2].get<int>());
      EXPECT_EQ(plateau.state().steps, static_cast<std::int64_t>(t) + 1);
    }
  }
}

TEST(ReduceLROnPlateau, ReducesAtTheSecondLookWithoutPatience) {
  optim::SGD sgd = sgd_with(1);
  optim::ReduceLROnPlateau plateau(sgd, {.factor = 0.5, .patience = 0});
  plateau.step(3);
  EXPECT_EQ(sgd.lr(), 1);
  plateau.step(3);
  EXPECT_EQ(sgd.lr(), 0.5);
}

TEST(ReduceLROnPlateau, ReducesEachGroupToItsOwnFloor) {
  const auto p = [](const char* name) { return NamedTensor{name, zeros({1}, {.requires_grad = true})}; };
  optim::SGD sgd({{{p("a")}, {.lr = 1}}, {{p("b")}, {.lr = 0.5}}});
  optim::ReduceLROnPlateau plateau(sgd, {.patience = 0, .min_lr = {0.2, 0.01}});
  plateau.step(1);
  plateau.step(std::nan(""));
  EXPECT_EQ(sgd.lr(0), 0.2);
  EXPECT_EQ(sgd.lr(1), 0.05);
}

TEST(ReduceLROnPlateau, GoesOnFromItsState) {
  optim::SGD first = sgd_with(1), second = sgd_with(1);
  const optim::PlateauOptions options{.patience = 1, .cooldown = 2};
  optim::ReduceLROnPlateau whole(first, options), before(second, options);
  const auto metric = [](int look) { return std::fabs(look - 3) + 0.5; };
  for (int look = 0; look < 5; ++look) whole.step(metric(look)), before.step(metric(look));
  optim::ReduceLROnPlateau after(second, options);
  after.set_state(before.state());
  for (int look = 5; look < 12; ++look) {
    whole.step(metric(look));
    after.step(metric(look));
    EXPECT_EQ(first.lr(), second.lr());
  }
  EXPECT_LT(first.lr(), 0.1);
  EXPECT_EQ(after.state().steps, 12);
}

TEST(ReduceLROnPlateau, RefusesBadOptions) {
  optim::SGD sgd = sgd_with(1);
  const auto error = [&](const optim::PlateauOptions& options) {
    return message_of<ConfigError>([&] { optim::ReduceLROnPlateau(sgd, options); });
  };
  EXPECT_EQ(error({.mode = "least"}), "mode: expected \"min\" or \"max\", got \"least\"");
  EXPECT_EQ(error({.factor = 1}), "factor: expected less than 1, got 1");
  EXPECT_EQ(error({.min_lr = {0, 0}}), "min_lr: expected one, or one for each of the 1 groups, got 2");
  EXPECT_NE(error({.threshold_mode = "share"}), "");
  EXPECT_NE(error({.patience = -1}), "");
}

}  // namespace
