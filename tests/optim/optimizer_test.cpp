// Optimizers against PyTorch's numbers, and their book-keeping: groups, frozen parameters, rebuilds, state.
#include "anneal/optim/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>

#include "anneal/core/autograd.h"
#include "anneal/core/ops.h"
#include "anneal/nn/nn.h"
#include "anneal/optim/adam.h"
#include "anneal/optim/sgd.h"
#include "anneal/tests/expect.h"
#include "anneal/tests/fixture.h"

using namespace anneal;
using anneal::testing::error_of;
using anneal::testing::expect_contains;
using anneal::testing::fixture;
using anneal::testing::message_of;

namespace {

using Doubles = std::vector<double>;
using Json = nlohmann::json;

Tensor parameter(const Shape& shape, double value, DType dtype = DType::f64) {
  return full(shape, value, {.dtype = dtype, .requires_grad = true});
}
void set_gradient(const Tensor& p, double value) {
  p.zero_grad();
  sum(p * value).backward();
}

// ---- against PyTorch ----

template <class Options>
void read_shared(const Json& json, Options& options) {
  options.lr = json.at("lr");
  options.weight_decay = json.value("weight_decay", options.weight_decay);
  options.maximize = json.value("maximize", options.maximize);
}
template <class Options>
Options adam_options(const Json& json) {
  Options options;
  read_shared(json, options);
  options.eps = json.value("eps", options.eps);
  if (json.contains("betas")) {
    options.beta1 = json["betas"][0];
    options.beta2 = json["betas"][1];
  }
  return options;
}
std::unique_ptr<optim::Optimizer> make(const std::string& kind, const Json& json, const Tensor& p) {
  if (kind == "adam") return std::make_unique<optim::Adam>(StateDict{{"p", p}}, adam_options<optim::AdamOptions>(json));
  if (kind == "adamw")
    return std::make_unique<optim::AdamW>(StateDict{{"p", p}}, adam_options<optim::AdamWOptions>(json));
  optim::SGDOptions options;
  read_shared(json, options);
  options.momentum = json.value("momentum", 0.0);
  options.dampening = json.value("dampening", 0.0);
  options.nesterov = json.value("nesterov", false);
  return std::make_unique<optim::SGD>(StateDict{{"p", p}}, options);
}

TEST(Optimizers, FollowPyTorch) {
  const Json all = fixture("optim.json");
  const std::int64_t size = all["problem"]["size"];
  const double a = all["problem"]["a"];
  const double b = all["problem"]["b"];
  const std::vector<int> kept = all["steps"];
  ASSERT_EQ(all["optimizers"].size(), 13u);
  for (const DType dtype : {DType::f64, DType::f32}) {
    const double tolerance = dtype == DType::f64 ? 1e-12 : 2e-5;
    for (const Json& given : all["optimizers"]) {
      SCOPED_TRACE(given["name"].get<std::string>() + " " + name_of(dtype));
      Doubles start;
      for (std::int64_t i = 0; i < size; ++i) start.push_back(0.5 * std::cos(static_cast<double>(i)));
      const Tensor p = tensor(start, {size}, {.dtype = dtype, .requires_grad = true});
      const auto optimizer = make(given["kind"], given["options"], p);
      std::size_t next = 0;
      for (int t = 1; t <= kept.back(); ++t) {
        Doubles wave;
        for (std::int64_t i = 0; i < size; ++i) wave.push_back(b * std::sin(static_cast<double>(t + i)));
        // The gradient of a/2 p^2 + wave p.
        sum(square(p) * (a / 2) + p * tensor(wave, {size}, {.dtype = dtype})).backward();
        optimizer->step();
        optimizer->zero_grad();
        if (t != kept[next]) continue;
        const Doubles expected = given["values"][next++];
        const Doubles got = p.to_vector();
        for (std::size_t i = 0; i < expected.size(); ++i)
          EXPECT_NEAR(got[i], expected[i], tolerance * std::max(1.0, std::abs(expected[i])))
              << "step " << t << ", element " << i;
      }
      EXPECT_EQ(next, kept.size());
    }
  }
}

// ---- which parameters are updated ----

TEST(Optimizer, GroupsHaveNumbersOfTheirOwn) {
  const Tensor a = parameter({3}, 1);
  const Tensor b = parameter({2, 2}, 1);
  optim::SGD sgd({{{{"a", a}}, {.lr = 0.1}}, {{{"b", b}}, {.lr = 0.5, .weight_decay = 1}}});
  ASSERT_EQ(sgd.groups(), 2u);
  EXPECT_EQ(sgd.lr(1), 0.5);
  (sum(a) + sum(b)).backward();
  sgd.step();
  EXPECT_EQ(a.to_vector(), Doubles(3, 1 - 0.1));
  EXPECT_EQ(b.to_vector(), Doubles(4, 1 - 0.5 * 2));
  sgd.set_lr(0, 0);
  sgd.step();
  EXPECT_EQ(a.to_vector(), Doubles(3, 0.9));
  EXPECT_EQ(b.to_vector(), Doubles(4, -0.5));
}

TEST(Optimizer, UntouchedParametersKeepTheirBits) {
  const Tensor used = parameter({5}, 0.3, DType::f32);
  const Tensor unused = parameter({7}, 0.7, DType::f32);
  optim::AdamW adam({{"used", used}, {"unused", unused}}, {.lr = 0.1, .weight_decay = 0.5});
  const Doubles before = unused.to_vector();
  for (int i = 0; i < 3; ++i) {
    set_gradient(used, 1);
    adam.step();
  }
  EXPECT_EQ(unused.to_vector(), before) << "no decay without a gradient";
  for (const NamedTensor& entry : adam.state_dict()) {
    const Doubles values = entry.tensor.to_vector();
    if (entry.name.ends_with(".unused")) {
      EXPECT_EQ(values, Doubles(values.size(), 0)) << entry.name;
    } else if (entry.name == "step.used") {
      EXPECT_EQ(values, Doubles{3});
    }
  }
  // A gradient of zeros is one: it decays, and counts as a step.
  set_gradient(unused, 0);
  adam.step();
  EXPECT_NEAR(unused.to_vector()[0], 0.7 * 0.95, 1e-6);
}

TEST(Optimizer, HandlesFollowIntoTheArena) {
  const Tensor p = parameter({3}, 1);
  const Tensor other_handle = p;
  sum(p * 2).backward();  // collected before the optimizer was there
  optim::SGD sgd({{"p", p}}, {.lr = 0.25});
  EXPECT_EQ(p.grad().to_vector(), Doubles(3, 2));
  sgd.step();
  EXPECT_EQ(other_handle.to_vector(), Doubles(3, 0.5));
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(p.raw()) % 64, 0u);
  EXPECT_EQ(sgd.arenas().size(), 1u);
  EXPECT_EQ(sgd.arenas()[0].values().to_vector()[0], 0.5);
}

TEST(Optimizer, StridedAndEmptyParameters) {
  Tensor strided = tensor({1, 2, 3, 4, 5, 6}, {2, 3}, {.dtype = DType::f64}).transpose(0, 1);
  strided.set_requires_grad();
  const Tensor nothing = parameter({0, 4}, 0);
  const Tensor scalar = parameter({}, 1);
  optim::SGD sgd({{"strided", strided}, {"nothing", nothing}, {"scalar", scalar}}, {.lr = 1});
  EXPECT_EQ(strided.to_vector(), (Doubles{1, 4, 2, 5, 3, 6}));
  (sum(strided * 2) + sum(nothing) + scalar).backward();
  sgd.step();
  EXPECT_EQ(strided.to_vector(), (Doubles{-1, 2, 0, 3, 1, 4}));
  EXPECT_EQ(scalar.item(), 0);
}

TEST(Optimizer, TiedParametersAreOne) {
  struct Model : nn::Module {
    nn::Linear first{{this, "first"}, 3, 3, {.bias = false}};
    nn::Linear second{{this, "second"}, 3, 3, {.bias = false}};
    Model() { second.weight = first.weight; }
    Tensor forward(const Tensor& x) const override { return second(first(x)); }
  } model;
  const auto parameters = nn::parameters(model);
  ASSERT_EQ(parameters.size(), 1u);
  optim::SGD sgd(parameters, {.lr = 0.1});
  sum(model(ones({1, 3}))).backward();
  sgd.step();
  EXPECT_EQ(model.first.weight.to_vector(), model.second.weight.to_vector());
  EXPECT_EQ(model.first.weight.raw(), model.second.weight.raw());
  expect_contains(error_of([&] {
                    optim::SGD({{"a", model.first.weight}, {"b", model.second.weight}});
                  }),
                  "b is given twice");
}

// ---- freezing, unfreezing, converting ----

// Names the problem; nothing may have changed.
void expect_refused(optim::Optimizer& optimizer, const Tensor& other, const std::string& text) {
  const Doubles before = other.to_vector();
  const Doubles state = optimizer.state_dict()[0].tensor.to_vector();
  const std::string error = error_of([&] { optimizer.step(); });
  expect_contains(error, text);
  expect_contains(error, "rebuild()");
  EXPECT_EQ(other.to_vector(), before);
  EXPECT_EQ(optimizer.state_dict()[0].tensor.to_vector(), state);
}

TEST(Optimizer, LateUnfrozenAfterRebuild) {
  const Tensor body = parameter({3}, 1);
  Tensor head = full({2}, 1, {.dtype = DType::f64});
  optim::SGD sgd({{"body", body}, {"head", head}}, {.lr = 0.5, .momentum = 0.5});
  const auto backward = [&] { (sum(body * 2) + sum(head * 4)).backward(); };
  backward();
  sgd.step();  // the momentum of `body` is 2 now
  sgd.zero_grad();
  EXPECT_EQ(head.to_vector(), Doubles(2, 1));
  head.set_requires_grad();
  backward();
  expect_refused(sgd, body, "1 of its parameters, frozen when it was made");
  sgd.rebuild();
  sgd.step();
  EXPECT_EQ(body.to_vector(), Doubles(3, 1 - 0.5 * 2 - 0.5 * 3));
  EXPECT_EQ(head.to_vector(), Doubles(2, 1 - 0.5 * 4));
}

TEST(Optimizer, FrozenLaterIsSkipped) {
  const Tensor a = parameter({3}, 1);
  Tensor b = parameter({3}, 1);
  optim::AdamW adam({{"a", a}, {"b", b}}, {.lr = 0.1});
  (sum(a) + sum(b)).backward();
  adam.step();
  adam.zero_grad();
  const Doubles kept = b.to_vector();
  b.set_requires_grad(false);
  (sum(a) + sum(b)).backward();
  adam.step();
  EXPECT_EQ(b.to_vector(), kept);
  b.set_requires_grad();
  (sum(a) + sum(b)).backward();
  expect_refused(adam, a, "parameter b was moved, converted or unfrozen");
  adam.rebuild();
  adam.step();
  EXPECT_NE(b.to_vector(), kept);
  for (const NamedTensor& entry : adam.state_dict()) {
    if (entry.name == "step.b") { EXPECT_EQ(entry.tensor.item(), 2) << "its state was kept"; }
  }
}

TEST(Optimizer, ConvertedModelNeedsARebuild) {
  nn::Linear layer(3, 2);
  optim::AdamW adam(nn::parameters(layer), {.lr = 0.1});
  const auto backward = [&] { sum(layer(ones({4, 3}, {.dtype = layer.weight.dtype()}))).backward(); };
  backward();
  adam.step();
  const Doubles moment = adam.state_dict()[0].tensor.to_vector();
  layer.to(DType::f64);
  EXPECT_FALSE(layer.weight.grad().defined());
  backward();
  expect_refused(adam, layer.weight, "was moved, converted or unfrozen");
  adam.rebuild();
  EXPECT_EQ(adam.state_dict()[0].tensor.dtype(), DType::f64);
  EXPECT_EQ(adam.state_dict()[0].tensor.to_vector(), moment);
  const double before = layer.bias.to_vector()[0];
  adam.step();
  EXPECT_NEAR(layer.bias.to_vector()[0], before * (1 - 0.1 * 0.01) - 0.1, 1e-6);
  EXPECT_EQ(layer.weight.dtype(), DType::f64);
}

// ---- state ----

TEST(Optimizer, StateGoesRound) {
  const auto run = [](int steps_before, int steps_after) {
    const Tensor a = parameter({3}, 1);
    const Tensor b = parameter({2, 2}, -1);
    const StateDict parameters{{"a", a}, {"b", b}};
    const auto steps = [&](optim::Optimizer& optimizer, int n) {
      for (int i = 0; i < n; ++i) {
        (sum(square(a)) + sum(exp(b))).backward();
        optimizer.step();
        optimizer.zero_grad();
      }
    };
    optim::AdamW first(parameters, {.lr = 0.1});
    steps(first, steps_before);
    optim::AdamW second(parameters, {.lr = 0.1});
    second.load_state_dict(first.state_dict());
    steps(second, steps_after);
    Doubles all = a.to_vector();
    for (const double value : b.to_vector()) all.push_back(value);
    return all;
  };
  EXPECT_EQ(run(3, 4), run(7, 0));
  EXPECT_EQ(run(3, 4), run(0, 7));
}

TEST(Optimizer, StateThatDoesNotFitChangesNothing) {
  const Tensor a = parameter({3}, 1);
  optim::AdamW adam({{"a", a}}, {.lr = 0.1});
  set_gradient(a, 2);
  adam.step();
  const StateDict good = adam.state_dict();
  ASSERT_EQ(good.size(), 3u);
  EXPECT_EQ(good[0].name, "exp_avg.a");
  EXPECT_EQ(good[1].name, "exp_avg_sq.a");
  EXPECT_EQ(good[2].name, "step.a");
  EXPECT_EQ(good[2].tensor.dtype(), DType::i64);
  good[0].tensor.copy_(good[0].tensor * 1);  // copies: writing to them does not reach the optimizer
  StateDict bad = good;
  bad[0].tensor = full({3}, 9, {.dtype = DType::f64});
  bad[1].tensor = zeros({4});
  bad[2].name = "step.b";
  const std::string error = error_of([&] { adam.load_state_dict(bad); });
  expect_contains(error, "missing: step.a");
  expect_contains(error, "unexpected: step.b");
  expect_contains(error, "wrong shape: exp_avg_sq.a is [4], expected [3]");
  EXPECT_EQ(adam.state_dict()[0].tensor.to_vector(), good[0].tensor.to_vector());
}

TEST(Optimizer, RefusesBadInput) {
  const Tensor a = parameter({3}, 1);
  expect_contains(error_of([&] { optim::SGD(std::vector<optim::ParamGroup<optim::SGDOptions>>{}); }),
                  "no parameter groups");
  expect_contains(error_of([&] { optim::SGD({{"b", a * 2}}); }), "parameter b is not a leaf");
  expect_contains(error_of([&] { optim::SGD({{"b", a}, {"b", parameter({1}, 1)}}); }), "two parameters are named b");
  expect_contains(error_of([&] { optim::SGD({{"whole", zeros({1}, {.dtype = DType::i64})}}); }), "whole is i64");
  const auto config = [](auto&& f) { return message_of<ConfigError>(f); };
  expect_contains(config([&] { optim::SGD({{"a", a}}, {.lr = -1}); }), "lr: expected at least 0, got -1");
  expect_contains(config([&] { optim::SGD({{"a", a}}, {.nesterov = true}); }), "nesterov: needs momentum");
  expect_contains(config([&] { optim::AdamW({{"a", a}}, {.beta2 = 1}); }), "beta2:");
  expect_contains(config([&] { optim::Adam({{"a", a}}, {.weight_decay = NAN}); }), "weight_decay:");
}

TEST(Optimizer, MixedDtypesGetAnArenaEach) {
  const Tensor a = parameter({3}, 1, DType::f32);
  const Tensor b = parameter({3}, 1, DType::f64);
  optim::SGD sgd({{"a", a}, {"b", b}}, {.lr = 0.5});
  EXPECT_EQ(sgd.arenas().size(), 2u);
  set_gradient(a, 1);
  set_gradient(b, 1);
  sgd.step();
  EXPECT_EQ(a.to_vector(), Doubles(3, 0.5));
  EXPECT_EQ(b.to_vector(), Doubles(3, 0.5));
}

}  // namespace
