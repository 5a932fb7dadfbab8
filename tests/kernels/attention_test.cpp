#include <gtest/gtest.h>

#include "anneal/kernels/philox.h"
#include "anneal/tests/kernels/values.h"

namespace anneal::testing {
namespace {

enum class Mask { none, boolean, added };
struct Heads {
  std::int64_t batch, heads, group, queries, keys, depth, value_depth;
  bool causal = false;
  Mask mask = Mask::none;
  double dropout = 0;

  friend void PrintTo(const Heads& s, std::ostream* out) {
    *out << s.batch << "x" << s.heads << "/" << s.group << ", " << s.queries << " queries, " << s.keys << " keys, "
         << s.depth << " and " << s.value_depth << " deep" << (s.causal ? ", causal" : "")
         << (s.mask == Mask::none ? "" : ", masked") << (s.dropout > 0 ? ", dropped" : "");
  }
  std::int64_t kv_heads() const { return heads / group; }
};
constexpr Heads shapes[] = {
    {1, 1, 1, 1, 1, 1, 1},
    {2, 3, 1, 7, 5, 3, 4},
    {2, 3, 1, 7, 5, 3, 4, true},
    {1, 2, 2, 5, 40, 17, 9, true},
    {1, 4, 2, 33, 50, 16, 65, false, Mask::boolean},
    {2, 2, 1, 19, 19, 8, 8, true, Mask::added},
    {1, 2, 1, 9, 70, 5, 5, false, Mask::added, 0.3},
    {1, 2, 2, 67, 67, 12, 3, true, Mask::boolean, 0.5},
    {1, 1, 1, 3, 4, 2, 2, false, Mask::none, 1},
};
constexpr double scale = 0.4;

/// q, k, v and the result have rows of all heads side by side, as [batch, rows, heads, depth].
kernels::HeadStrides strides(std::int64_t rows, std::int64_t heads, std::int64_t depth) {
  return {rows * heads * depth, depth, heads * depth};
}

/// Operands and results of both kernels.
template <class T>
struct Attended {
  explicit Attended(const Heads& s) : s(s) {
    const std::int64_t in = s.batch * s.queries * s.heads, on = s.batch * s.keys * s.kv_heads();
    q = random_values<T>(in * s.depth, 1), k = random_values<T>(on * s.depth, 2);
    v = random_values<T>(on * s.value_depth, 3), dout = random_values<T>(in * s.value_depth, 4);
    out.resize(dout.size()), lse.resize(static_cast<std::size_t>(in));
    dq.resize(q.size()), dk.resize(k.size()), dv.resize(v.size());
    // [batch, 1, queries, keys], the keys outermost. The first query sees nothing.
    const std::int64_t cells = s.batch * s.queries * s.keys;
    added = random_values<T>(cells, 5);
    for (std::int64_t i = 0; i < cells; ++i) boolean.push_back(i * 7 % 5 > 1 && i / s.batch % s.queries != 0);
    kernels::AttentionInputs inputs{.dtype = dtype_of<T>,
                                    .batch = s.batch,
                                    .heads = s.heads,
                                    .group = s.group,
                                    .queries = s.queries,
                                    .keys = s.keys,
                                    .depth = s.depth,
                                    .value_depth = s.value_depth,
                                    .scale = scale,
                                    .causal = s.causal,
                                    .q = q.data(),
                                    .k = k.data(),
                                    .v = v.data(),
                                    .q_strides = strides(s.queries, s.heads, s.depth),
                                    .k_strides = strides(s.keys, s.kv_heads(), s.depth),
                                    .v_strides = strides(s.keys, s.kv_heads(), s.value_depth),
                                    .mask = nullptr,
                                    .mask_dtype = s.mask == Mask::boolean ? DType::boolean : dtype_of<T>,
                                    .mask_strides = {1, 0, s.batch, s.batch * s.queries},
                                    .dropout = s.dropout,
                                    .seed = 9,
                                    .offset = 12};
    if (s.mask == Mask::boolean) inputs.mask = boolean.data();
    if (s.mask == Mask::added) inputs.mask = added.data();
    const kernels::HeadStrides out_strides = strides(s.queries, s.heads, s.value_depth);
    backend::run(kernels::Attention{inputs, out.data(), out_strides, lse.data()});
    grad = {inputs,    out.data(), dout.data(), out_strides,      out_strides,      lse.data(),
            dq.data(), dk.data(),  dv.data(),   inputs.q_strides, inputs.k_strides, inputs.v_strides};
    backend::run(grad);
  }
  Attended(const Attended&) = delete;

  Heads s;
  std::vector<T> q, k, v, dout, out, dq, dk, dv, added;
  std::vector<Compute<T>> lse;
  std::vector<std::uint8_t> boolean;
  kernels::AttentionGrad grad;
};

/// The same in plain loops, in f64.
struct Reference {
  Doubles out, lse, dq, dk, dv;

  template <class T>
  explicit Reference(const Attended<T>& a)
      : out(a.out.size()), lse(a.lse.size()), dq(a.q.size()), dk(a.k.size()), dv(a.v.size()) {
    const Heads& s = a.s;
    const Doubles q = doubles(a.q), k = doubles(a.k), v = doubles(a.v), dout = doubles(a.dout),
                  added = doubles(a.added);
    for (std::int64_t b = 0; b < s.batch; ++b) {
      for (std::int64_t h = 0; h < s.heads; ++h) {
        for (std::int64_t i = 0; i < s.queries; ++i) {
          const auto from = static_cast<std::size_t>((b * s.queries + i) * s.heads + h);
          const auto to = [&](std::int64_t j) {
            return static_cast<std::size_t>((b * s.keys + j) * s.kv_heads() + h / s.group);
          };
          const auto depth = static_cast<std::size_t>(s.depth), value_depth = static_cast<std::size_t>(s.value_depth);
          const auto times = [](const Doubles& x, std::size_t xi, const Doubles& y, std::size_t yi, std::size_t n) {
            double sum = 0;
            for (std::size_t d = 0; d < n; ++d) sum += x[xi * n + d] * y[yi * n + d];
            return sum;
          };
          const auto add = [](double factor, const Doubles& x, std::size_t xi, Doubles& y, std::size_t yi,
                              std::size_t n) {
            for (std::size_t d = 0; d < n; ++d) y[yi * n + d] += factor * x[xi * n + d];
          };
          Doubles weight(static_cast<std::size_t>(s.keys)), kept(weight.size(), 1.0);
          double total = 0, max = -INFINITY;
          std::fill(weight.begin(), weight.end(), -INFINITY);
          for (std::int64_t j = 0; j < s.keys; ++j) {
            const auto cell = static_cast<std::size_t>(b + (i + j * s.queries) * s.batch),
                       at = static_cast<std::size_t>(j);
            if (s.mask == Mask::boolean && !a.boolean[cell]) continue;
            if (s.causal && j > i) continue;
            weight[at] = scale * times(q, from, k, to(j), depth) + (s.mask == Mask::added ? added[cell] : 0);
            max = std::max(max, weight[at]);
            const auto position =
                static_cast<std::uint64_t>(12 + ((b * s.heads + h) * s.queries + i) * ((s.keys + 3) / 4 * 4) + j);
            const std::uint32_t word = philox::block(9, position / 4).word[position % 4];
            if (s.dropout > 0) kept[at] = philox::uniform(word) >= s.dropout ? 1 / (1 - s.dropout) : 0;
          }
          const bool sees = max > -INFINITY;
          for (double& w : weight) total += w = sees ? std::exp(w - max) : 0;
          lse[static_cast<std::size_t>((b * s.heads + h) * s.queries + i)] = sees ? max + std::log(total) : INFINITY;
          if (!sees) continue;
          double delta = 0;
          for (std::int64_t j = 0; j < s.keys; ++j) {
            const auto at = static_cast<std::size_t>(j);
            weight[at] /= total;
            add(weight[at] * kept[at], v, to(j), out, from, value_depth);
            add(weight[at] * kept[at], dout, from, dv, to(j), value_depth);
            delta += weight[at] * kept[at] * times(dout, from, v, to(j), value_depth);
          }
          for (std::int64_t j = 0; j < s.keys; ++j) {
            const auto at = static_cast<std::size_t>(j);
            const double ds = scale * weight[at] * (kept[at] * times(dout, from, v, to(j), value_depth) - delta);
            add(ds, k, to(j), dq, from, depth);
            add(ds, q, from, dk, to(j), depth);
          }
        }
      }
    }
  }
};

template <class T>
void expect_as_reference(const Heads& s) {
  SCOPED_TRACE(::testing::PrintToString(s));
  const Attended<T> got(s);
  const Reference want(got);
  expect_near(got.lse, want.lse, sizeof(T) == 8 ? 1e-12 : 4e-6);
  for (const auto& [result, right] :
       {std::pair{&got.out, &want.out}, {&got.dq, &want.dq}, {&got.dk, &want.dk}, {&got.dv, &want.dv}})
    expect_near(*result, *right, 4 * tolerance<T>);
}

template <class T>
class Attention : public ::testing::Test {};
TYPED_TEST_SUITE(Attention, FloatingTypes);

TYPED_TEST(Attention, AsPlainLoops) {
  for (const Heads& s : shapes) expect_as_reference<TypeParam>(s);
}

TYPED_TEST(Attention, SameBitsForAnyThreads) {
  const std::vector<Heads> few{{1, 2, 1, 37, 37, 4, 4, true, Mask::none, 0.2}};
  const std::vector<Heads> many{{2, 3, 3, 70, 70, 16, 16, true}, {1, 1, 1, 600, 300, 33, 8, false, Mask::none, 0.2}};
  for (const Heads& s : backend::emulated ? few : many) {
    expect_thread_independent([&] {
      const Attended<TypeParam> r(s);
      return std::vector{r.out, r.dq, r.dk, r.dv};
    });
  }
}

TYPED_TEST(Attention, GradientsMayBeLeftOut) {
  Attended<TypeParam> r({1, 2, 1, 20, 20, 8, 8, true});
  const auto dq = r.dq, dk = r.dk, dv = r.dv;
  for (void* kernels::AttentionGrad::*left_out :
       {&kernels::AttentionGrad::dq, &kernels::AttentionGrad::dk, &kernels::AttentionGrad::dv}) {
    kernels::AttentionGrad grad = r.grad;
    grad.*left_out = nullptr;
    for (auto* gradient : {&r.dq, &r.dk, &r.dv}) std::fill(gradient->begin(), gradient->end(), TypeParam{});
    backend::run(grad);
    const std::vector<TypeParam> none(dq.size());
    EXPECT_TRUE(same_bits(r.dq, grad.dq ? dq : none));
    EXPECT_TRUE(same_bits(r.dk, grad.dk ? dk : none));
    EXPECT_TRUE(same_bits(r.dv, grad.dv ? dv : none));
  }
}

TYPED_TEST(Attention, OfNothing) {
  for (const Heads& s : {Heads{0, 2, 1, 3, 3, 4, 4}, Heads{1, 2, 1, 0, 3, 4, 4}, Heads{1, 2, 1, 3, 3, 4, 0}}) {
    const Attended<TypeParam> r(s);
    expect_near(r.dk, Doubles(r.dk.size()));
    expect_near(r.dv, Doubles(r.dv.size()));
  }
  const Attended<TypeParam> blind({1, 2, 1, 3, 0, 4, 5});
  expect_near(blind.out, Doubles(blind.out.size()));
  expect_near(blind.dq, Doubles(blind.dq.size()));
}

TEST(AttentionScores, MayBeFarApart) {
  // Differences of scores beyond the range of exp: all weight is on one key.
  Attended<float> r({1, 1, 1, 4, 40, 8, 8});
  for (float& x : r.q) x *= 100;
  kernels::Attention args{r.grad, r.out.data(), r.grad.out_strides, r.lse.data()};
  backend::run(args);
  expect_near(r.out, Reference(r).out, 1e-4);
}

#if !defined(ANNEAL_TEST_EMULATED)
TEST(AttentionBlocks, OfManyQueriesAndKeys) {
  expect_as_reference<float>({1, 2, 2, 400, 600, 64, 64});
  expect_as_reference<float>({1, 2, 1, 600, 600, 32, 70, true, Mask::added, 0.1});
  expect_as_reference<double>({1, 1, 1, 400, 530, 16, 16, true});
}
#endif

}  // namespace
}  // namespace anneal::testing
