#include <gtest/gtest.h>

#include "anneal/kernels/kernels.h"
#include "anneal/tests/kernels/values.h"

namespace anneal::testing {
namespace {

using kernels::Block;
using kernels::OptimGroup;

constexpr OptimGroup adam_groups[] = {
    {.lr = 0.01,
     .beta1 = 0.9,
     .beta2 = 0.999,
     .eps = 1e-8,
     .weight_decay = 0,
     .momentum = 0,
     .dampening = 0,
     .nesterov = false,
     .maximize = false,
     .decoupled = false},
    {.lr = 0.02,
     .beta1 = 0.8,
     .beta2 = 0.99,
     .eps = 1e-4,
     .weight_decay = 0.1,
     .momentum = 0,
     .dampening = 0,
     .nesterov = false,
     .maximize = false,
     .decoupled = false},
    {.lr = 0.03,
     .beta1 = 0.9,
     .beta2 = 0.95,
     .eps = 1e-8,
     .weight_decay = 0.2,
     .momentum = 0,
     .dampening = 0,
     .nesterov = false,
     .maximize = true,
     .decoupled = true},
};
constexpr OptimGroup sgd_groups[] = {
    {.lr = 0.1,
     .beta1 = 0,
     .beta2 = 0,
     .eps = 0,
     .weight_decay = 0,
     .momentum = 0,
     .dampening = 0,
     .nesterov = false,
     .maximize = false,
     .decoupled = false},
    {.lr = 0.2,
     .beta1 = 0,
     .beta2 = 0,
     .eps = 0,
     .weight_decay = 0.1,
     .momentum = 0.9,
     .dampening = 0.3,
     .nesterov = false,
     .maximize = true,
     .decoupled = false},
    {.lr = 0.05,
     .beta1 = 0,
     .beta2 = 0,
     .eps = 0,
     .weight_decay = 0.01,
     .momentum = 0.8,
     .dampening = 0,
     .nesterov = true,
     .maximize = false,
     .decoupled = false},
};

/// Values, gradients and the optimizer's state of one arena.
template <class T>
struct Arena {
  std::vector<Block> blocks;
  std::vector<T> values, gradients, first, second;
  std::vector<std::int64_t> steps;

  /// Blocks of these sizes in turn for groups 0, 1, 2, with gaps between them, so that edges are not aligned.
  explicit Arena(std::initializer_list<std::int64_t> sizes) {
    std::int64_t at = 3;
    for (const std::int64_t size : sizes) {
      blocks.push_back({at, at + size, static_cast<std::int32_t>(blocks.size() % 3), true});
      at += size + static_cast<std::int64_t>(blocks.size()) % 5;
    }
    values = random_values<T>(at + 2, 1);
    first.resize(values.size());
    second.resize(values.size());
    steps.resize(blocks.size());
  }
  auto n_blocks() const { return static_cast<std::int64_t>(blocks.size()); }
  void adam(unsigned seed) {
    gradients = random_values<T>(static_cast<std::int64_t>(values.size()), seed);
    kernels::cpu::run(kernels::AdamStep{dtype_of<T>, blocks.data(), n_blocks(), adam_groups, steps.data(),
                                        gradients.data(), values.data(), first.data(), second.data()});
  }
  void sgd(unsigned seed) {
    gradients = random_values<T>(static_cast<std::int64_t>(values.size()), seed);
    kernels::cpu::run(kernels::SgdStep{dtype_of<T>, blocks.data(), n_blocks(), sgd_groups, steps.data(),
                                       gradients.data(), values.data(), first.data()});
  }
};

/// One element's state, stepped as PyTorch's documentation says.
struct Element {
  double p, m = 0, v = 0;
  void adam(const OptimGroup& o, double g, int step) {
    if (o.maximize) g = -g;
    if (o.decoupled) p *= 1 - o.lr * o.weight_decay;
    else g += o.weight_decay * p;
    m = o.beta1 * m + (1 - o.beta1) * g;
    v = o.beta2 * v + (1 - o.beta2) * g * g;
    const double m_hat = m / (1 - std::pow(o.beta1, step)), v_hat = v / (1 - std::pow(o.beta2, step));
    p -= o.lr * m_hat / (std::sqrt(v_hat) + o.eps);
  }
  void sgd(const OptimGroup& o, double g, int step) {
    if (o.maximize) g = -g;
    g += o.weight_decay * p;
    if (o.momentum != 0) {
      m = step == 1 ? g : o.momentum * m + (1 - o.dampening) * g;
      g = o.nesterov ? g + o.momentum * m : m;
    }
    p -= o.lr * g;
  }
};

/// Whether block b takes part in a step: the fourth one skips every other step, so its own count differs.
bool takes_part(std::size_t b, int step) { return b != 3 || step % 2 == 0; }

template <class T, class Step, class Reference>
void check_against(Arena<T> arena, const OptimGroup* groups, const Step& step, const Reference& reference) {
  std::vector<Element> want;
  for (const double p : doubles(arena.values)) want.push_back({p});
  std::vector<int> counts(arena.blocks.size());
  for (int i = 1; i <= 7; ++i) {
    for (std::size_t b = 0; b < arena.blocks.size(); ++b) arena.blocks[b].active = takes_part(b, i);
    const std::vector<T> before = arena.values;
    step(arena, static_cast<unsigned>(i));
    const Doubles g = doubles(arena.gradients);
    std::vector<bool> may_change(before.size());
    for (std::size_t b = 0; b < arena.blocks.size(); ++b) {
      if (!takes_part(b, i)) continue;
      ++counts[b];
      const Block& block = arena.blocks[b];
      for (auto k = static_cast<std::size_t>(block.begin); k < static_cast<std::size_t>(block.end); ++k) {
        reference(want[k], groups[block.group], g[k], counts[b]);
        may_change[k] = true;
      }
    }
    for (std::size_t k = 0; k < before.size(); ++k) {
      if (may_change[k]) continue;
      ASSERT_EQ(std::memcmp(&before[k], &arena.values[k], sizeof(T)), 0) << "at " << k;
    }
  }
  Doubles values;
  for (const Element& e : want) values.push_back(e.p);
  expect_near(arena.values, values, 10 * tolerance<T>);
  for (std::size_t b = 0; b < counts.size(); ++b) EXPECT_EQ(arena.steps[b], counts[b]);
}

template <class T>
class Optimizer : public ::testing::Test {
 protected:
  const Arena<T> small{1, 0, 63, 100, 64, 257, 17};
};
using Values = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Optimizer, Values);

TYPED_TEST(Optimizer, AdamAsPyTorch) {
  check_against(
      this->small, adam_groups, [](auto& arena, unsigned seed) { arena.adam(seed); },
      [](Element& e, const OptimGroup& o, double g, int step) { e.adam(o, g, step); });
}

TYPED_TEST(Optimizer, SgdAsPyTorch) {
  check_against(
      this->small, sgd_groups, [](auto& arena, unsigned seed) { arena.sgd(seed); },
      [](Element& e, const OptimGroup& o, double g, int step) { e.sgd(o, g, step); });
}

TYPED_TEST(Optimizer, SameBitsForAnyThreads) {
  // Large enough for several threads, whose pieces cut through blocks.
  const Arena<TypeParam> large{100'003, 17, 250'001, 64, 33'333, 7};
  expect_thread_independent([&] {
    Arena<TypeParam> a = large, b = large;
    for (unsigned step = 1; step <= 3; ++step) a.adam(step), b.sgd(step);
    return std::vector{a.values, a.first, a.second, b.values, b.first};
  });
}

TYPED_TEST(Optimizer, BitsDoNotDependOnWhereABlockLies) {
  const auto of = [](std::int64_t shift) {
    Arena<TypeParam> a{400};
    a.blocks = {{shift, shift + 301, 1, true}};
    a.values.resize(400);
    for (std::size_t i = 0; i < 301; ++i)
      a.values[i + static_cast<std::size_t>(shift)] = TypeParam(1) / static_cast<TypeParam>(i + 1);
    a.gradients = a.values;
    for (int step = 0; step < 3; ++step) {
      kernels::cpu::run(kernels::AdamStep{dtype_of<TypeParam>, a.blocks.data(), 1, adam_groups, a.steps.data(),
                                          a.gradients.data(), a.values.data(), a.first.data(), a.second.data()});
    }
    return std::vector<TypeParam>(a.values.begin() + shift, a.values.begin() + shift + 301);
  };
  for (const std::int64_t shift : {1, 13, 64}) EXPECT_TRUE(same_bits(of(0), of(shift))) << shift;
}

TYPED_TEST(Optimizer, PlainSgdNeedsNoMomentum) {
  std::vector<TypeParam> values{1, 2}, gradients{10, 20};
  const Block block{0, 2, 0, true};
  std::int64_t steps = 0;
  kernels::cpu::run(
      kernels::SgdStep{dtype_of<TypeParam>, &block, 1, sgd_groups, &steps, gradients.data(), values.data(), nullptr});
  expect_near(values, {0, 0});
}

TYPED_TEST(Optimizer, NoBlocksNoWork) {
  kernels::cpu::run(
      kernels::AdamStep{dtype_of<TypeParam>, nullptr, 0, adam_groups, nullptr, nullptr, nullptr, nullptr, nullptr});
  Arena<TypeParam> arena{5};
  arena.blocks[0].active = false;
  const auto before = arena.values;
  arena.adam(1);
  arena.sgd(1);
  EXPECT_TRUE(same_bits(arena.values, before));
  EXPECT_EQ(arena.steps[0], 0);
}

}  // namespace
}  // namespace anneal::testing
