#include "anneal/kernels/pointwise.h"

#include <functional>
#include <limits>
#include <map>
#include <string>

#include "anneal/kernels/kernels.h"
#include "anneal/tests/kernels/backend.h"
#include "anneal/tests/kernels/values.h"

namespace anneal::testing {
namespace {

using kernels::Space;
using Sizes = std::vector<std::int64_t>;
constexpr double nan = std::numeric_limits<double>::quiet_NaN();

// ---- the functors' calculus, in double ----

/// A functor of the list as values, so that what follows is compiled once and not for each.
struct UnaryOp {
  const char* name;
  int id;
  bool saves_input;
  double low, high;
  double (*fwd)(double);
  double (*grad)(double);
  double (*grad2)(double);

  double saved(double x) const { return saves_input ? x : fwd(x); }
  /// Points of the domain.
  Doubles samples() const {
    Doubles x;
    for (int i = 0; i < 50; ++i) x.push_back(low + (high - low) * (i + 0.5) / 50);
    return x;
  }
};
std::vector<UnaryOp> unary_ops() {
  std::vector<UnaryOp> ops;
  for_each_type(kernels::UnaryOps{}, [&]<class Op> {
    ops.push_back({Op::name, kernels::unary_id<Op>, Op::saves == kernels::Saves::input, Op::domain_low, Op::domain_high,
                   [](double x) { return Op::fwd(x); }, [](double s) { return Op::grad(s); },
                   [](double s) { return Op::grad2(s); }});
  });
  return ops;
}
/// Functors of two values, as functions of C.
template <class C, class R>
struct BinaryOp {
  const char* name;
  int id;
  R (*fwd)(C, C);
};
template <class C>
std::vector<BinaryOp<C, C>> binary_ops() {
  std::vector<BinaryOp<C, C>> ops;
  for_each_type(kernels::BinaryOps{}, [&]<class Op> {
    ops.push_back({Op::name, kernels::binary_id<Op>, [](C a, C b) { return static_cast<C>(Op::fwd(a, b)); }});
  });
  return ops;
}
template <class C>
std::vector<BinaryOp<C, bool>> compare_ops() {
  std::vector<BinaryOp<C, bool>> ops;
  for_each_type(kernels::CompareOps{}, [&]<class Op> {
    ops.push_back({Op::name, kernels::compare_id<Op>, [](C a, C b) { return Op::fwd(a, b); }});
  });
  return ops;
}
double slope(double (*f)(double), double x) {
  const double step = 1e-5;
  return (f(x + step) - f(x - step)) / (2 * step);
}

TEST(Pointwise, GradIsTheDerivativeOfFwd) {
  for (const UnaryOp& op : unary_ops()) {
    for (const double x : op.samples()) {
      const double want = slope(op.fwd, x);
      EXPECT_NEAR(op.grad(op.saved(x)), want, 1e-7 * (1 + std::abs(want))) << op.name << " at " << x;
    }
  }
}

TEST(Pointwise, Grad2IsTheDerivativeOfGrad) {
  for (const UnaryOp& op : unary_ops()) {
    for (const double x : op.samples()) {
      const double want = slope(op.grad, op.saved(x));
      EXPECT_NEAR(op.grad2(op.saved(x)), want, 1e-7 * (1 + std::abs(want))) << op.name << " at " << x;
    }
  }
}

// Functions that are not the C library's, written out in another way.
TEST(Pointwise, FunctionsAreWhatTheirNamesSay) {
  const auto phi = [](double x) { return std::erfc(-x / std::sqrt(2)) / 2; };
  const std::map<std::string, std::function<double(double)>> functions = {
      {"sign", [](double x) { return double((x > 0) - (x < 0)); }},
      {"rsqrt", [](double x) { return std::pow(x, -0.5); }},
      {"reciprocal", [](double x) { return std::pow(x, -1); }},
      {"square", [](double x) { return std::pow(x, 2); }},
      {"sigmoid", [](double x) { return (1 + std::tanh(x / 2)) / 2; }},
      {"relu", [](double x) { return std::max(x, 0.0); }},
      {"gelu", [&](double x) { return x * phi(x); }},
      {"gelu_tanh",
       [](double x) { return x / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * std::pow(x, 3)))); }},
      {"silu", [](double x) { return x * (1 + std::tanh(x / 2)) / 2; }},
      {"softplus", [](double x) { return std::log(1 + std::exp(x)); }},
      {"log_sigmoid", [](double x) { return std::log((1 + std::tanh(x / 2)) / 2); }},
  };
  std::size_t checked = 0;
  for (const UnaryOp& op : unary_ops()) {
    const auto f = functions.find(op.name);
    if (f == functions.end()) continue;
    ++checked;
    for (const double x : op.samples())
      EXPECT_NEAR(op.fwd(x), f->second(x), 1e-12 * (1 + std::abs(op.fwd(x)))) << op.name;
  }
  EXPECT_EQ(checked, functions.size());
}

TEST(Pointwise, Extremes) {
  const auto each = [](auto c) {
    using C = decltype(c);
    EXPECT_EQ(kernels::Softplus::fwd(C(1000)), C(1000));
    EXPECT_EQ(kernels::Softplus::grad(C(1000)), C(1));
    EXPECT_EQ(kernels::LogSigmoid::fwd(C(-1000)), C(-1000));
    EXPECT_EQ(kernels::Sigmoid::fwd(C(-1000)), C(0));
    EXPECT_EQ(kernels::Sigmoid::fwd(C(1000)), C(1));
    EXPECT_EQ(kernels::Silu::fwd(C(-1000)), C(0));
    EXPECT_EQ(kernels::GeluTanh::fwd(C(-1000)), C(0));
    EXPECT_EQ(kernels::GeluTanh::grad(C(1000)), C(1));
    EXPECT_EQ(kernels::Gelu::grad(C(-1000)), C(0));
    EXPECT_EQ(kernels::Round::fwd(C(2.5)), C(2));
    EXPECT_EQ(kernels::Round::fwd(C(-3.5)), C(-4));
    EXPECT_TRUE(std::isnan(kernels::Relu::fwd(C(nan))));
    for (const auto& [a, b] : {std::pair(nan, 1.0), {1.0, nan}, {nan, nan}}) {
      EXPECT_TRUE(std::isnan(kernels::Maximum::fwd(C(a), C(b))));
      EXPECT_TRUE(std::isnan(kernels::Minimum::fwd(C(a), C(b))));
    }
  };
  each(float{});
  each(double{});
}

TEST(Pointwise, IntegersNeverTrap) {
  const auto each = [](auto c) {
    using C = decltype(c);
    constexpr C low = std::numeric_limits<C>::min(), high = std::numeric_limits<C>::max();
    EXPECT_EQ(kernels::Div::fwd(C(7), C(0)), 0);
    EXPECT_EQ(kernels::Div::fwd(C(-7), C(2)), -3);
    EXPECT_EQ(kernels::Div::fwd(low, C(-1)), low);
    EXPECT_EQ(kernels::Add::fwd(high, C(1)), low);
    EXPECT_EQ(kernels::Mul::fwd(high, C(2)), C(-2));
    EXPECT_EQ(kernels::Pow::fwd(C(-3), C(5)), -243);
    EXPECT_EQ(kernels::Pow::fwd(C(0), C(0)), 1);
    EXPECT_EQ(kernels::Pow::fwd(C(2), C(-1)), 0);
    EXPECT_EQ(kernels::Pow::fwd(C(-1), C(-3)), -1);
    EXPECT_EQ(kernels::Pow::fwd(C(1), C(-3)), 1);
  };
  each(std::int32_t{});
  each(std::int64_t{});
  EXPECT_EQ(kernels::Add::fwd(std::uint8_t{255}, std::uint8_t{2}), 1);
  for (const bool a : {false, true}) {
    for (const bool b : {false, true}) {
      EXPECT_EQ(kernels::Add::fwd(a, b), a || b);
      EXPECT_EQ(kernels::Mul::fwd(a, b), a && b);
    }
  }
}

// ---- spaces ----

enum class Layout { dense, transposed, gapped, row, column, scalar };
constexpr Layout read_layouts[] = {Layout::dense, Layout::transposed, Layout::gapped,
                                   Layout::row,   Layout::column,     Layout::scalar};
constexpr Layout write_layouts[] = {Layout::dense, Layout::transposed, Layout::gapped};

template <int N>
Space<N> make_space(const Sizes& size, const std::vector<Layout>& layouts) {
  Space<N> space{};
  space.rank = static_cast<int>(size.size());
  std::copy(size.begin(), size.end(), space.size);
  for (int k = 0; k < N; ++k) {
    const Layout layout = layouts[static_cast<std::size_t>(k)];
    std::int64_t stride = layout == Layout::gapped ? 2 : 1;
    for (int i = 0; i < space.rank; ++i) {
      const int d = layout == Layout::transposed ? i : space.rank - 1 - i;
      const bool last = d == space.rank - 1;
      const bool broadcast =
          layout == Layout::scalar || (layout == Layout::row && !last) || (layout == Layout::column && last);
      space.stride[k][d] = broadcast ? 0 : stride;
      if (!broadcast) stride *= size[static_cast<std::size_t>(d)];
    }
  }
  return space;
}

/// Where an operand's elements are, in the order of the space.
template <int N>
std::vector<std::int64_t> offsets(const Space<N>& space, int operand) {
  std::vector<std::int64_t> out;
  for (std::int64_t i = 0; i < space.numel(); ++i) {
    std::int64_t rest = i, offset = 0;
    for (int d = space.rank - 1; d >= 0; --d) {
      offset += rest % space.size[d] * space.stride[operand][d];
      rest /= space.size[d];
    }
    out.push_back(offset);
  }
  return out;
}

const std::vector<Sizes> shapes = {
    {},       {0},     {1},         {5},      {31},      {32},          {255},
    {256},    {257},   {1000},      {3, 0},   {7, 10},   {10, 1},       {1, 33},
    {3, 300}, {5, 64}, {2, 17, 24}, {257, 3}, {2, 3, 4}, {3, 1, 5, 70}, {2, 2, 2, 2, 2, 2, 2, 3}};

/// Calls check(space) for many shapes and layouts of N operands, the last of which is written.
template <int N, class Check>
void for_spaces(const Check& check) {
  for (const Sizes& size : shapes) {
    for (std::size_t i = 0; i < std::size(read_layouts) * std::size(write_layouts); ++i) {
      std::vector<Layout> layouts;
      for (std::size_t k = 0; k + 1 < N; ++k)
        layouts.push_back(read_layouts[(i + k * (1 + i / 6)) % std::size(read_layouts)]);
      layouts.push_back(write_layouts[i / std::size(read_layouts)]);
      check(make_space<N>(size, layouts));
      if (::testing::Test::HasFatalFailure()) FAIL() << "shape " << ::testing::PrintToString(size) << ", layouts " << i;
    }
  }
}

constexpr std::int64_t memory = 2100;  // elements that the largest operand spans

/// Small whole numbers, zero among them where the type's operations allow it.
template <class T>
std::vector<T> whole_numbers(unsigned seed) {
  std::vector<T> out;
  for (const double v : random_values<double>(memory, seed, std::is_unsigned_v<T> ? 0 : -9, 9))
    out.push_back(store<T>(static_cast<Compute<T>>(std::round(v))));
  return out;
}

/// The elements of y that no position of the space reaches stay as they were.
template <class T, int N, class Want>
void expect_written(const Space<N>& space, const std::vector<T>& y, T untouched, const Want& want, double relative) {
  Doubles wanted(y.size(), static_cast<double>(load(untouched)));
  const auto where = offsets(space, N - 1);
  for (std::size_t i = 0; i < where.size(); ++i) wanted[static_cast<std::size_t>(where[i])] = want(i);
  expect_near(y, wanted, relative);
}

template <class T>
class PointwiseOf : public ::testing::Test {};
TYPED_TEST_SUITE(PointwiseOf, FloatingTypes);

TYPED_TEST(PointwiseOf, UnaryKernelsApplyTheFunctors) {
  using T = TypeParam;
  for (const UnaryOp& op : unary_ops()) {
    SCOPED_TRACE(op.name);
    const auto x = random_values<T>(memory, 1, op.low, op.high);
    std::vector<T> saved;
    for (const T& v : x) saved.push_back(store<T>(static_cast<Compute<T>>(op.saved(static_cast<double>(load(v))))));
    const auto dy = random_values<T>(memory, 2), g = random_values<T>(memory, 3);
    const auto at = [](const std::vector<T>& values, std::int64_t i) {
      return static_cast<double>(load(values[static_cast<std::size_t>(i)]));
    };
    const T poison = store<T>(Compute<T>(77));
    // float loses digits where a derivative is a difference; a derivative may also be steep, hence the factor
    const double relative = 4 * tolerance<T>;

    for_spaces<2>([&](const Space<2>& space) {
      std::vector<T> y(memory, poison);
      backend::run(kernels::Unary{op.id, dtype_of<T>, space, x.data(), y.data()});
      const auto xs = offsets(space, 0);
      expect_written(
          space, y, poison, [&](std::size_t i) { return op.fwd(at(x, xs[i])); }, relative);
    });
    for_spaces<3>([&](const Space<3>& space) {
      std::vector<T> dx(memory, poison);
      backend::run(kernels::UnaryGrad{op.id, dtype_of<T>, space, dy.data(), saved.data(), dx.data()});
      const auto dys = offsets(space, 0), ss = offsets(space, 1);
      expect_written(
          space, dx, poison, [&](std::size_t i) { return at(dy, dys[i]) * op.grad(at(saved, ss[i])); }, relative);
    });
    for_spaces<4>([&](const Space<4>& space) {
      std::vector<T> out(memory, poison);
      backend::run(kernels::UnaryGradGrad{op.id, dtype_of<T>, space, g.data(), dy.data(), saved.data(), out.data()});
      const auto gs = offsets(space, 0), dys = offsets(space, 1), ss = offsets(space, 2);
      expect_written(
          space, out, poison, [&](std::size_t i) { return at(g, gs[i]) * at(dy, dys[i]) * op.grad2(at(saved, ss[i])); },
          relative);
    });
  }
}

template <class T>
class PointwiseOfAny : public ::testing::Test {};
using AllTypes = ::testing::Types<float, double, f16, bf16, std::int64_t, std::int32_t, std::uint8_t>;
TYPED_TEST_SUITE(PointwiseOfAny, AllTypes);

TYPED_TEST(PointwiseOfAny, BinaryAndCompareKernelsApplyTheFunctors) {
  using T = TypeParam;
  const auto a = whole_numbers<T>(1), b = whole_numbers<T>(2);
  const auto at = [](const std::vector<T>& values, std::int64_t i) {
    return load(values[static_cast<std::size_t>(i)]);
  };
  const T poison = store<T>(Compute<T>(77));
  for (const auto& op : binary_ops<Compute<T>>()) {
    SCOPED_TRACE(op.name);
    for_spaces<3>([&](const Space<3>& space) {
      std::vector<T> y(memory, poison);
      backend::run(kernels::Binary{op.id, dtype_of<T>, space, a.data(), b.data(), y.data()});
      const auto as = offsets(space, 0), bs = offsets(space, 1);
      // Through T, as 16-bit results may overflow.
      expect_written(
          space, y, poison,
          [&](std::size_t i) { return static_cast<double>(load(store<T>(op.fwd(at(a, as[i]), at(b, bs[i]))))); },
          tolerance<T>);
    });
  }
  for (const auto& op : compare_ops<Compute<T>>()) {
    SCOPED_TRACE(op.name);
    for_spaces<3>([&](const Space<3>& space) {
      std::vector<std::uint8_t> y(memory, 77);
      backend::run(kernels::Compare{op.id, dtype_of<T>, space, a.data(), b.data(), y.data()});
      const auto as = offsets(space, 0), bs = offsets(space, 1);
      expect_written(
          space, y, std::uint8_t{77}, [&](std::size_t i) { return op.fwd(at(a, as[i]), at(b, bs[i])); }, 0);
    });
  }
}

TYPED_TEST(PointwiseOfAny, WhereAndFill) {
  using T = TypeParam;
  const auto a = whole_numbers<T>(1), b = whole_numbers<T>(2);
  std::vector<std::uint8_t> condition;
  for (std::size_t i = 0; i < memory; ++i) condition.push_back(i % 3 == 0);
  const T poison = store<T>(Compute<T>(77));
  for_spaces<4>([&](const Space<4>& space) {
    std::vector<T> y(memory, poison);
    backend::run(kernels::Where{dtype_of<T>, space, condition.data(), a.data(), b.data(), y.data()});
    const auto cs = offsets(space, 0), as = offsets(space, 1), bs = offsets(space, 2);
    expect_written(
        space, y, poison,
        [&](std::size_t i) {
          return static_cast<double>(
              load(cs[i] % 3 == 0 ? a[static_cast<std::size_t>(as[i])] : b[static_cast<std::size_t>(bs[i])]));
        },
        0);
  });
  for_spaces<1>([&](const Space<1>& space) {
    std::vector<T> y(memory, poison);
    backend::run(kernels::Fill{dtype_of<T>, space, 5, y.data()});
    expect_written(
        space, y, poison, [](std::size_t) { return 5.0; }, 0);
  });
}

TYPED_TEST(PointwiseOfAny, CopiesToEveryDtype) {
  using From = TypeParam;
  const auto x = whole_numbers<From>(1);
  const auto to_each = [&]<class To> {
    const To poison = store<To>(Compute<To>(77));
    for_spaces<2>([&](const Space<2>& space) {
      std::vector<To> y(memory, poison);
      backend::run(kernels::Copy{dtype_of<From>, dtype_of<To>, space, x.data(), y.data()});
      const auto xs = offsets(space, 0);
      expect_written(
          space, y, poison,
          [&](std::size_t i) { return static_cast<double>(load(x[static_cast<std::size_t>(xs[i])])); }, 0);
    });
  };
  // A negative float has no u8.
  for_each_type(TypeList<float, double, f16, bf16, std::int64_t, std::int32_t>{}, to_each);
  std::vector<std::uint8_t> truth(memory), back(memory);
  const auto dense = make_space<2>({memory}, {Layout::dense, Layout::dense});
  backend::run(kernels::Copy{dtype_of<From>, DType::boolean, dense, x.data(), truth.data()});
  for (std::size_t i = 0; i < memory; ++i) ASSERT_EQ(truth[i], load(x[i]) != 0);
  backend::run(kernels::Copy{DType::boolean, DType::u8, dense, truth.data(), back.data()});
  EXPECT_TRUE(same_bits(truth, back));
}

TEST(Pointwise, CopyKeepsBits) {
  std::vector<float> x = {-0.0f, 1e-45f, std::bit_cast<float>(0x7fa12345u)}, y(3);
  backend::run(
      kernels::Copy{DType::f32, DType::f32, make_space<2>({3}, {Layout::dense, Layout::dense}), x.data(), y.data()});
  EXPECT_TRUE(same_bits(x, y));
}

TEST(Pointwise, BoolAddsByOrAndMultipliesByAnd) {
  const std::vector<std::uint8_t> a = {0, 0, 1, 1}, b = {0, 1, 0, 1};
  std::vector<std::uint8_t> sum(4), product(4);
  const auto space = make_space<3>({4}, {Layout::dense, Layout::dense, Layout::dense});
  backend::run(
      kernels::Binary{kernels::binary_id<kernels::Add>, DType::boolean, space, a.data(), b.data(), sum.data()});
  backend::run(
      kernels::Binary{kernels::binary_id<kernels::Mul>, DType::boolean, space, a.data(), b.data(), product.data()});
  EXPECT_EQ(sum, (std::vector<std::uint8_t>{0, 1, 1, 1}));
  EXPECT_EQ(product, (std::vector<std::uint8_t>{0, 0, 0, 1}));
}

TEST(Pointwise, InPlace) {
  const auto a = random_values<float>(1000, 1), b = random_values<float>(1000, 2);
  std::vector<float> y = a, want(1000);
  const auto space = make_space<3>({1000}, {Layout::dense, Layout::dense, Layout::dense});
  backend::run(kernels::Binary{kernels::binary_id<kernels::Sub>, DType::f32, space, a.data(), b.data(), want.data()});
  backend::run(kernels::Binary{kernels::binary_id<kernels::Sub>, DType::f32, space, y.data(), b.data(), y.data()});
  EXPECT_TRUE(same_bits(y, want));
}

TEST(Pointwise, SameBitsForAnyNumberOfThreads) {
  constexpr std::int64_t n = 100003;
  const auto x = random_values<float>(n, 1), dy = random_values<float>(n, 2);
  for (const UnaryOp& op : unary_ops()) {
    SCOPED_TRACE(op.name);
    expect_thread_independent([&] {
      std::vector<float> y(n), dx(n);
      backend::run(
          kernels::Unary{op.id, DType::f32, make_space<2>({n}, {Layout::dense, Layout::dense}), x.data(), y.data()});
      backend::run(kernels::UnaryGrad{op.id, DType::f32,
                                      make_space<3>({n}, {Layout::dense, Layout::dense, Layout::dense}), dy.data(),
                                      x.data(), dx.data()});
      return std::vector{y, dx};
    });
  }
}

}  // namespace
}  // namespace anneal::testing
