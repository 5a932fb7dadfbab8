#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <limits>

#include "anneal/tests/kernels/backend.h"
#include "anneal/tests/kernels/values.h"

namespace anneal::testing {
namespace {

using kernels::AdamStep;
using kernels::Block;
using kernels::GradientSum;
using kernels::OptimGroup;
using kernels::OptimStep;
using kernels::SgdStep;
using kernels::StepFactor;
using kernels::StepState;

constexpr double infinity = std::numeric_limits<double>::infinity();

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
  const StepState* state = nullptr;
  double clip_value = 0;

  /// Blocks of these sizes in turn for groups 0, 1, 2. They begin at multiples of `alignment`, or anywhere if it is 0.
  explicit Arena(std::initializer_list<std::int64_t> sizes, std::int64_t alignment = 0) {
    std::int64_t at = 3;
    for (const std::int64_t size : sizes) {
      if (alignment > 0) at = (at + alignment - 1) / alignment * alignment;
      blocks.push_back({at, at + size, static_cast<std::int32_t>(blocks.size() % 3), true});
      at += size + static_cast<std::int64_t>(blocks.size()) % 5;
    }
    values = random_values<T>(at + 2, 1);
    first.resize(values.size());
    second.resize(values.size());
    steps.resize(blocks.size());
  }
  auto size() const { return static_cast<std::int64_t>(values.size()); }
  auto n_blocks() const { return static_cast<std::int64_t>(blocks.size()); }
  template <class Twin = f16>
  OptimStep with(const OptimGroup* groups, Twin* twin = nullptr) {
    return {.dtype = dtype_of<T>,
            .twin_dtype = dtype_of<Twin>,
            .blocks = blocks.data(),
            .n_blocks = n_blocks(),
            .groups = groups,
            .steps = steps.data(),
            .state = state,
            .clip_value = clip_value,
            .gradients = gradients.data(),
            .values = values.data(),
            .twin = twin};
  }
  void adam(unsigned seed) {
    gradients = random_values<T>(size(), seed);
    backend::run(AdamStep{with(adam_groups), first.data(), second.data()});
  }
  void sgd(unsigned seed) {
    gradients = random_values<T>(size(), seed);
    backend::run(SgdStep{with(sgd_groups), first.data()});
  }
  double sum(double p, double before = 0) const {
    StepState result{.total = before};
    backend::run(GradientSum{dtype_of<T>, blocks.data(), n_blocks(), gradients.data(), p, &result});
    return result.total;
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
  const std::vector<Arena<T>> small{Arena<T>{1, 0, 63, 100, 64, 257, 17}, Arena<T>({5, 8, 0, 4099, 33, 8192, 12}, 64)};
};
using Values = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Optimizer, Values);

TYPED_TEST(Optimizer, AdamAsPyTorch) {
  for (const Arena<TypeParam>& arena : this->small) {
    check_against(
        arena, adam_groups, [](auto& a, unsigned seed) { a.adam(seed); },
        [](Element& e, const OptimGroup& o, double g, int step) { e.adam(o, g, step); });
  }
}

TYPED_TEST(Optimizer, SgdAsPyTorch) {
  for (const Arena<TypeParam>& arena : this->small) {
    check_against(
        arena, sgd_groups, [](auto& a, unsigned seed) { a.sgd(seed); },
        [](Element& e, const OptimGroup& o, double g, int step) { e.sgd(o, g, step); });
  }
}

TYPED_TEST(Optimizer, GradientsAreScaledThenClamped) {
  const StepState state{.factor = 0.5};
  for (Arena<TypeParam> arena : this->small) {
    arena.state = &state;
    for (const double limit : {0.0, 0.25}) {
      arena.clip_value = limit;
      const auto seen = [limit](double g) { return limit > 0 ? std::clamp(0.5 * g, -limit, limit) : 0.5 * g; };
      check_against(
          arena, adam_groups, [](auto& a, unsigned seed) { a.adam(seed); },
          [&](Element& e, const OptimGroup& o, double g, int step) { e.adam(o, seen(g), step); });
      check_against(
          arena, sgd_groups, [](auto& a, unsigned seed) { a.sgd(seed); },
          [&](Element& e, const OptimGroup& o, double g, int step) { e.sgd(o, seen(g), step); });
    }
  }
}

TYPED_TEST(Optimizer, ASkippedStepChangesNothing) {
  StepState state;
  for (Arena<TypeParam> arena : this->small) {
    arena.adam(1);
    arena.state = &state;
    state.found_inf = 1;
    Arena<TypeParam> after = arena;
    std::vector<bf16> twin(arena.values.size(), bf16{0x1234});
    after.gradients = random_values<TypeParam>(arena.size(), 2);
    backend::run(AdamStep{after.with(adam_groups, twin.data()), after.first.data(), after.second.data()});
    backend::run(SgdStep{after.with(sgd_groups, twin.data()), after.first.data()});
    EXPECT_TRUE(same_bits(after.values, arena.values));
    EXPECT_TRUE(same_bits(after.first, arena.first));
    EXPECT_TRUE(same_bits(after.second, arena.second));
    EXPECT_EQ(after.steps, arena.steps);
    for (const bf16 t : twin) ASSERT_EQ(t.bits, 0x1234);
    state.found_inf = 0;
    after.adam(2);
    EXPECT_FALSE(same_bits(after.values, arena.values));
  }
}

TYPED_TEST(Optimizer, ATwinHoldsTheValuesOfActiveBlocks) {
  const auto check = [&]<class Twin>() {
    for (Arena<TypeParam> arena : this->small) {
      arena.blocks[3].active = false;
      arena.gradients = random_values<TypeParam>(arena.size(), 1);
      const Twin untouched{0x1234};
      for (const bool adam : {false, true}) {
        std::vector<Twin> twin(arena.values.size(), untouched), want = twin;
        if (adam) backend::run(AdamStep{arena.with(adam_groups, twin.data()), arena.first.data(), arena.second.data()});
        else backend::run(SgdStep{arena.with(sgd_groups, twin.data()), arena.first.data()});
        for (const Block& block : arena.blocks) {
          if (!block.active) continue;
          for (auto i = static_cast<std::size_t>(block.begin); i < static_cast<std::size_t>(block.end); ++i) {
            want[i] = store<Twin>(static_cast<float>(arena.values[i]));
          }
        }
        EXPECT_TRUE(same_bits(twin, want));
      }
    }
  };
  check.template operator()<f16>();
  check.template operator()<bf16>();
}

TYPED_TEST(Optimizer, AnAverageFollowsTheValuesOfActiveBlocks) {
  constexpr double decay = 0.75;
  for (const bool adam : {false, true}) {
    for (Arena<TypeParam> arena : this->small) {
      arena.blocks[3].active = false;
      Arena<TypeParam> plain = arena;
      std::vector<TypeParam> average = random_values<TypeParam>(arena.size(), 9);
      Doubles want = doubles(average);
      for (unsigned step = 1; step <= 3; ++step) {
        plain.gradients = arena.gradients = random_values<TypeParam>(arena.size(), step);
        OptimStep averaged = arena.with(adam ? adam_groups : sgd_groups);
        averaged.average = average.data();
        averaged.decay = decay;
        if (adam) {
          backend::run(AdamStep{averaged, arena.first.data(), arena.second.data()});
          backend::run(AdamStep{plain.with(adam_groups), plain.first.data(), plain.second.data()});
        } else {
          backend::run(SgdStep{averaged, arena.first.data()});
          backend::run(SgdStep{plain.with(sgd_groups), plain.first.data()});
        }
        for (const Block& block : arena.blocks) {
          if (!block.active) continue;
          for (auto i = static_cast<std::size_t>(block.begin); i < static_cast<std::size_t>(block.end); ++i) {
            want[i] += (1 - decay) * (static_cast<double>(arena.values[i]) - want[i]);
          }
        }
      }
      expect_near(average, want);
      EXPECT_TRUE(same_bits(arena.values, plain.values));
      EXPECT_TRUE(same_bits(arena.first, plain.first));
      EXPECT_TRUE(same_bits(arena.second, plain.second));
    }
  }
}

// 16-bit values and gradients with f32 state: as an arena of f32 with the same numbers, but for the rounding of values.
TEST(Optimizer16Bit, HasStateInF32) {
  const auto check = [&]<class T>() {
    for (const bool adam : {false, true}) {
      for (const std::int64_t alignment : {0, 64}) {
        Arena<T> half({5, 8, 0, 4099, 33, 8192, 12}, alignment);
        Arena<float> full({5, 8, 0, 4099, 33, 8192, 12}, alignment);
        std::vector<float> first = full.first, second = full.second, average = first, full_average = first;
        full.gradients.resize(full.values.size());
        half.blocks[3].active = full.blocks[3].active = false;
        for (unsigned step = 1; step <= 3; ++step) {
          half.gradients = random_values<T>(half.size(), step);
          for (std::size_t i = 0; i < half.values.size(); ++i) {
            full.values[i] = load(half.values[i]);
            full.gradients[i] = load(half.gradients[i]);
          }
          std::vector<bf16> twin(half.values.size()), full_twin(twin);
          const OptimGroup* const groups = adam ? adam_groups : sgd_groups;
          OptimStep half_step = half.with(groups, twin.data()), full_step = full.with(groups, full_twin.data());
          half_step.average = average.data(), full_step.average = full_average.data();
          half_step.decay = full_step.decay = 0.5;
          if (adam) {
            backend::run(AdamStep{half_step, first.data(), second.data()});
            backend::run(AdamStep{full_step, full.first.data(), full.second.data()});
          } else {
            backend::run(SgdStep{half_step, first.data()});
            backend::run(SgdStep{full_step, full.first.data()});
          }
          std::vector<T> want;
          for (const float value : full.values) want.push_back(store<T>(value));
          EXPECT_TRUE(same_bits(half.values, want));
          EXPECT_TRUE(same_bits(first, full.first));
          EXPECT_TRUE(same_bits(second, full.second));
          EXPECT_TRUE(same_bits(average, full_average));
          EXPECT_TRUE(same_bits(twin, full_twin));
          EXPECT_EQ(half.steps, full.steps);
          for (const double p : {1.0, 2.0, 3.0, std::numeric_limits<double>::infinity()})
            EXPECT_NEAR(half.sum(p), full.sum(p), 1e-12 * full.sum(p));
        }
      }
    }
  };
  check.template operator()<f16>();
  check.template operator()<bf16>();
}

TYPED_TEST(Optimizer, GradientSumIsThatOfActiveBlocks) {
  for (Arena<TypeParam> arena : this->small) {
    arena.blocks[3].active = false;
    arena.gradients.assign(arena.values.size(), std::numeric_limits<TypeParam>::quiet_NaN());
    const auto random = random_values<TypeParam>(arena.size(), 1);
    Doubles seen;
    for (const Block& block : arena.blocks) {
      if (!block.active) continue;
      for (auto i = static_cast<std::size_t>(block.begin); i < static_cast<std::size_t>(block.end); ++i) {
        arena.gradients[i] = random[i];
        seen.push_back(std::abs(static_cast<double>(random[i])));
      }
    }
    for (const double p : {1.0, 2.0, 3.0, 2.5}) {
      double want = 7;
      for (const double g : seen) want += std::pow(g, p);
      EXPECT_NEAR(arena.sum(p, 7), want, 1e-12 * want) << "p = " << p;
    }
    EXPECT_EQ(arena.sum(infinity), *std::max_element(seen.begin(), seen.end()));
    EXPECT_EQ(arena.sum(infinity, 100), 100);
    // Gradients that are not finite show.
    TypeParam& one = arena.gradients[static_cast<std::size_t>(arena.blocks.back().end - 1)];
    for (const double p : {1.0, 2.0, 3.0, infinity}) {
      one = -std::numeric_limits<TypeParam>::infinity();
      EXPECT_EQ(arena.sum(p), infinity) << "p = " << p;
      one = std::numeric_limits<TypeParam>::quiet_NaN();
      EXPECT_TRUE(std::isnan(arena.sum(p, 1))) << "p = " << p;
    }
  }
}

TEST(GradientSumOfFloats, DoesNotOverflow) {
  Arena<float> arena{3};
  arena.gradients.assign(arena.values.size(), 1e30f);
  EXPECT_NEAR(arena.sum(2), 3e60, 1e54);
}

TEST(StepFactorOf, AverageAndScale) {
  StepState s{.total = 25, .scale = 4};
  StepFactor step{
      .state = &s, .p = 2, .average = 0.5, .max_norm = 0, .scaler = false, .growth = 2, .backoff = 0.5, .interval = 1};
  backend::run(step);
  EXPECT_EQ(s.total, 0);
  EXPECT_EQ(s.norm, 2.5);
  EXPECT_EQ(s.factor, 0.5);  // the scale is the scaler's
  EXPECT_EQ(s.scale, 4);
  EXPECT_EQ(s.found_inf, 0);
  s.total = 8;
  step.p = 3;
  backend::run(step);
  EXPECT_DOUBLE_EQ(s.norm, 1);
  s.total = 5;
  step.p = infinity;
  backend::run(step);
  EXPECT_EQ(s.norm, 2.5);
  s.total = 5;
  step.scaler = true;
  backend::run(step);
  EXPECT_EQ(s.norm, 0.625);  // 5 * 0.5 / 4
  EXPECT_EQ(s.factor, 0.125);
}

TEST(StepFactorOf, ClippedNorms) {
  StepState s{.total = 25, .scale = 4};
  StepFactor step{
      .state = &s, .p = 2, .average = 0.5, .max_norm = 0.25, .scaler = false, .growth = 1, .backoff = 1, .interval = 0};
  backend::run(step);
  EXPECT_EQ(s.norm, 2.5);  // before clipping
  EXPECT_DOUBLE_EQ(s.factor, 0.5 * 0.25 / 2.500001);
  s.total = 25;
  step.max_norm = 2.6;
  backend::run(step);
  EXPECT_EQ(s.factor, 0.5);  // short enough
  s.total = std::nan("");
  backend::run(step);
  EXPECT_TRUE(std::isnan(s.factor));
  EXPECT_EQ(s.found_inf, 0);
}

TEST(StepFactorOf, LossScaling) {
  StepState s{.scale = 8};
  StepFactor step{
      .state = &s, .p = 2, .average = 1, .max_norm = 0, .scaler = true, .growth = 4, .backoff = 0.5, .interval = 2};
  const auto run = [&](double total) {
    s.total = total;
    backend::run(step);
  };
  run(1);
  EXPECT_EQ(s.factor, 1.0 / 8);
  EXPECT_EQ(s.scale, 8);
  EXPECT_EQ(s.good_steps, 1);
  run(1);
  EXPECT_EQ(s.factor, 1.0 / 8);  // the scale of the gradients at hand
  EXPECT_EQ(s.scale, 32);
  EXPECT_EQ(s.good_steps, 0);
  run(1);
  for (const double bad : {infinity, std::nan("")}) {
    const double before = s.scale;
    run(bad);
    EXPECT_EQ(s.found_inf, 1);
    EXPECT_EQ(s.scale, before / 2);
    EXPECT_EQ(s.good_steps, 0);
    EXPECT_EQ(s.total, 0);
  }
  EXPECT_EQ(s.skipped, 2);
  run(1);
  EXPECT_EQ(s.found_inf, 0);
  EXPECT_EQ(s.skipped, 2);
  EXPECT_EQ(s.good_steps, 1);
  step.growth = step.backoff = 1;
  step.interval = 0;
  for (const double total : {1.0, 1.0, infinity}) run(total);
  EXPECT_EQ(s.scale, 8);  // a scale that stays
  EXPECT_EQ(s.found_inf, 1);
}

TYPED_TEST(Optimizer, SameBitsForAnyThreads) {
  // Large enough for several threads, whose pieces cut through blocks.
  Arena<TypeParam> large = backend::emulated ? Arena<TypeParam>{10'003, 17, 21'001, 64, 7}
                                             : Arena<TypeParam>{100'003, 17, 250'001, 64, 33'333, 7};
  large.gradients = random_values<TypeParam>(large.size(), 9);
  expect_thread_independent([&] {
    Arena<TypeParam> a = large, b = large;
    for (unsigned step = 1; step <= 3; ++step) a.adam(step), b.sgd(step);
    const auto sum = [&](double p) {
      return std::bit_cast<std::array<TypeParam, 8 / sizeof(TypeParam)>>(large.sum(p));
    };
    std::vector<TypeParam> sums;
    for (const double p : {1.0, 2.0, infinity}) {
      for (const TypeParam part : sum(p)) sums.push_back(part);
    }
    return std::vector{a.values, a.first, a.second, b.values, b.first, sums};
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
      backend::run(AdamStep{a.with(adam_groups), a.first.data(), a.second.data()});
    }
    return std::vector<TypeParam>(a.values.begin() + shift, a.values.begin() + shift + 301);
  };
  for (const std::int64_t shift : {1, 13, 64}) EXPECT_TRUE(same_bits(of(0), of(shift))) << shift;
}

TYPED_TEST(Optimizer, PlainSgdNeedsNoMomentum) {
  Arena<TypeParam> arena{2};
  arena.values.assign(arena.values.size(), 1);
  arena.gradients.assign(arena.values.size(), 10);
  backend::run(SgdStep{arena.with(sgd_groups), nullptr});
  expect_near(arena.values, {1, 1, 1, 0, 0, 1, 1, 1});
}

TYPED_TEST(Optimizer, NoBlocksNoWork) {
  const OptimStep none{.dtype = dtype_of<TypeParam>,
                       .twin_dtype = DType::f16,
                       .blocks = nullptr,
                       .n_blocks = 0,
                       .groups = adam_groups,
                       .steps = nullptr,
                       .state = nullptr,
                       .clip_value = 0,
                       .gradients = nullptr,
                       .values = nullptr,
                       .twin = nullptr};
  backend::run(AdamStep{none, nullptr, nullptr});
  backend::run(SgdStep{none, nullptr});
  Arena<TypeParam> arena{5};
  arena.blocks[0].active = false;
  const auto before = arena.values;
  arena.adam(1);
  arena.sgd(1);
  EXPECT_TRUE(same_bits(arena.values, before));
  EXPECT_EQ(arena.steps[0], 0);
  EXPECT_EQ(arena.sum(2, 3), 3);
  EXPECT_EQ(arena.sum(infinity, 3), 3);
}

}  // namespace
}  // namespace anneal::testing
