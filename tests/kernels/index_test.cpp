#include <array>
#include <functional>
#include <limits>
#include <numeric>

#include "anneal/kernels/kernels.h"
#include "anneal/tests/kernels/backend.h"
#include "anneal/tests/kernels/values.h"

namespace anneal::testing {
namespace {

using Indices = std::vector<std::int64_t>;

Indices random_indices(std::int64_t n, std::int64_t size, unsigned seed) {
  Indices out;
  for (const double v : random_values<double>(n, seed, 0, static_cast<double>(size)))
    out.push_back(std::min(static_cast<std::int64_t>(v), size - 1));
  return out;
}

/// A gather or scatter: `size` is that of index; x has `x_size` along `dim` and its strides are dense, or with its
/// dimensions in reverse.
struct Case {
  Indices size;
  int dim;
  std::int64_t x_size;
  bool reversed = false;

  int rank() const { return static_cast<int>(size.size()); }
  std::int64_t numel() const { return std::accumulate(size.begin(), size.end(), std::int64_t{1}, std::multiplies<>()); }
  Indices x_shape() const {
    Indices shape = size;
    if (rank() > 0) shape[static_cast<std::size_t>(dim)] = x_size;
    return shape;
  }
  std::int64_t x_numel() const {
    const Indices shape = x_shape();
    return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
  }
  template <class Args>
  void fill(Args& args) const {
    args.rank = rank();
    args.dim = dim;
    args.x_size = x_size;
    const Indices shape = x_shape();
    std::int64_t stride = 1;
    for (int i = 0; i < rank(); ++i) {
      const auto d = static_cast<std::size_t>(reversed ? i : rank() - 1 - i);
      args.size[d] = size[d];
      args.x_stride[d] = stride;
      stride *= shape[d];
    }
  }
  /// Where element i goes.
  template <class Args>
  std::size_t x_offset(const Args& args, std::int64_t i, std::int64_t index) const {
    std::int64_t offset = 0;
    for (int d = rank() - 1; d >= 0; --d) {
      offset += (d == dim ? index : i % args.size[d]) * args.x_stride[d];
      i /= args.size[d];
    }
    return static_cast<std::size_t>(offset);
  }
};

const std::vector<Case> cases = {{{}, 0, 1},
                                 {{0}, 0, 3},
                                 {{5}, 0, 3},
                                 {{3, 4}, 1, 7},
                                 {{3, 4}, 0, 2},
                                 {{4, 0, 2}, 2, 5},
                                 {{2, 3, 4}, 1, 9},
                                 {{2, 3, 4}, 1, 9, true},
                                 {{4, 5, 200}, 0, 3},
                                 {{4, 5, 200}, 1, 3},
                                 {{64, 10}, 1, 10},
                                 {{300, 401}, 1, 50},
                                 {{300, 401}, 0, 50, true}};

template <class T>
class IndexOf : public ::testing::Test {};
using AllTypes = ::testing::Types<float, double, f16, bf16, std::int64_t, std::int32_t, std::uint8_t>;
TYPED_TEST_SUITE(IndexOf, AllTypes);

/// Small whole numbers, whose sums no dtype rounds.
template <class T>
std::vector<T> whole_numbers(std::int64_t n, unsigned seed) {
  std::vector<T> out;
  for (const double v : random_values<double>(n, seed, 0, 3))
    out.push_back(store<T>(static_cast<Compute<T>>(std::floor(v))));
  return out;
}

TYPED_TEST(IndexOf, Gather) {
  for (const Case& c : cases) {
    const auto x = whole_numbers<TypeParam>(c.x_numel(), 1);
    const auto index = random_indices(c.numel(), c.x_size, 2);
    std::vector<TypeParam> y(index.size()), want;
    std::int64_t bad = 7;
    kernels::Gather args{};
    c.fill(args);
    args.dtype = dtype_of<TypeParam>, args.x = x.data(), args.index = index.data(), args.y = y.data(), args.bad = &bad;
    backend::run(args);
    for (std::int64_t i = 0; i < c.numel(); ++i)
      want.push_back(x[c.x_offset(args, i, index[static_cast<std::size_t>(i)])]);
    EXPECT_TRUE(same_bits(y, want)) << ::testing::PrintToString(c.size) << " dim " << c.dim;
    EXPECT_EQ(bad, 7);
  }
}

TYPED_TEST(IndexOf, ScatterAdd) {
  for (const Case& c : cases) {
    auto x = whole_numbers<TypeParam>(c.x_numel(), 1);
    const auto src = whole_numbers<TypeParam>(c.numel(), 3);
    const auto index = random_indices(c.numel(), c.x_size, 2);
    Doubles want = doubles(x);
    std::int64_t bad = 7;
    kernels::ScatterAdd args{};
    c.fill(args);
    args.dtype = dtype_of<TypeParam>, args.x = x.data(), args.index = index.data(), args.src = src.data(),
    args.bad = &bad;
    backend::run(args);
    for (std::size_t i = 0; i < index.size(); ++i) {
      want[c.x_offset(args, static_cast<std::int64_t>(i), index[i])] += static_cast<double>(load(src[i]));
    }
    expect_near(x, want, 0);
    EXPECT_EQ(bad, 7);
  }
}

TYPED_TEST(IndexOf, Embedding) {
  for (const auto& [n, rows, cols] :
       {std::array<std::int64_t, 3>{0, 3, 4}, {5, 3, 0}, {1, 1, 1}, {9, 4, 7}, {1000, 50, 65}}) {
    const auto table = whole_numbers<TypeParam>(rows * cols, 1);
    const auto index = random_indices(n, rows, 2);
    std::vector<TypeParam> y(static_cast<std::size_t>(n * cols)), want;
    std::int64_t bad = 7;
    backend::run(kernels::Embedding{dtype_of<TypeParam>, n, rows, cols, table.data(), index.data(), y.data(), &bad});
    for (const std::int64_t row : index)
      want.insert(want.end(), table.begin() + row * cols, table.begin() + (row + 1) * cols);
    EXPECT_TRUE(same_bits(y, want));
    EXPECT_EQ(bad, 7);
  }
}

template <class T>
class IndexFloating : public ::testing::Test {};
TYPED_TEST_SUITE(IndexFloating, FloatingTypes);

TYPED_TEST(IndexFloating, EmbeddingGrad) {
  for (const auto& [n, rows, cols] :
       {std::array<std::int64_t, 3>{0, 3, 4}, {5, 3, 0}, {1, 1, 1}, {9, 4, 7}, {300, 50, 65}, {4500, 5000, 8}}) {
    const auto dy = whole_numbers<TypeParam>(n * cols, 1);
    const auto index = random_indices(n, rows, 2);
    for (const std::int64_t padding : {std::int64_t{-1}, std::int64_t{0}}) {
      for (const bool accumulate : {false, true}) {
        auto dtable = whole_numbers<TypeParam>(rows * cols, 3);
        Doubles want = accumulate ? doubles(dtable) : Doubles(dtable.size());
        for (std::int64_t i = 0; i < n; ++i) {
          const std::int64_t row = index[static_cast<std::size_t>(i)];
          if (row == padding) continue;
          for (std::int64_t j = 0; j < cols; ++j) {
            want[static_cast<std::size_t>(row * cols + j)] +=
                static_cast<double>(load(dy[static_cast<std::size_t>(i * cols + j)]));
          }
        }
        backend::run(kernels::EmbeddingGrad{dtype_of<TypeParam>, n, rows, cols, padding, index.data(), dy.data(),
                                            dtable.data(), accumulate});
        expect_near(dtable, want, 0);
      }
    }
  }
}

// With numbers whose sums are rounded: the order is that of i.
TYPED_TEST(IndexFloating, SameBitsForAnyNumberOfThreads) {
  const Case c{{300, 401}, 0, 5};
  const auto src = random_values<TypeParam>(c.numel(), 1);
  const auto index = random_indices(c.numel(), c.x_size, 2);
  expect_thread_independent([&] {
    std::vector<TypeParam> x(static_cast<std::size_t>(c.x_numel())), dtable(static_cast<std::size_t>(c.x_numel()));
    std::int64_t bad = 0;
    kernels::ScatterAdd args{};
    c.fill(args);
    args.dtype = dtype_of<TypeParam>, args.x = x.data(), args.index = index.data(), args.src = src.data(),
    args.bad = &bad;
    backend::run(args);
    backend::run(
        kernels::EmbeddingGrad{dtype_of<TypeParam>, 300, 5, 401, -1, index.data(), src.data(), dtable.data(), false});
    return std::vector{x, dtable};
  });
}

// Nothing is written on the CPU; on a GPU the element is 0, and the others are as ever.
TEST(Index, TheFirstBadIndexIsReportedAndNotRead) {
  const std::vector<float> x(10, 1), src(3000, 1);
  for (const std::int64_t wrong : {std::int64_t{-1}, std::int64_t{10}, std::numeric_limits<std::int64_t>::min()}) {
    for (const std::int64_t at : {0, 1, 1024, 2999}) {
      auto index = random_indices(3000, 10, 1);
      index[static_cast<std::size_t>(at)] = wrong;
      index[2999] = wrong;
      std::vector<float> want_y(3000, 7), want_sums(10, 7);
      if (backend::emulated) {
        for (std::size_t i = 0; i < index.size(); ++i) {
          want_y[i] = index[i] == wrong ? 0 : 1;
          if (index[i] != wrong) ++want_sums[static_cast<std::size_t>(index[i])];
        }
      }
      std::vector<float> y(3000, 7), sums(10, 7);
      std::int64_t bad = -1;
      backend::run(kernels::Gather{DType::f32, 1, 0, {3000}, {1}, 10, x.data(), index.data(), y.data(), &bad});
      EXPECT_EQ(bad, at);
      EXPECT_EQ(y, want_y);
      y.assign(3000, 7);
      backend::run(kernels::Embedding{DType::f32, 3000, 10, 1, x.data(), index.data(), y.data(), &(bad = -1)});
      EXPECT_EQ(bad, at);
      EXPECT_EQ(y, want_y);
      backend::run(
          kernels::ScatterAdd{DType::f32, 1, 0, {3000}, {1}, 10, sums.data(), index.data(), src.data(), &(bad = -1)});
      EXPECT_EQ(bad, at);
      EXPECT_EQ(sums, want_sums);
    }
  }
}

}  // namespace
}  // namespace anneal::testing
