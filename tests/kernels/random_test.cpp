#include "anneal/kernels/kernels.h"
#include "anneal/kernels/philox.h"
#include "anneal/tests/kernels/backend.h"
#include "anneal/tests/kernels/values.h"

namespace anneal::testing {
namespace {

using kernels::Distribution;

template <class T>
std::vector<T> draw(Distribution distribution, std::int64_t n, double a, double b, std::uint64_t seed,
                    std::uint64_t offset) {
  std::vector<T> y(static_cast<std::size_t>(n));
  backend::run(kernels::Random{distribution, dtype_of<T>, n, a, b, seed, offset, y.data()});
  return y;
}
template <class T>
std::vector<T> dropped(const std::vector<T>& x, double p, std::uint64_t seed, std::uint64_t offset) {
  std::vector<T> y(x.size());
  backend::run(kernels::Dropout{dtype_of<T>, static_cast<std::int64_t>(x.size()), p, seed, offset, x.data(), y.data()});
  return y;
}

// The known answers that the authors publish with Random123.
TEST(Philox, KnownAnswers) {
  const auto expect = [](philox::Block counter, std::uint32_t key0, std::uint32_t key1, philox::Block want) {
    const philox::Block got = philox::philox4x32(counter, key0, key1);
    for (int i = 0; i < 4; ++i) EXPECT_EQ(got.word[i], want.word[i]) << i;
  };
  expect({{0, 0, 0, 0}}, 0, 0, {{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}});
  expect({{~0u, ~0u, ~0u, ~0u}}, ~0u, ~0u, {{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}});
  expect({{0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}}, 0xa4093822u, 0x299f31d0u,
         {{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}});
}

template <class T>
class Random : public ::testing::Test {};
TYPED_TEST_SUITE(Random, FloatingTypes);

// An element is a function of the seed and of offset + i: every call is a window on one stream.
TYPED_TEST(Random, CallsAreWindowsOnOneStream) {
  for (const auto distribution : {Distribution::uniform, Distribution::normal, Distribution::integer}) {
    const auto stream = draw<TypeParam>(distribution, 3000, 0, 7, 42, 0);
    for (const std::uint64_t offset : {0, 1, 2, 3, 4, 255, 256, 257, 1001}) {
      for (const std::int64_t n : {0, 1, 2, 5, 255, 256, 1500}) {
        const auto got = draw<TypeParam>(distribution, n, 0, 7, 42, offset);
        const auto begin = stream.begin() + static_cast<std::ptrdiff_t>(offset);
        ASSERT_TRUE(same_bits(got, std::vector<TypeParam>(begin, begin + n))) << "offset " << offset << " n " << n;
      }
    }
    EXPECT_FALSE(same_bits(stream, draw<TypeParam>(distribution, 3000, 0, 7, 43, 0)));
  }
}

TYPED_TEST(Random, UniformMoments) {
  constexpr std::int64_t n = 200000;
  Doubles sums(5);
  for (const double v : doubles(draw<TypeParam>(Distribution::uniform, n, -1, 3, 7, 3))) {
    ASSERT_GE(v, -1);
    ASSERT_LT(v, 3);
    double power = 1;
    for (double& s : sums) s += power / n, power *= (v - 1) / 2;  // over [-1, 1)
  }
  const double error = 5 / std::sqrt(n) + (sizeof(TypeParam) == 2 ? 5e-3 : 0);
  EXPECT_NEAR(sums[1], 0, error);
  EXPECT_NEAR(sums[2], 1.0 / 3, error);
  EXPECT_NEAR(sums[3], 0, error);
  EXPECT_NEAR(sums[4], 1.0 / 5, error);
}

TYPED_TEST(Random, NormalMoments) {
  constexpr std::int64_t n = 200000;
  Doubles sums(5);
  double neighbours = 0, previous = 0;
  for (const double v : doubles(draw<TypeParam>(Distribution::normal, n, 3, 2, 7, 3))) {
    const double z = (v - 3) / 2;
    double power = 1;
    for (double& s : sums) s += power / n, power *= z;
    neighbours += z * previous / n;
    previous = z;
  }
  const double error = 5 / std::sqrt(n);  // five deviations of the mean; those of z^3 and z^4 are 3.9 and 9.8 times it
  EXPECT_NEAR(sums[1], 0, error);
  EXPECT_NEAR(sums[2], 1, 2 * error);
  EXPECT_NEAR(sums[3], 0, 4 * error);
  EXPECT_NEAR(sums[4], 3, 10 * error);
  EXPECT_NEAR(neighbours, 0, error);
}

TEST(Random, UniformIsThePhiloxWord) {
  const auto narrow = draw<float>(Distribution::uniform, 100, 0, 1, 99, 8);
  const auto wide = draw<double>(Distribution::uniform, 100, 0, 1, 99, 8);
  for (std::uint64_t i = 0; i < 100; ++i) {
    const std::uint64_t high = philox::block(99, (8 + i) / 4).word[i % 4];
    const std::uint64_t low = philox::block(99, (8 + i) / 4, 1).word[i % 4];
    EXPECT_EQ(narrow[i], std::ldexp(static_cast<double>(high >> 8), -24));
    EXPECT_EQ(wide[i], std::ldexp(static_cast<double>((high << 32 | low) >> 11), -53));
  }
}

TEST(Random, IntegersCoverTheRangeEvenly) {
  std::vector<int> count(10);
  for (const std::int64_t v : draw<std::int64_t>(Distribution::integer, 100000, -3, 7, 5, 0)) {
    ASSERT_GE(v, -3);
    ASSERT_LT(v, 7);
    ++count[static_cast<std::size_t>(v + 3)];
  }
  for (const int c : count) EXPECT_NEAR(c, 10000, 5 * std::sqrt(9000));
  const auto large = draw<std::int64_t>(Distribution::integer, 1000, 0, 0x1p52, 5, 0);
  EXPECT_GT(*std::max_element(large.begin(), large.end()), static_cast<std::int64_t>(0x1p51));
}

TYPED_TEST(Random, DropoutKeepsWhereTheUniformIsAtLeastP) {
  constexpr std::int64_t n = 5003;
  const auto x = random_values<TypeParam>(n, 1, 0.5, 2);
  const auto u = draw<float>(Distribution::uniform, n, 0, 1, 11, 77);
  for (const double p : {0.0, 0.3, 0.5, 1.0}) {
    const auto y = dropped(x, p, 11, 77);
    Doubles want;
    for (std::size_t i = 0; i < x.size(); ++i)
      want.push_back(u[i] >= p ? static_cast<double>(load(x[i])) / (1 - p) : 0);
    expect_near(y, want);
    // The gradient is the same call on dy.
    EXPECT_TRUE(same_bits(y, dropped(x, p, 11, 77)));
  }
}

TYPED_TEST(Random, SameBitsForAnyNumberOfThreads) {
  const auto x = random_values<TypeParam>(100003, 1);
  expect_thread_independent([&] {
    return std::vector{draw<TypeParam>(Distribution::uniform, 100003, 0, 1, 3, 5),
                       draw<TypeParam>(Distribution::normal, 100003, 0, 1, 3, 5),
                       draw<TypeParam>(Distribution::integer, 100003, 0, 9, 3, 5), dropped(x, 0.4, 3, 5)};
  });
}

}  // namespace
}  // namespace anneal::testing
