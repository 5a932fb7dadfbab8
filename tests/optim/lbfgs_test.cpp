// L-BFGS against PyTorch's numbers, and what it refuses.
#include "anneal/optim/lbfgs.h"

#include <gtest/gtest.h>

#include <cmath>

#include "anneal/core/ops.h"
#include "anneal/tests/expect.h"
#include "anneal/tests/fixture.h"

using namespace anneal;
using anneal::testing::error_of;
using anneal::testing::expect_contains;
using anneal::testing::fixture;
using optim::LBFGS;

namespace {

using Doubles = std::vector<double>;
using Json = nlohmann::json;

// The fixture's function, in two parameters of an arena with a gap between them, and a third that it does not use.
struct Problem {
  explicit Problem(const optim::LBFGSOptions& options, DType dtype = DType::f64)
      : head(start(0, 2, dtype)), tail(start(2, 5, dtype)), unused(full({3}, 7, {.dtype = dtype, .requires_grad = true})),
        lbfgs({{"head", head}, {"unused", unused}, {"tail", tail}}, options) {}

  static Tensor start(int from, int to, DType dtype) {
    Doubles values;
    for (int i = from; i < to; ++i) values.push_back(0.5 * std::cos(i));
    return tensor(values, {to - from}, {.dtype = dtype, .requires_grad = true});
  }
  void step() {
    lbfgs.step({.closure = [&] {
      lbfgs.zero_grad();
      const Tensor p = cat({head, tail}, 0);
      const Tensor loss =
          sum(square(1 - p)) + 10 * sum(square(p.slice(0, 1, 5) - square(p.slice(0, 0, 4))));
      loss.backward();
      return loss;
    }});
  }
  Doubles values() const { return cat({head, tail}, 0).to_vector(); }

  Tensor head, tail, unused;
  LBFGS lbfgs;
};

optim::LBFGSOptions options_of(const Json& given) {
  optim::LBFGSOptions o;
  o.lr = given.value("lr", o.lr);
  o.max_iter = given.value("max_iter", o.max_iter);
  o.max_eval = given.value("max_eval", o.max_eval);
  o.history_size = given.value("history_size", o.history_size);
  o.line_search_fn = given.value("line_search_fn", o.line_search_fn);
  return o;
}

TEST(LBFGS, FollowsPyTorch) {
  const Json all = fixture("optim.json");
  ASSERT_EQ(all["lbfgs"].size(), 6u);
  for (const Json& given : all["lbfgs"]) {
    SCOPED_TRACE(given["name"].get<std::string>());
    Problem problem(options_of(given["options"]));
    for (const Json& expected : given["steps"]) {
      problem.step();
      EXPECT_EQ(problem.lbfgs.evaluations(), expected["evaluations"].get<std::int64_t>());
      const Doubles values = problem.values(), wanted = expected["values"];
      for (std::size_t i = 0; i < wanted.size(); ++i) EXPECT_NEAR(values[i], wanted[i], 1e-9) << i;
    }
    EXPECT_EQ(problem.unused.to_vector(), Doubles(3, 7));
  }
}

TEST(LBFGS, FindsTheMinimumInSinglePrecision) {
  Problem problem({.line_search_fn = "strong_wolfe"}, DType::f32);
  for (int i = 0; i < 5; ++i) problem.step();
  for (const double value : problem.values()) EXPECT_NEAR(value, 1, 1e-3);
}

TEST(LBFGS, GoesOnFromItsState) {
  const optim::LBFGSOptions options{.max_iter = 3, .history_size = 4, .line_search_fn = "strong_wolfe"};
  Problem whole(options), first(options), second(options);
  for (int i = 0; i < 4; ++i) whole.step();
  second.lbfgs.load_state_dict(first.lbfgs.state_dict());  // of none yet
  for (int i = 0; i < 2; ++i) first.step();
  second.head.detach().copy_(first.head.detach());
  second.tail.detach().copy_(first.tail.detach());
  second.lbfgs.load_state_dict(first.lbfgs.state_dict());
  for (int i = 0; i < 2; ++i) second.step();
  EXPECT_EQ(second.values(), whole.values());
  EXPECT_EQ(second.lbfgs.evaluations(), whole.lbfgs.evaluations());

  StateDict broken = first.lbfgs.state_dict();
  std::erase_if(broken, [](const NamedTensor& entry) { return entry.name == "lbfgs.s.1"; });
  expect_contains(error_of([&] { second.lbfgs.load_state_dict(broken); }), "missing: lbfgs.s.1");
  EXPECT_EQ(second.lbfgs.evaluations(), whole.lbfgs.evaluations());
}

TEST(LBFGS, BeginsAnewWithOtherParameters) {
  Problem problem({.max_iter = 2, .line_search_fn = "strong_wolfe"});
  problem.step();
  problem.head.set_requires_grad(false);
  problem.lbfgs.rebuild();
  const Doubles kept = problem.head.to_vector();
  problem.step();
  EXPECT_EQ(problem.head.to_vector(), kept);
}

TEST(LBFGS, ClosureThatThrowsInALineSearchLeavesTheParameters) {
  Problem problem({.line_search_fn = "strong_wolfe"});
  const Doubles before = problem.values();
  int looks = 0;
  const auto closure = [&] {
    check(++looks < 2, "stop");
    problem.lbfgs.zero_grad();
    const Tensor loss = sum(square(problem.head)) + sum(square(problem.tail));
    loss.backward();
    return loss;
  };
  expect_contains(error_of([&] { problem.lbfgs.step({.closure = closure}); }), "stop");
  EXPECT_EQ(looks, 2);
  EXPECT_EQ(problem.values(), before);
  problem.step();
  EXPECT_NE(problem.values(), before);
}

TEST(LBFGS, SaysWhatItNeeds) {
  Problem problem({});
  expect_contains(error_of([&] { problem.lbfgs.step(); }), "closure");
  expect_contains(error_of([&] { problem.lbfgs.step({.clip_norm = 1, .closure = [] { return scalar(1); }}); }), "clipping");
  expect_contains(error_of([] { Problem bad({.history_size = 0}); }), "history_size");
  expect_contains(error_of([] { Problem bad({.line_search_fn = "armijo"}); }), "strong_wolfe");
  const Tensor x = full({1}, 1, {.requires_grad = true}), y = full({1}, 1, {.dtype = DType::f64, .requires_grad = true});
  LBFGS two({{"x", x}, {"y", y}});
  expect_contains(error_of([&] { two.step({.closure = [] { return scalar(1); }}); }), "one group, dtype and device");
}

}  // namespace
