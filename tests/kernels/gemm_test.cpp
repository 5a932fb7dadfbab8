#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "anneal/kernels/kernels.h"
#include "anneal/kernels/parallel.h"

namespace anneal {
namespace {

using kernels::Activation;
using kernels::Gemm;
using Floating = TypeList<float, double, f16, bf16>;

template <class T>
std::vector<T> random_values(std::int64_t n, unsigned seed) {
  std::mt19937 engine(seed);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<T> values(static_cast<std::size_t>(n));
  for (T& value : values) value = store<T>(uniform(engine));
  return values;
}

/// The distance of 1 and the next number.
template <class T>
constexpr double epsilon = std::is_same_v<T, f16>      ? 0x1p-10
                           : std::is_same_v<T, bf16>   ? 0x1p-7
                           : std::is_same_v<T, double> ? 0x1p-52
                                                       : 0x1p-23;

struct Shape {
  std::int64_t m, n, k, batch = 1;
};

void PrintTo(const Shape& s, std::ostream* out) { *out << s.m << "x" << s.n << "x" << s.k << " batch " << s.batch; }

struct Form {
  bool trans_a, trans_b, accumulate, bias;
  Activation activation;
  std::int64_t gap;  // elements between rows
};

/// A and B of T, C and bias of Out.
template <class T, class Out = T>
struct Case {
  Shape s;
  Form f;
  std::int64_t lda = (f.trans_a ? s.m : s.k) + f.gap, ldb = (f.trans_b ? s.k : s.n) + f.gap, ldc = s.n + f.gap;
  std::int64_t size_a = (f.trans_a ? s.k : s.m) * lda, size_b = (f.trans_b ? s.n : s.k) * ldb, size_c = s.m * ldc;
  std::vector<T> a = random_values<T>(s.batch * size_a, 1), b = random_values<T>(s.batch * size_b, 2);
  std::vector<Out> c = random_values<Out>(s.batch * size_c, 3), bias = random_values<Out>(s.n, 4);

  /// C, and behind it what gelu was taken of.
  std::vector<Out> run(int threads) const {
    std::vector<Out> result = c;
    if (f.activation == Activation::gelu) result.insert(result.end(), c.begin(), c.end());
    set_num_threads(threads);
    kernels::cpu::run(
        Gemm{dtype_of<T>,  dtype_of<Out>, f.trans_a,
             f.trans_b,    s.m,           s.n,
             s.k,          lda,           ldb,
             ldc,          s.batch,       size_a,
             size_b,       size_c,        a.data(),
             b.data(),     result.data(), f.bias ? bias.data() : nullptr,
             f.activation, f.accumulate,  f.activation == Activation::gelu ? result.data() + c.size() : nullptr});
    set_num_threads(0);
    return result;
  }

  double reference(std::int64_t batch, std::int64_t i, std::int64_t j) const {
    double sum = f.accumulate ? load(c[batch * size_c + i * ldc + j]) : 0;
    for (std::int64_t p = 0; p < s.k; ++p) {
      const double x = load(a[batch * size_a + (f.trans_a ? p * lda + i : i * lda + p)]);
      sum += x * load(b[batch * size_b + (f.trans_b ? j * ldb + p : p * ldb + j)]);
    }
    if (f.bias) sum += load(bias[j]);
    return sum;
  }
  double activated(double x) const {
    if (f.activation == Activation::gelu) return x * 0.5 * std::erfc(-x / std::sqrt(2.0));
    return f.activation == Activation::relu ? std::max(x, 0.0) : x;
  }

  void check() const {
    const std::vector<Out> result = run(1);
    for (std::int64_t batch = 0; batch < s.batch; ++batch) {
      for (std::int64_t i = 0; i < s.m; ++i) {
        for (std::int64_t j = 0; j < ldc; ++j) {
          const std::int64_t at = batch * size_c + i * ldc + j;
          const Out got = result[at];
          if (j >= s.n) {
            ASSERT_EQ(std::memcmp(&got, &c[at], sizeof got), 0) << "wrote between rows";
            continue;
          }
          const double sum = reference(batch, i, j), want = activated(sum);
          const bool twice = f.activation == Activation::gelu;  // rounded
          const double tolerance =
              (twice ? 2 : 1) * epsilon<Out> * (1 + std::abs(want)) + epsilon<Compute<T>> * static_cast<double>(s.k);
          ASSERT_NEAR(static_cast<double>(load(got)), want, tolerance) << "at " << batch << ", " << i << ", " << j;
          if (twice) {
            ASSERT_NEAR(static_cast<double>(load(result[c.size() + at])), sum,
                        tolerance + epsilon<Out> * std::abs(sum));
          }
        }
      }
    }
    for (int threads : {2, 5}) {
      const std::vector<Out> again = run(threads);
      ASSERT_TRUE(result.empty() || std::memcmp(result.data(), again.data(), result.size() * sizeof(Out)) == 0)
          << threads << " threads";
    }
  }
};

class GemmShapes : public testing::TestWithParam<Shape> {};

TEST_P(GemmShapes, EqualPlainLoops) {
  const Form epilogues[] = {{false, false, false, false, Activation::none, 0},
                            {false, false, false, true, Activation::relu, 5},
                            {false, false, true, false, Activation::none, 3},
                            {false, false, false, true, Activation::none, 0},
                            {false, false, false, true, Activation::gelu, 2}};
  for_each_type(Floating{}, [&]<class T>() {
    for (Form form : epilogues) {
      for (int transposes = 0; transposes < 4; ++transposes) {
        form.trans_a = transposes & 1;
        form.trans_b = transposes & 2;
        SCOPED_TRACE(testing::Message() << name_of(dtype_of<T>) << " trans_a " << form.trans_a << " trans_b "
                                        << form.trans_b << " accumulate " << form.accumulate << " bias " << form.bias);
        Case<T>{GetParam(), form}.check();
        if constexpr (sizeof(T) == 2) Case<T, float>{GetParam(), form}.check();
      }
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Kernels, GemmShapes,
                         testing::Values(Shape{0, 3, 4}, Shape{3, 0, 4}, Shape{3, 4, 0}, Shape{0, 0, 0}, Shape{1, 1, 1},
                                         Shape{2, 3, 5, 0}, Shape{1, 64, 300}, Shape{1, 65, 37}, Shape{65, 1, 37},
                                         Shape{1, 9, 0}, Shape{6, 64, 16}, Shape{7, 17, 33}, Shape{13, 65, 100},
                                         Shape{31, 47, 1}, Shape{97, 65, 1}, Shape{24, 128, 12}, Shape{12, 70, 31},
                                         Shape{95, 129, 64}, Shape{64, 10, 129}, Shape{100, 200, 70},
                                         Shape{5, 90, 1100}, Shape{250, 530, 9}, Shape{300, 33, 520},
                                         Shape{1050, 3, 520}, Shape{7, 600, 300}, Shape{13, 1100, 20},
                                         Shape{3, 5, 7, 4}, Shape{40, 40, 40, 2}, Shape{33, 65, 40, 5},
                                         Shape{1, 40, 60, 7}));

// ---- what the shapes do not show ----

TEST(Gemm, SharesAnOperandOverTheBatch) {
  const std::vector<float> a{1, 2, 3, 4}, b{1, 0, 0, 1, 2, 0, 0, 2};
  std::vector<float> c(8);
  kernels::cpu::run(
      Gemm{DType::f32, DType::f32,       false, false, 2, 2, 2, 2, 2, 2, 2, 0, 4, 4, a.data(), b.data(), c.data(),
           nullptr,    Activation::none, false});
  EXPECT_EQ(c, (std::vector<float>{1, 2, 3, 4, 2, 4, 6, 8}));
}

TEST(Gemm, KeepsNaNThroughRelu) {
  const float a[] = {1, 1}, b[] = {std::numeric_limits<float>::quiet_NaN(), -1};
  for (std::int64_t m : {1, 2}) {
    float c[4] = {};
    kernels::cpu::run(Gemm{DType::f32, DType::f32,       false, true, m, 2, 1, 1, 1, 2, 1, 0, 0, 0, a, b, c,
                           nullptr,    Activation::relu, false});
    EXPECT_TRUE(std::isnan(c[0]));
    EXPECT_EQ(c[1], 0);
  }
}

TEST(Gemm, IgnoresWhatCWasBefore) {
  const float a[] = {1, 2}, b[] = {3, 4};
  float c[1] = {std::numeric_limits<float>::quiet_NaN()};
  kernels::cpu::run(Gemm{DType::f32, DType::f32,       false, true, 1, 1, 2, 2, 2, 1, 1, 0, 0, 0, a, b, c,
                         nullptr,    Activation::none, false});
  EXPECT_EQ(c[0], 11);
}

}  // namespace
}  // namespace anneal
