// Modules: names, ties, copies, state, modes.
#include "anneal/nn/module.h"

#include <gtest/gtest.h>

#include <type_traits>

#include "anneal/core/autograd.h"
#include "anneal/core/ops.h"
#include "anneal/nn/nn.h"
#include "anneal/tests/expect.h"

using namespace anneal;
using anneal::testing::error_of;
using anneal::testing::expect_contains;

namespace {

using Doubles = std::vector<double>;
using Names = std::vector<std::string>;

struct Block : nn::Module {
  Block(nn::Slot at, int d) : Module(at), up{{this, "up"}, d, 2 * d}, down{{this, "down"}, 2 * d, d, {.bias = false}} {}
  Tensor forward(const Tensor& x) const override { return x + down(gelu(up(x))); }
  nn::Linear up, down;
};

struct Model : nn::Module {
  nn::Embedding words{{this, "words"}, 7, 4};
  Block block{{this, "block"}, 4};
  nn::Sequential tail{{this, "tail"}, nn::Linear(4, 4), nn::BatchNorm1d(4), nn::Dropout(0.5)};
  nn::Linear head{{this, "head"}, 4, 7, {.bias = false}};
  nn::Parameter temperature{{this, "temperature"}, scalar(1)};

  Model() { head.weight = words.weight; }
  Tensor forward(const Tensor& index) const override { return head(tail(block(words(index)))) * temperature; }
};

Names names_of(std::span<const NamedTensor> list) {
  Names names;
  for (const NamedTensor& entry : list) names.push_back(entry.name);
  return names;
}
Tensor find(std::span<const NamedTensor> list, const std::string& name) {
  for (const NamedTensor& entry : list)
    if (entry.name == name) return entry.tensor;
  ADD_FAILURE() << "no " << name;
  return {};
}

const Names parameter_names{"temperature",   "words.weight", "block.up.weight", "block.up.bias", "block.down.weight",
                            "tail.0.weight", "tail.0.bias",  "tail.1.weight",   "tail.1.bias"};

TEST(Module, ListsParametersOnceByFirstName) {
  const Model model;
  EXPECT_EQ(names_of(model.parameters()), parameter_names);
  EXPECT_EQ(names_of(nn::parameters(model)), parameter_names);
  EXPECT_EQ(names_of(model.buffers()),
            (Names{"tail.1.running_mean", "tail.1.running_var", "tail.1.num_batches_tracked"}));
  EXPECT_EQ(model.numel(), 1 + 28 + 32 + 8 + 32 + 16 + 4 + 4 + 4);
  for (const NamedTensor& p : model.parameters()) EXPECT_TRUE(p.tensor.requires_grad()) << p.name;
  for (const NamedTensor& b : model.buffers()) EXPECT_FALSE(b.tensor.requires_grad()) << b.name;
}

TEST(Module, StateHasTiedTensorsUnderBothNames) {
  const Model model;
  const StateDict state = model.state_dict();
  EXPECT_EQ(state.size(), parameter_names.size() + 1 + 3);
  EXPECT_EQ(find(state, "head.weight").raw(), model.words.weight.raw());
  EXPECT_EQ(find(state, "words.weight").raw(), model.words.weight.raw());
  EXPECT_FALSE(find(state, "words.weight").requires_grad());
}

TEST(Module, MovingKeepsNamesAndTensors) {
  Model model;
  const void* weight = model.block.up.weight.raw();
  Model moved = std::move(model);
  EXPECT_EQ(names_of(nn::parameters(moved)), parameter_names);
  EXPECT_EQ(find(moved.parameters(), "block.up.weight").raw(), weight);
  EXPECT_EQ(find(moved.state_dict(), "head.weight").raw(), moved.words.weight.raw());
  Model assigned;
  assigned = std::move(moved);
  EXPECT_EQ(names_of(nn::parameters(assigned)), parameter_names);
  EXPECT_EQ(find(assigned.parameters(), "block.up.weight").raw(), weight);
  EXPECT_EQ(assigned(arange(5)).shape(), (Shape{5, 7}));
  // Out of a function, into a vector: what people do.
  std::vector<Model> several;
  for (int i = 0; i < 3; ++i) several.push_back(Model());
  for (const Model& m : several) EXPECT_EQ(names_of(nn::parameters(m)), parameter_names);
}

TEST(Module, CloneIsDeepAndKeepsTies) {
  Model model;
  model.temperature.set_requires_grad(false);
  model.eval();
  const Model copy = nn::clone(model);
  EXPECT_EQ(names_of(nn::parameters(copy)), parameter_names);
  const StateDict a = model.state_dict();
  const StateDict b = copy.state_dict();
  ASSERT_EQ(names_of(a), names_of(b));
  for (std::size_t i = 0; i < a.size(); ++i) {
    EXPECT_NE(a[i].tensor.raw(), b[i].tensor.raw()) << a[i].name;
    EXPECT_EQ(a[i].tensor.to_vector(), b[i].tensor.to_vector()) << a[i].name;
  }
  EXPECT_TRUE(copy.head.weight.same(copy.words.weight));
  EXPECT_FALSE(copy.temperature.requires_grad());
  EXPECT_TRUE(copy.words.weight.requires_grad());
  EXPECT_FALSE(copy.tail[2].training());
  EXPECT_EQ(copy(arange(5)).to_vector(), model(arange(5)).to_vector());
  const NoGrad off;
  copy.block.up.bias.fill_(5);
  EXPECT_NE(copy(arange(5)).to_vector(), model(arange(5)).to_vector());
}

TEST(Module, CopyingThrows) {
  // Only clone may; the constructor is there for it.
  static_assert(!std::is_copy_assignable_v<nn::Linear>);
  const nn::Linear layer(2, 3);
  expect_contains(error_of([&] { const nn::Linear copy = layer; }), "Linear: a module is moved or cloned, not copied");
  expect_contains(error_of([&] {
                    const Model m;
                    const Model copy = m;
                  }),
                  "use nn::clone(model)");
}

TEST(Module, FindsLayersThatWereForgotten) {
  struct Forgetful : nn::Module {
    nn::Linear in{{this, "in"}, 2, 2};
    nn::Linear out{2, 2};
  };
  const Forgetful model;
  EXPECT_EQ(names_of(model.parameters()), (Names{"in.weight", "in.bias"}));
  expect_contains(error_of([&] { nn::parameters(model); }), "a Linear at offset ");
  expect_contains(error_of([&] { nn::parameters(model); }), "of the ");
  // Two models side by side are not parts of each other.
  const Model pair[2];
  EXPECT_EQ(error_of([&] { nn::parameters(pair[0]); }), "");
}

TEST(Module, RefusesBadNames) {
  struct Twice : nn::Module {
    nn::Linear a{{this, "a"}, 2, 2};
    nn::Parameter b{{this, "a"}, scalar(1)};
  };
  expect_contains(error_of([] { Twice(); }), "two members are named 'a'");
  struct Dotted : nn::Module {
    nn::Linear a{{this, "a.b"}, 2, 2};
  };
  expect_contains(error_of([] { Dotted(); }), "'a.b'");
  struct Nameless : nn::Module {
    nn::Parameter a{{this}, scalar(1)};
  };
  expect_contains(error_of([] { Nameless(); }), "must not be empty");
}

// ---- state ----

TEST(Module, LoadsAState) {
  manual_seed(1);
  Model a;
  Model b;
  ASSERT_NE(a.words.weight.to_vector(), b.words.weight.to_vector());
  b.load_state_dict(a.state_dict());
  a.eval();
  b.eval();
  EXPECT_EQ(a(arange(5)).to_vector(), b(arange(5)).to_vector());
  EXPECT_TRUE(b.head.weight.same(b.words.weight));
  EXPECT_TRUE(b.head.weight.requires_grad());
  EXPECT_NE(a.words.weight.raw(), b.words.weight.raw());
  // Values are converted to the model's dtype.
  StateDict wide;
  for (const NamedTensor& entry : a.state_dict())
    wide.push_back({entry.name, is_floating(entry.tensor.dtype()) ? entry.tensor.to(DType::f64) : entry.tensor});
  b.load_state_dict(wide);
  EXPECT_EQ(b.words.weight.dtype(), DType::f32);
}

TEST(Module, StateThatDoesNotFitChangesNothing) {
  Model model;
  const Doubles before = model.block.up.bias.to_vector();
  StateDict state = nn::clone(model).state_dict();
  for (NamedTensor& entry : state) {
    if (entry.name == "block.up.bias") entry.tensor.fill_(9);
    if (entry.name == "temperature") entry.name = "heat";
    if (entry.name == "tail.0.bias") entry.tensor = zeros({5});
  }
  const std::string error = error_of([&] { model.load_state_dict(state); });
  expect_contains(error, "does not fit the Model");
  expect_contains(error, "missing: temperature");
  expect_contains(error, "unexpected: heat");
  expect_contains(error, "wrong shape: tail.0.bias is [5], the model's is [4]");
  EXPECT_EQ(model.block.up.bias.to_vector(), before);
  // Names may differ if asked for, shapes not.
  expect_contains(error_of([&] { model.load_state_dict(state, false); }), "wrong shape");
  std::erase_if(state, [](const NamedTensor& entry) { return entry.name == "tail.0.bias"; });
  model.load_state_dict(state, false);
  EXPECT_EQ(model.block.up.bias.to_vector(), Doubles(8, 9));
}

// ---- modes and conversions ----

TEST(Module, ModeReachesAllChildren) {
  Model model;
  EXPECT_TRUE(model.training());
  model.eval();
  EXPECT_FALSE(model.training());
  EXPECT_FALSE(model.block.down.training());
  EXPECT_FALSE(model.tail[2].training());
  model.train();
  EXPECT_TRUE(model.tail[1].training());
}

TEST(Module, ConvertsInPlace) {
  Model model;
  const Tensor handle = model.words.weight;
  sum(model(arange(5))).backward();
  const Doubles before = handle.to_vector();
  model.to(DType::f64);
  EXPECT_EQ(handle.dtype(), DType::f64);
  EXPECT_EQ(handle.to_vector(), before);
  EXPECT_FALSE(handle.grad().defined());
  EXPECT_TRUE(model.head.weight.same(model.words.weight));
  EXPECT_EQ(find(model.buffers(), "tail.1.running_mean").dtype(), DType::f64);
  EXPECT_EQ(find(model.buffers(), "tail.1.num_batches_tracked").dtype(), DType::i64);
  sum(model(arange(5))).backward();
  EXPECT_EQ(handle.grad().dtype(), DType::f64);
  expect_contains(error_of([&] { model.to(DType::i64); }), "expected a floating dtype");
  expect_contains(error_of([&] { model.to(Device{DeviceKind::cuda, 15}); }), "cuda:15: ");
  model.to(Device{});
}

TEST(Module, FrozenParametersGetNoGradient) {
  Model model;
  model.block.set_requires_grad(false);
  sum(square(model(arange(5)))).backward();
  for (const NamedTensor& p : model.parameters())
    EXPECT_EQ(p.tensor.grad().defined(), !p.name.starts_with("block.")) << p.name;
  model.zero_grad();
  for (const NamedTensor& p : model.parameters()) EXPECT_FALSE(p.tensor.grad().defined());
  model.set_requires_grad(false);
  EXPECT_FALSE(model(arange(5)).requires_grad());
  model.set_requires_grad(true);
  for (const NamedTensor& b : model.buffers()) EXPECT_FALSE(b.tensor.requires_grad());
}

TEST(Module, OptionalMembersAndChildren) {
  const nn::Linear plain(3, 2, {.bias = false});
  EXPECT_FALSE(plain.bias.defined());
  EXPECT_EQ(names_of(plain.parameters()), Names{"weight"});
  const Model model;
  Names children;
  model.for_each_child(
      [&](const std::string& name, const nn::Module& child) { children.push_back(name + ":" + child.type_name()); });
  EXPECT_EQ(children, (Names{"words:Embedding", "block:Block", "tail:Sequential", "head:Linear"}));
  expect_contains(error_of([] { nn::Module()(scalar(1)); }), "forward(Tensor) is not defined");
}

TEST(Module, SequentialTakesLayersByValue) {
  nn::Sequential net(nn::Linear(3, 4), nn::ReLU());
  net.add(nn::Sequential(nn::Linear(4, 2)));
  EXPECT_EQ(net.size(), 3u);
  EXPECT_EQ(names_of(nn::parameters(net)), (Names{"0.weight", "0.bias", "2.0.weight", "2.0.bias"}));
  nn::Sequential moved = std::move(net);
  EXPECT_EQ(names_of(nn::parameters(moved)), (Names{"0.weight", "0.bias", "2.0.weight", "2.0.bias"}));
  EXPECT_EQ(moved(ones({5, 3})).shape(), (Shape{5, 2}));
  const nn::Sequential copy = nn::clone(moved);
  EXPECT_EQ(copy(ones({5, 3})).to_vector(), moved(ones({5, 3})).to_vector());
  EXPECT_NE(copy.parameters()[0].tensor.raw(), moved.parameters()[0].tensor.raw());
}

}  // namespace
