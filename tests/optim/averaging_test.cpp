// Averages of weights against PyTorch's numbers, and their book-keeping: arenas, buffers, swaps, state.
#include "anneal/optim/averaging.h"

#include <gtest/gtest.h>

#include <cmath>

#include "anneal/core/autocast.h"
#include "anneal/core/autograd.h"
#include "anneal/core/ops.h"
#include "anneal/optim/adam.h"
#include "anneal/optim/sgd.h"
#include "anneal/tests/expect.h"
#include "anneal/tests/fixture.h"

using namespace anneal;
using anneal::testing::error_of;
using anneal::testing::expect_contains;
using anneal::testing::fixture;
using anneal::testing::message_of;
using optim::AveragedWeights;

namespace {

using Doubles = std::vector<double>;
using Json = nlohmann::json;

Tensor parameter(const Shape& shape, double value, DType dtype = DType::f32) {
  return full(shape, value, {.dtype = dtype, .requires_grad = true});
}
void set(const Tensor& x, double value) { x.detach().fill_(value); }

optim::AveragingRule rule_of(const Json& o) {
  if (o["kind"] == "swa") return optim::swa_avg();
  if (o["kind"] == "ema") return optim::ema_avg(o["decay"]);
  return [](const Tensor& average, const Tensor& value, std::int64_t count) {
    return average + (value - average) * (0.5 / static_cast<double>(count));
  };
}

// ---- against PyTorch ----

TEST(AveragedWeights, FollowPyTorch) {
  const Json all = fixture("optim.json");
  const std::vector<int> steps = all["averages"]["steps"];
  const std::int64_t size = all["problem"]["size"];
  ASSERT_EQ(all["averages"]["rules"].size(), 4u);
  for (const Json& given : all["averages"]["rules"]) {
    SCOPED_TRACE(given["name"].get<std::string>());
    const Tensor p = parameter({size}, 0), frozen = zeros({size});
    optim::SGD sgd({{"p", p}}, {});
    AveragedWeights averages({{"p", p}, {"frozen", frozen}}, rule_of(given), &sgd);
    std::size_t kept = 0;
    for (int t = 0; t < steps.back(); ++t) {
      p.detach().copy_(cos(arange(size, {.dtype = DType::f64}) + 0.1 * t));
      frozen.copy_(p.detach());
      averages.update();
      if (t + 1 != steps[kept]) continue;
      const Doubles expected = given["values"][kept++];
      for (const auto& [name, average] : averages.averages())
        for (std::size_t i = 0; i < expected.size(); ++i)
          EXPECT_NEAR(average.to_vector()[i], expected[i], 1e-6) << name << " after " << t + 1;
    }
    EXPECT_EQ(kept, steps.size());
    EXPECT_EQ(averages.count(), steps.back());
  }
}

// ---- rules ----

double average_of(optim::AveragingRule rule, std::initializer_list<double> values) {
  const Tensor x = zeros({1}, {.dtype = DType::f64});
  AveragedWeights averages({{"x", x}}, std::move(rule));
  for (double value : values) {
    x.fill_(value);
    averages.update();
  }
  return averages.averages()[0].tensor.item();
}

TEST(AveragedWeights, StartFromTheFirstValue) {
  EXPECT_EQ(average_of(optim::swa_avg(), {1, 2, 3, 4}), 2.5);
  EXPECT_NEAR(average_of(optim::ema_avg(0.9), {1, 2, 3, 4}), 1.561, 1e-12);
  EXPECT_NEAR(average_of(optim::ema_avg(0.9), {1, 3}), 1.2, 1e-12);
  EXPECT_NEAR(average_of(optim::ema_avg(0.9), {3, 4}), 3.1, 1e-12);
}

TEST(AveragedWeights, WarmUpBoundsTheDecay) {
  // Decays 2 / 11, 3 / 12, and then the given one.
  EXPECT_NEAR(average_of(optim::ema_avg(0.999, true), {5, 1}), 1 + 4 * 2 / 11.0, 1e-12);
  EXPECT_NEAR(average_of(optim::ema_avg(0.2, true), {0, 0, 1}), 0.8, 1e-12);
  EXPECT_NEAR(average_of(optim::ema_avg(0.999, true), {0, 0, 1}), 0.75, 1e-12);
}

TEST(AveragedWeights, RefuseADecayOutOfRange) {
  EXPECT_EQ(message_of<ConfigError>([] { optim::ema_avg(1.5); }), "decay: expected 0 to 1, got 1.5");
}

// ---- tensors ----

TEST(AveragedWeights, TakeInWholeArenasAndWhatIsOutsideOfThem) {
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16, DType::f16}) {
    SCOPED_TRACE(name_of(dtype));
    // Odd sizes, one of no elements, and one large enough for several threads.
    std::vector<NamedTensor> tensors;
    for (const std::int64_t size : {3, 17, 0, 300'001, 1}) {
      const Tensor p = parameter({size}, 0, dtype);
      tensors.push_back({"p" + std::to_string(size), p});
    }
    optim::SGD sgd(tensors, {});
    tensors.push_back({"buffer", zeros({2, 3}, {.dtype = dtype})});
    tensors.push_back({"scalar", scalar(0, {.dtype = dtype})});
    tensors.push_back({"counter", scalar(0, {.dtype = DType::i64})});
    AveragedWeights averages(tensors, optim::swa_avg(), &sgd);
    for (const double value : {1, 2, 6}) {
      for (const NamedTensor& t : tensors) set(t.tensor, value);
      averages.update();
    }
    const StateDict got = averages.averages();
    ASSERT_EQ(got.size(), tensors.size());
    for (std::size_t i = 0; i < got.size(); ++i) {
      EXPECT_EQ(got[i].name, tensors[i].name);
      EXPECT_EQ(got[i].tensor.shape(), tensors[i].tensor.shape());
      const double expected = got[i].name == "counter" ? 6 : 3;
      for (const double x : got[i].tensor.to_vector()) ASSERT_NEAR(x, expected, 1e-6) << got[i].name;
    }
  }
}

// In the pass of the optimizer's step or after it: the same.
TEST(AveragedWeights, MoveInTheStepsOwnPass) {
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16}) {
    SCOPED_TRACE(name_of(dtype));
    for (const bool rest : {false, true}) {  // with a parameter that has no gradient
      std::vector<Doubles> results;
      for (const bool fused : {false, true}) {
        const Tensor a = parameter({300'001}, 1, dtype), b = parameter({5}, 2, dtype), buffer = zeros({2});
        optim::AdamW adam({{"a", a}, {"b", b}}, {.lr = 0.125});
        AveragedWeights averages({{"a", a}, {"b", b}, {"buffer", buffer}}, optim::ema_avg(0.5), &adam);
        optim::GradScaler scaler({.init_scale = 1});
        for (int t = 0; t < 5; ++t) {
          adam.zero_grad();
          const bool overflows = t == 3;
          (sum(a) * (overflows ? 1e300 : 1.0) * (overflows ? 1e300 : 1.0)).backward();
          if (!rest || t == 1) sum(b * 3).backward();
          if (fused) averages.begin_update();
          adam.step({.scaler = &scaler});
          buffer.fill_(t);
          EXPECT_EQ(scaler.found_inf(), overflows);
          EXPECT_EQ(adam.has_averaged(0), fused && t > 0 && dtype != DType::bf16 && (!rest || t == 1)) << t;
          if (overflows) continue;
          if (fused) averages.finish_update();
          else averages.update();
        }
        EXPECT_EQ(averages.count(), 4);
        Doubles& values = results.emplace_back();
        for (const NamedTensor& entry : averages.averages())
          for (const std::int64_t at : {std::int64_t{0}, entry.tensor.numel() - 1})
            values.push_back(entry.tensor.to_vector()[static_cast<std::size_t>(at)]);
      }
      for (std::size_t i = 0; i < results[0].size(); ++i) EXPECT_NEAR(results[0][i], results[1][i], 1e-6) << i;
    }
  }
}

TEST(AveragedWeights, AreMovedByTheStepThatTheyWereLeftToAlone) {
  const Tensor p = parameter({3}, 1);
  optim::SGD sgd({{"p", p}}, {.lr = 1});
  AveragedWeights averages({{"p", p}}, optim::ema_avg(0.5), &sgd);
  averages.update();
  sum(p).backward();
  averages.begin_update();
  sgd.defer({});  // of the next step; that one was not made
  sgd.step();
  EXPECT_FALSE(sgd.has_averaged(0));
  EXPECT_EQ(averages.averages()[0].tensor.to_vector(), Doubles(3, 1));
  averages.begin_update();
  sgd.step();
  EXPECT_TRUE(sgd.has_averaged(0));
  EXPECT_EQ(averages.averages()[0].tensor.to_vector(), Doubles(3, 0));  // the weight is -1
}

TEST(AveragedWeights, KeepWhatSixteenBitsWouldLose) {
  const Tensor p = parameter({1}, 1, DType::bf16);
  AveragedWeights averages({{"p", p}}, optim::ema_avg(0.999));
  averages.update();
  set(p, 2);
  for (int t = 0; t < 3; ++t) averages.update();
  EXPECT_NEAR(averages.averages()[0].tensor.item(), 2 - std::pow(0.999, 3), 1e-6);
}

TEST(AveragedWeights, FollowARebuild) {
  const Tensor a = parameter({2}, 1), b = parameter({3}, 1).set_requires_grad(false);
  optim::SGD sgd({{"a", a}, {"b", b}}, {});
  AveragedWeights averages({{"a", a}, {"b", b}}, optim::swa_avg(), &sgd);
  averages.update();
  Tensor(b).set_requires_grad();
  sgd.rebuild();
  set(a, 3);
  set(b, 5);
  averages.update();
  EXPECT_EQ(averages.averages()[0].tensor.to_vector(), (Doubles{2, 2}));
  EXPECT_EQ(averages.averages()[1].tensor.to_vector(), (Doubles{3, 3, 3}));
}

TEST(AveragedWeights, LeaveParametersOfTheArenaThatAreNotTheirsAlone) {
  const Tensor a = parameter({2}, 1), b = parameter({2}, 1);
  optim::SGD sgd({{"a", a}, {"b", b}}, {});
  AveragedWeights averages({{"a", a}}, optim::swa_avg(), &sgd);
  averages.update();
  set(a, 3);
  set(b, 3);
  averages.swap();
  EXPECT_EQ(a.to_vector(), (Doubles{1, 1}));
  EXPECT_EQ(b.to_vector(), (Doubles{3, 3}));
}

TEST(AveragedWeights, RefuseTensorsGivenTwice) {
  const Tensor a = zeros({2}), b = zeros({2});
  EXPECT_EQ(error_of([&] { AveragedWeights({{"a", a}, {"b", a}}); }), "averages: b is given twice");
  EXPECT_EQ(error_of([&] { AveragedWeights({{"a", a}, {"a", b}}); }), "averages: a is given twice");
  expect_contains(error_of([&] { AveragedWeights({{"a", zeros({2, 3}).transpose(0, 1)}}); }), "not contiguous");
}

// ---- swapping ----

TEST(AveragedWeights, SwapWithTheModelAndBack) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Tensor p = parameter({5}, 1, dtype), handle = p, buffer = zeros({2});
    optim::SGD sgd({{"p", p}}, {});
    AveragedWeights averages({{"p", p}, {"buffer", buffer}}, optim::swa_avg(), &sgd);
    averages.update();
    set(p, 4);
    buffer.fill_(1);
    averages.update();
    const void* const address = p.raw();
    averages.swap();
    EXPECT_TRUE(averages.swapped());
    EXPECT_EQ(handle.to_vector(), Doubles(5, 2.5));
    EXPECT_EQ(buffer.to_vector(), Doubles(2, 0.5));
    EXPECT_EQ(p.raw(), address);
    EXPECT_EQ(averages.averages()[0].tensor.to_vector(), Doubles(5, 2.5));
    expect_contains(error_of([&] { averages.update(); }), "update() while they are in the model");
    expect_contains(error_of([&] { averages.load_state_dict({}); }), "load_state_dict() while");
    averages.swap();
    EXPECT_FALSE(averages.swapped());
    EXPECT_EQ(handle.to_vector(), Doubles(5, 4));
    EXPECT_EQ(buffer.to_vector(), Doubles(2, 1));
    averages.update();
    EXPECT_EQ(averages.averages()[0].tensor.to_vector(), Doubles(5, 3));
  }
}

TEST(AveragedWeights, MakeTwinsStaleWhenTheySwap) {
  const Tensor w = parameter({1, 1}, 1), x = ones({1, 1});
  optim::SGD sgd({{"w", w}}, {});
  sgd.keep_twins(DType::bf16);
  AveragedWeights averages({{"w", w}}, optim::swa_avg(), &sgd);
  const Autocast autocast(DType::bf16);
  const auto output = [&] { return linear(x, w).item(); };
  EXPECT_EQ(output(), 1);
  averages.update();
  set(w, 3);
  averages.update();
  EXPECT_EQ(output(), 3);
  averages.swap();
  EXPECT_FALSE(has_fresh_twin(w));
  EXPECT_EQ(output(), 2);
  averages.swap();
  EXPECT_EQ(output(), 3);
}

TEST(AveragedWeights, AreNotSwappedInBeforeTheFirstUpdate) {
  const Tensor p = parameter({2}, 1);
  AveragedWeights averages({{"p", p}});
  averages.swap();
  EXPECT_FALSE(averages.swapped());
  EXPECT_EQ(p.to_vector(), (Doubles{1, 1}));
  EXPECT_TRUE(averages.averages().empty());
}

TEST(AveragedWeights, NoticeThatASwappedTensorMoved) {
  const Tensor a = parameter({2}, 1);
  AveragedWeights averages({{"a", a}});
  averages.update();
  averages.swap();
  optim::SGD sgd({{"a", a}}, {});
  expect_contains(error_of([&] { averages.swap(); }), "was moved");
}

// ---- state ----

TEST(AveragedWeights, GoOnFromTheirState) {
  const Tensor p = parameter({3}, 0), counter = scalar(0, {.dtype = DType::i64});
  const std::vector<NamedTensor> tensors = {{"p", p}, {"counter", counter}};
  AveragedWeights whole(tensors), before(tensors), after(tensors);
  EXPECT_EQ(before.state_dict().size(), 1u);
  after.load_state_dict(before.state_dict());
  EXPECT_EQ(after.count(), 0);
  for (int t = 0; t < 6; ++t) {
    set(p, t * t);
    counter.fill_(t);
    if (t == 3) after.load_state_dict(before.state_dict());
    for (AveragedWeights* averages : {&whole, t < 3 ? &before : &after}) averages->update();
  }
  EXPECT_EQ(after.count(), 6);
  const StateDict expected = whole.state_dict(), got = after.state_dict();
  ASSERT_EQ(got.size(), 3u);
  for (std::size_t i = 0; i < got.size(); ++i) {
    EXPECT_EQ(got[i].name, expected[i].name);
    EXPECT_EQ(got[i].tensor.to_vector(), expected[i].tensor.to_vector());
  }
}

TEST(AveragedWeights, RefuseAStateThatDoesNotFit) {
  const Tensor p = parameter({2}, 1);
  AveragedWeights averages({{"p", p}});
  averages.update();
  const auto error = [&](const StateDict& state) { return error_of([&] { averages.load_state_dict(state); }); };
  const NamedTensor count = {"averaging.count", scalar(7, {.dtype = DType::i64})};
  EXPECT_EQ(error({{"p", ones({2})}}), "averages: the state does not fit:\n  missing: averaging.count");
  EXPECT_EQ(error({count, {"q", ones({2})}}), "averages: the state does not fit:\n  missing: p\n  unexpected: q");
  EXPECT_EQ(error({count, {"p", ones({3})}}),
            "averages: the state does not fit:\n  wrong shape: p is [3], expected [2]");
  EXPECT_EQ(averages.count(), 1);
}

}  // namespace
