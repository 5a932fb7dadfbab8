#include <limits>

#include "anneal/kernels/kernels.h"
#include "anneal/tests/kernels/backend.h"
#include "anneal/tests/kernels/values.h"

namespace anneal::testing {
namespace {

using kernels::Reduction;
constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double nan = std::numeric_limits<double>::quiet_NaN();

struct Shape {
  std::int64_t outer, reduced, inner;
  std::int64_t size() const { return outer * reduced * inner; }
  std::int64_t outputs() const { return outer * inner; }
};
constexpr Shape shapes[] = {{0, 3, 2},    {3, 4, 0},     {1, 1, 1},    {5, 1, 3},   {7, 10, 1},   {3, 63, 1},
                            {3, 64, 1},   {2, 65, 1},    {1, 4097, 1}, {2, 3, 5},   {4, 33, 127}, {1, 65, 128},
                            {2, 17, 129}, {1, 200, 300}, {20, 16, 1},  {20, 15, 7}, {3, 2049, 2}, {1, 2100, 100}};
// Cut in chunks: one output, a few rows, narrow columns.
constexpr Shape large[] = {{1, 300001, 1}, {3, 150000, 1}, {1, 30011, 10}, {2, 1500, 140}};

template <class T, class Out = T>
std::vector<Out> reduce(Reduction op, const Shape& s, const std::vector<T>& x) {
  std::vector<Out> y(static_cast<std::size_t>(s.outputs()));
  backend::run(kernels::Reduce{op, dtype_of<T>, dtype_of<Out>, s.outer, s.reduced, s.inner, x.data(), y.data()});
  return y;
}
template <class T>
std::vector<std::int64_t> arg_reduce(bool largest, const Shape& s, const std::vector<T>& x) {
  std::vector<std::int64_t> y(static_cast<std::size_t>(s.outputs()));
  backend::run(kernels::ArgReduce{largest, dtype_of<T>, s.outer, s.reduced, s.inner, x.data(), y.data()});
  return y;
}

/// Calls f(numbers) with what each output is made of.
template <class T, class F>
auto for_outputs(const Shape& s, const std::vector<T>& x, const F& f) {
  std::vector<decltype(f(Doubles{}))> out;
  for (std::int64_t o = 0; o < s.outer; ++o) {
    for (std::int64_t i = 0; i < s.inner; ++i) {
      Doubles numbers;
      for (std::int64_t r = 0; r < s.reduced; ++r) {
        numbers.push_back(static_cast<double>(load(x[static_cast<std::size_t>((o * s.reduced + r) * s.inner + i)])));
      }
      out.push_back(f(numbers));
    }
  }
  return out;
}
double fold(Reduction op, const Doubles& numbers) {
  double y = op == Reduction::prod ? 1 : op == Reduction::max ? -infinity : op == Reduction::min ? infinity : 0;
  for (const double v : numbers) {
    if (op == Reduction::prod) y *= v;
    else if (op == Reduction::max) y = std::isnan(y) || y > v ? y : v;
    else if (op == Reduction::min) y = std::isnan(y) || y < v ? y : v;
    else y += v;
  }
  return op == Reduction::mean ? y / static_cast<double>(numbers.size()) : y;
}
std::int64_t position(bool largest, const Doubles& numbers) {
  std::size_t best = 0;
  for (std::size_t i = 1; i < numbers.size() && !std::isnan(numbers[best]); ++i) {
    if (std::isnan(numbers[i]) || (largest ? numbers[i] > numbers[best] : numbers[i] < numbers[best])) best = i;
  }
  return static_cast<std::int64_t>(best);
}

template <class T>
class ReduceFloating : public ::testing::Test {};
TYPED_TEST_SUITE(ReduceFloating, FloatingTypes);

TYPED_TEST(ReduceFloating, MatchesDouble) {
  const auto check = [](const Shape& s) {
    SCOPED_TRACE(::testing::Message() << s.outer << " x " << s.reduced << " x " << s.inner);
    // Near 1, so that products of thousands stay in range.
    const auto near_one = random_values<TypeParam>(s.size(), 1, 0.99, 1.01), x = random_values<TypeParam>(s.size(), 1);
    for (const auto op : {Reduction::sum, Reduction::mean, Reduction::max, Reduction::min, Reduction::prod}) {
      const auto& values = op == Reduction::prod ? near_one : x;
      const auto want = for_outputs(s, values, [&](const Doubles& numbers) { return fold(op, numbers); });
      const bool exact = op == Reduction::max || op == Reduction::min;
      expect_near(reduce(op, s, values), want, exact ? 0 : 3 * tolerance<TypeParam>);
      if (sizeof(TypeParam) == 2) {
        expect_near(reduce<TypeParam, float>(op, s, values), want, exact ? 0 : 3 * tolerance<float>);
      }
    }
    for (const bool largest : {false, true}) {
      EXPECT_EQ(arg_reduce(largest, s, x),
                for_outputs(s, x, [&](const Doubles& numbers) { return position(largest, numbers); }));
    }
  };
  for (const Shape& s : shapes) check(s);
  if (sizeof(TypeParam) >= 4) {
    for (const Shape& s : large) check(s);
  }
}

TYPED_TEST(ReduceFloating, NanPropagates) {
  for (const Shape& s : {Shape{1, 200, 1}, Shape{2, 9, 1}, Shape{1, 200, 3}}) {
    for (const std::int64_t at : {0, 5, 8}) {
      auto x = random_values<TypeParam>(s.size(), 1);
      x[static_cast<std::size_t>(at * s.inner)] = store<TypeParam>(static_cast<Compute<TypeParam>>(nan));
      for (const auto op : {Reduction::max, Reduction::min, Reduction::sum}) {
        EXPECT_TRUE(std::isnan(load(reduce(op, s, x)[0])));
        if (s.outputs() > 1) { EXPECT_FALSE(std::isnan(load(reduce(op, s, x)[1]))); }
      }
      EXPECT_EQ(arg_reduce(true, s, x)[0], at);
      EXPECT_EQ(arg_reduce(false, s, x)[0], at);
    }
  }
}

TYPED_TEST(ReduceFloating, OfNothing) {
  for (const Shape& s : {Shape{3, 0, 1}, Shape{1, 0, 3}}) {
    const std::vector<TypeParam> none;
    expect_near(reduce(Reduction::sum, s, none), {0, 0, 0}, 0);
    expect_near(reduce(Reduction::prod, s, none), {1, 1, 1}, 0);
    expect_near(reduce(Reduction::mean, s, none), {nan, nan, nan}, 0);
  }
}

TYPED_TEST(ReduceFloating, InfinitiesAndTies) {
  const auto of = [](const Doubles& values) {
    std::vector<TypeParam> x;
    for (const double v : values) x.push_back(store<TypeParam>(static_cast<Compute<TypeParam>>(v)));
    return x;
  };
  const Shape row{1, 4, 1};
  EXPECT_EQ(load(reduce(Reduction::max, row, of({-infinity, -infinity, -infinity, -infinity}))[0]), -infinity);
  EXPECT_EQ(arg_reduce(true, row, of({-infinity, -infinity, -infinity, -infinity}))[0], 0);
  EXPECT_EQ(arg_reduce(true, row, of({1, 2, 2, 0}))[0], 1);
  EXPECT_EQ(arg_reduce(false, {1, 2, 2}, of({1, 0, 1, -1})), (std::vector<std::int64_t>{0, 1}));
}

TYPED_TEST(ReduceFloating, SameBitsForAnyNumberOfThreads) {
  for (const Shape& s : {Shape{1, 300001, 1}, Shape{1, 30011, 10}, Shape{300, 401, 1}, Shape{3, 401, 150}}) {
    const auto x = random_values<TypeParam>(s.size(), 1);
    expect_thread_independent([&] {
      return std::vector{reduce(Reduction::sum, s, x), reduce(Reduction::mean, s, x), reduce(Reduction::max, s, x)};
    });
  }
}

// One by one, float would stop at 2^24 ones, and lose four digits of the tenths.
TEST(Reduce, LargeSumsStayAccurate) {
  constexpr std::int64_t n = std::int64_t{1} << 25;
  EXPECT_EQ(reduce(Reduction::sum, {1, n, 1}, std::vector<float>(n, 1))[0], static_cast<float>(n));
  EXPECT_NEAR(reduce(Reduction::sum, {1, n, 1}, std::vector<float>(n, 0.1f))[0] / (0.1f * static_cast<double>(n)), 1,
              1e-6);
  EXPECT_NEAR(reduce(Reduction::mean, {1, n / 4, 4}, std::vector<float>(n, 0.1f))[3] / 0.1f, 1, 1e-6);
}

template <class T>
class ReduceInteger : public ::testing::Test {};
using Integers = ::testing::Types<std::int64_t, std::int32_t>;
TYPED_TEST_SUITE(ReduceInteger, Integers);

TYPED_TEST(ReduceInteger, IsExact) {
  for (const Shape& s : shapes) {
    std::vector<TypeParam> x;
    for (const double v : random_values<double>(s.size(), 1, -1000, 1000)) x.push_back(static_cast<TypeParam>(v));
    for (const auto op : {Reduction::sum, Reduction::max, Reduction::min}) {
      expect_near(reduce(op, s, x), for_outputs(s, x, [&](const Doubles& numbers) { return fold(op, numbers); }), 0);
    }
    EXPECT_EQ(arg_reduce(true, s, x),
              for_outputs(s, x, [](const Doubles& numbers) { return position(true, numbers); }));
  }
  EXPECT_EQ(reduce<TypeParam>(Reduction::prod, {2, 3, 1}, {2, -3, 5, 7, 0, 1}), (std::vector<TypeParam>{-30, 0}));
}

TEST(Reduce, MaxOfBytesAndBools) {
  EXPECT_EQ(reduce<std::uint8_t>(Reduction::max, {2, 2, 1}, {3, 200, 0, 0}), (std::vector<std::uint8_t>{200, 0}));
  EXPECT_EQ(reduce<std::uint8_t>(Reduction::min, {1, 2, 2}, {3, 200, 4, 0}), (std::vector<std::uint8_t>{3, 0}));
  const std::vector<std::uint8_t> truth = {0, 1, 0, 0};
  std::vector<std::uint8_t> any(2);
  backend::run(kernels::Reduce{Reduction::max, DType::boolean, DType::boolean, 2, 2, 1, truth.data(), any.data()});
  EXPECT_EQ(any, (std::vector<std::uint8_t>{1, 0}));
}

TEST(Reduce, BoolsAreBoolsWhateverIsFolded) {
  const auto fold = [](Reduction op, std::int64_t reduced, const std::vector<std::uint8_t>& truth) {
    std::uint8_t y = 0xff;
    backend::run(kernels::Reduce{op, DType::boolean, DType::boolean, 1, reduced, 1, truth.data(), &y});
    return int{y};
  };
  using enum Reduction;
  for (const std::int64_t n : {1, 5, 256, 512, 10'000}) {
    const std::vector<std::uint8_t> all(static_cast<std::size_t>(n), 1), none(all.size(), 0);
    for (const Reduction op : {sum, max, min, prod}) {
      EXPECT_EQ(fold(op, n, all), 1) << n;
      EXPECT_EQ(fold(op, n, none), 0) << n;
    }
  }
  EXPECT_EQ(fold(sum, 0, {}), 0);
  EXPECT_EQ(fold(max, 0, {}), 0);
  EXPECT_EQ(fold(min, 0, {}), 1);
  EXPECT_EQ(fold(prod, 0, {}), 1);
}

}  // namespace
}  // namespace anneal::testing
