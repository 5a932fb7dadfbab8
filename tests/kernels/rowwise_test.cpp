#include <gtest/gtest.h>

#include <limits>
#include <numeric>
#include <utility>

#include "anneal/tests/kernels/backend.h"
#include "anneal/tests/kernels/values.h"

namespace anneal::testing {
namespace {

using kernels::Targets;
constexpr double infinity = std::numeric_limits<double>::infinity();

struct Rows {
  std::int64_t rows, cols;
  std::int64_t size() const { return rows * cols; }
};
constexpr Rows shapes[] = {{0, 5},  {5, 0},  {1, 1},   {4, 1},   {3, 2},    {7, 10},   {2, 16},
                           {5, 17}, {3, 64}, {2, 100}, {33, 65}, {1, 1027}, {2, 2056}, {1, 13'000}};
constexpr std::int64_t numeric_cols = 200;  // more are not worth a numeric gradient
constexpr Rows large = backend::emulated ? Rows{41, 99} : Rows{301, 499};

/// The row of `values` that starts at `begin`.
Doubles row(const Doubles& values, const Rows& s, std::int64_t r) {
  return Doubles(values.begin() + r * s.cols, values.begin() + (r + 1) * s.cols);
}

template <class T>
class Rowwise : public ::testing::Test {
 protected:
  using C = Compute<T>;
  static constexpr DType dtype = dtype_of<T>;
  static std::vector<T> values(std::int64_t n, unsigned seed) { return random_values<T>(n, seed); }
};
TYPED_TEST_SUITE(Rowwise, FloatingTypes);

// ---- softmax ----

Doubles softmax(const Doubles& x, bool log) {
  const double top = x.empty() ? 0 : *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (const double v : x) sum += std::exp(v - top);
  Doubles y;
  for (const double v : x) y.push_back(log ? v - top - std::log(sum) : std::exp(v - top) / sum);
  return y;
}

template <class T>
std::vector<std::vector<T>> run_softmax(bool log, const Rows& s) {
  const auto x = random_values<T>(s.size(), 1), dy = random_values<T>(s.size(), 2);
  std::vector<T> y(x.size()), dx(x.size());
  backend::run(kernels::Softmax{dtype_of<T>, log, s.rows, s.cols, x.data(), y.data()});
  backend::run(kernels::SoftmaxGrad{dtype_of<T>, log, s.rows, s.cols, y.data(), dy.data(), dx.data()});
  return {y, dx};
}

TYPED_TEST(Rowwise, Softmax) {
  for (const bool log : {false, true}) {
    for (const Rows& s : shapes) {
      SCOPED_TRACE(::testing::Message() << s.rows << " x " << s.cols << (log ? " log" : ""));
      const auto x = doubles(this->values(s.size(), 1)), dy = doubles(this->values(s.size(), 2));
      const auto out = run_softmax<TypeParam>(log, s);
      const Doubles stored = doubles(out[0]);
      Doubles y, dx;
      for (std::int64_t r = 0; r < s.rows; ++r) {
        const Doubles row_dy = row(dy, s, r), row_y = row(stored, s, r), want = softmax(row(x, s, r), log);
        y.insert(y.end(), want.begin(), want.end());
        double along = 0;
        for (std::size_t i = 0; i < row_y.size(); ++i) along += row_dy[i] * (log ? 1 : row_y[i]);
        for (std::size_t i = 0; i < row_y.size(); ++i) {
          dx.push_back(log ? row_dy[i] - std::exp(row_y[i]) * along : row_y[i] * (row_dy[i] - along));
        }
        if (this->dtype == DType::f64 && s.cols <= numeric_cols) {
          const Doubles numeric =
              numeric_gradient(row(x, s, r), [&](const Doubles& v) { return dot(softmax(v, log), row_dy); });
          expect_near(row(dx, s, r), numeric, 1e-8);
        }
      }
      expect_near(out[0], y);
      expect_near(out[1], dx);
    }
  }
}

TYPED_TEST(Rowwise, SoftmaxOfExtremes) {
  using C = Compute<TypeParam>;
  for (const Doubles& x : {Doubles{-infinity, -infinity, -infinity}, Doubles{-infinity, 1, 0}, Doubles{500, 500, -500},
                           Doubles{0, std::nan(""), 1}, Doubles{0, infinity, 1}}) {
    for (const bool log : {false, true}) {
      std::vector<TypeParam> in;
      for (const double v : x) in.push_back(store<TypeParam>(static_cast<C>(v)));
      std::vector<TypeParam> y(3);
      backend::run(kernels::Softmax{this->dtype, log, 1, 3, in.data(), y.data()});
      const Doubles want = softmax(x, log);
      expect_near(y, want);
      std::vector<TypeParam> over = in;  // the output may lie over the input
      backend::run(kernels::Softmax{this->dtype, log, 1, 3, over.data(), over.data()});
      expect_near(over, want);
    }
  }
}

/// Three blocks of a long row (Group::block()) and a little more, each block about its own number.
template <class T>
std::vector<T> uneven_row(double first, double second, double third) {
  constexpr std::size_t block = 2048;
  std::vector<T> x = random_values<T>(3 * block + 5, 11);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double middle = i < block ? first : i < 2 * block ? second : third;
    x[i] = store<T>(static_cast<Compute<T>>(static_cast<double>(load(x[i])) + middle));
  }
  return x;
}
constexpr double middles[][3] = {{0, 30, 100},         {0, 200, -200},      {-900, 0, 900},
                                 {-infinity, -300, 4}, {5, -infinity, 100}, {-infinity, -300, -infinity}};

TYPED_TEST(Rowwise, SoftmaxOfUnevenRows) {
  for (const auto& [first, second, third] : middles) {
    SCOPED_TRACE(::testing::Message() << first << ", " << second << ", " << third);
    const std::vector<TypeParam> x = uneven_row<TypeParam>(first, second, third);
    const auto n = static_cast<std::int64_t>(x.size());
    for (const bool log : {false, true}) {
      std::vector<TypeParam> y(x.size());
      backend::run(kernels::Softmax{this->dtype, log, 1, n, x.data(), y.data()});
      expect_near(y, softmax(doubles(x), log));
    }
  }
}

TYPED_TEST(Rowwise, SoftmaxSameBitsForAnyThreads) {
  for (const bool log : {false, true}) expect_thread_independent([&] { return run_softmax<TypeParam>(log, large); });
}

// ---- cross-entropy ----

/// The q of kernels.h from probabilities, or from the class `target` where those are empty.
Doubles smoothed(Doubles q, std::size_t cols, std::int64_t target, double smoothing) {
  if (q.empty() && cols > 0) {
    q.resize(cols);
    q.at(static_cast<std::size_t>(target)) = 1;
  }
  for (double& v : q) v = (1 - smoothing) * v + smoothing / static_cast<double>(cols);
  return q;
}

enum class Kind { classes, probabilities };
struct EntropyCase {
  Kind kind;
  double smoothing;
  double count;  // 0: none
};
constexpr EntropyCase entropy_cases[] = {{Kind::classes, 0, 0},
                                         {Kind::classes, 0.1, 0},
                                         {Kind::classes, 0.1, 3},
                                         {Kind::probabilities, 0, 0},
                                         {Kind::probabilities, 0.2, 5}};
constexpr std::int64_t ignored = -100;

template <class T>
struct Entropy {
  Entropy(const EntropyCase& c, const Rows& s)
      : x(random_values<T>(s.size(), 3)), q(random_values<T>(s.size(), 4, 0, 1)) {
    for (std::int64_t r = 0; r < s.rows; ++r) {
      const bool out_of_range = r % 8 == 7;
      classes.push_back(s.cols == 0 || r % 4 == 2 ? ignored : out_of_range ? s.cols + r % 3 : r * 7 % s.cols);
    }
    const Targets targets{classes.data(), c.kind == Kind::probabilities ? q.data() : nullptr, ignored, c.smoothing,
                          c.count > 0 ? &c.count : nullptr};
    loss.resize(static_cast<std::size_t>(s.rows));
    loss_alone.resize(loss.size());
    dx.resize(x.size());
    const auto run = [&](const void* logits, void* losses, void* gradient) {
      backend::run(kernels::CrossEntropy{dtype_of<T>, s.rows, s.cols, logits, targets, losses, gradient});
    };
    run(x.data(), loss.data(), dx.data());
    run(x.data(), loss_alone.data(), nullptr);
    over = x;
    run(over.data(), loss.data(), over.data());
  }
  std::vector<T> x, q, dx, over;
  std::vector<Compute<T>> loss, loss_alone;
  std::vector<std::int64_t> classes;
};

TYPED_TEST(Rowwise, CrossEntropy) {
  for (const EntropyCase& c : entropy_cases) {
    for (const Rows& s : shapes) {
      SCOPED_TRACE(::testing::Message() << s.rows << " x " << s.cols
                                        << (c.kind == Kind::classes ? " classes " : " probabilities ") << c.smoothing
                                        << " / " << c.count);
      const Entropy<TypeParam> got(c, s);
      const Doubles x = doubles(got.x), q = doubles(got.q);
      Doubles loss, dx;
      for (std::int64_t r = 0; r < s.rows; ++r) {
        const bool probabilities = c.kind == Kind::probabilities;
        const std::int64_t target = got.classes[static_cast<std::size_t>(r)];
        const bool counts = probabilities || (target >= 0 && target < s.cols);
        const Doubles xr = row(x, s, r);
        const Doubles want = counts ? smoothed(probabilities ? row(q, s, r) : Doubles{}, xr.size(), target, c.smoothing)
                                    : Doubles(xr.size());
        const double divisor = c.count > 0 ? c.count : 1;
        const auto f = [&](const Doubles& v) { return -dot(want, softmax(v, true)) / divisor; };
        loss.push_back(f(xr));
        const Doubles p = softmax(xr, false);
        const double mass = std::accumulate(want.begin(), want.end(), 0.0);
        Doubles slopes;
        for (std::size_t j = 0; j < p.size(); ++j) slopes.push_back((mass * p[j] - want[j]) / divisor);
        if (this->dtype == DType::f64 && s.cols <= numeric_cols) expect_near(slopes, numeric_gradient(xr, f), 1e-7);
        dx.insert(dx.end(), slopes.begin(), slopes.end());
      }
      expect_near(got.loss, loss);
      expect_near(got.loss_alone, loss);
      expect_near(got.dx, dx);
      EXPECT_TRUE(same_bits(got.over, got.dx));
    }
  }
}

TYPED_TEST(Rowwise, CrossEntropyOfMaskedLogits) {
  // A class ruled out by -infinity costs nothing unless smoothing spreads some probability to it.
  const auto low = store<TypeParam>(static_cast<Compute<TypeParam>>(-infinity));
  const std::vector<TypeParam> x{store<TypeParam>(Compute<TypeParam>(0)), low, store<TypeParam>(Compute<TypeParam>(0))};
  const std::int64_t target = 0;
  for (const double smoothing : {0.0, 0.1}) {
    std::vector<Compute<TypeParam>> loss(1);
    std::vector<TypeParam> dx(3);
    const Targets targets{&target, nullptr, ignored, smoothing, nullptr};
    backend::run(kernels::CrossEntropy{this->dtype, 1, 3, x.data(), targets, loss.data(), dx.data()});
    expect_near(loss, {smoothing > 0 ? infinity : std::log(2.0)});
    expect_near(dx, {-0.5 + smoothing * 2 / 3, -smoothing / 3, 0.5 - smoothing / 3});
  }
}

TYPED_TEST(Rowwise, CrossEntropyOfUnevenRows) {
  for (const auto& [first, second, third] : middles) {
    SCOPED_TRACE(::testing::Message() << first << ", " << second << ", " << third);
    std::vector<TypeParam> x = uneven_row<TypeParam>(first, second, third);
    const auto n = static_cast<std::int64_t>(x.size());
    const Doubles p = softmax(doubles(x), false), log_p = softmax(doubles(x), true);
    for (const std::int64_t target : {std::int64_t{7}, std::int64_t{3000}, n - 1}) {
      std::vector<Compute<TypeParam>> loss(1);
      std::vector<TypeParam> dx(x.size());
      const Targets targets{&target, nullptr, ignored, 0, nullptr};
      backend::run(kernels::CrossEntropy{this->dtype, 1, n, x.data(), targets, loss.data(), dx.data()});
      Doubles slopes = p;
      slopes[static_cast<std::size_t>(target)] -= 1;
      expect_near(loss, {-log_p[static_cast<std::size_t>(target)]});
      expect_near(dx, slopes);
    }
    x.back() = store<TypeParam>(std::numeric_limits<Compute<TypeParam>>::quiet_NaN());
    std::vector<TypeParam> y(x.size());
    backend::run(kernels::Softmax{this->dtype, false, 1, n, x.data(), y.data()});
    expect_near(y, Doubles(x.size(), std::nan("")));
  }
}

// What is large is written past the caches: the same bits as where it is little at a time.
TYPED_TEST(Rowwise, LargeResultsAreThoseOfTheirRows) {
  if (backend::emulated)
    GTEST_SKIP() << "NOT TESTED: the emulated GPU has no caches to write past; the CPU's kernels are";
  const std::int64_t elements = (1 << 24) / sizeof(TypeParam);  // twice as many, read and written, take 32 MB
  const Rows wide{elements / 50'257 + 1, 50'257};
  const auto x = this->values(wide.size(), 1);
  std::vector<std::int64_t> classes(static_cast<std::size_t>(wide.rows), 17);
  std::vector<Compute<TypeParam>> loss(classes.size()), row_loss(loss);
  std::vector<TypeParam> all(x.size()), rows(x.size());
  const auto entropy = [&](std::int64_t first, std::int64_t count, Compute<TypeParam>* to, TypeParam* dx) {
    const Targets targets{classes.data() + first, nullptr, ignored, 0.1, nullptr};
    backend::run(kernels::CrossEntropy{this->dtype, count, wide.cols, x.data() + first * wide.cols, targets, to + first,
                                       dx + first * wide.cols});
  };
  entropy(0, wide.rows, loss.data(), all.data());
  for (std::int64_t r = 0; r < wide.rows; ++r) entropy(r, 1, row_loss.data(), rows.data());
  EXPECT_TRUE(same_bits(loss, row_loss));
  EXPECT_TRUE(same_bits(all, rows));

  const Rows tall{wide.size() / 1003, 1003};
  const auto norm = [&](std::int64_t first, std::int64_t count, TypeParam* y) {
    backend::run(kernels::LayerNorm{this->dtype, false, count, tall.cols, 1e-5, x.data() + first * tall.cols, nullptr,
                                    nullptr, y + first * tall.cols, nullptr, nullptr});
  };
  norm(0, tall.rows, all.data());
  for (std::int64_t r = 0; r < tall.rows; r += 100) norm(r, std::min<std::int64_t>(100, tall.rows - r), rows.data());
  EXPECT_TRUE(same_bits(all, rows));

  // Of gradients only whole vectors, where one is aligned, go past the caches.
  const Rows even{wide.size() / 1024 - 1, 1024};
  const auto dy = this->values(even.size(), 2);
  const std::vector<Compute<TypeParam>> moments(static_cast<std::size_t>(even.rows), Compute<TypeParam>(0.5));
  const auto norm_grad = [&](std::int64_t first, std::int64_t count, TypeParam* dx) {
    const std::int64_t begin = first * even.cols;
    backend::run(kernels::LayerNormGrad{this->dtype, false, count, even.cols, x.data() + begin, nullptr,
                                        moments.data() + first, moments.data() + first, dy.data() + begin, dx + begin,
                                        nullptr, nullptr});
  };
  all.assign(all.size(), TypeParam{});
  rows = all;
  const std::size_t skip = (-reinterpret_cast<std::uintptr_t>(all.data()) % 64) / sizeof(TypeParam);
  norm_grad(0, even.rows, all.data() + skip);
  for (std::int64_t r = 0; r < even.rows; r += 100)
    norm_grad(r, std::min<std::int64_t>(100, even.rows - r), rows.data() + skip);
  EXPECT_TRUE(same_bits(all, rows));
}

TYPED_TEST(Rowwise, CrossEntropySameBitsForAnyThreads) {
  for (const EntropyCase& c : entropy_cases) {
    if (c.count == 0) continue;
    expect_thread_independent([&] {
      const Entropy<TypeParam> e(c, large);
      return std::vector{doubles(e.loss), doubles(e.dx), doubles(e.over)};
    });
  }
}

TYPED_TEST(Rowwise, ScaleRows) {
  for (const Rows& s : shapes) {
    for (const bool shared : {false, true}) {
      SCOPED_TRACE(::testing::Message() << s.rows << " x " << s.cols << (shared ? " shared" : ""));
      auto x = this->values(s.size(), 1);
      auto factor = random_values<Compute<TypeParam>>(s.rows + 1, 2);
      if (s.rows > 1) factor[1] = 1;
      const auto scale = [&](const void* from, void* to) {
        backend::run(kernels::ScaleRows{this->dtype, s.rows, s.cols, from, factor.data(), shared, to});
      };
      Doubles want;
      for (std::int64_t r = 0; r < s.rows; ++r) {
        for (const double v : row(doubles(x), s, r))
          want.push_back(v * doubles(factor)[static_cast<std::size_t>(shared ? 0 : r)]);
      }
      std::vector<TypeParam> y(x.size());
      scale(x.data(), y.data());
      expect_near(y, want);
      scale(x.data(), x.data());
      EXPECT_TRUE(same_bits(x, y));
      factor.assign(factor.size(), 1);
      scale(x.data(), x.data());
      EXPECT_TRUE(same_bits(x, y));
    }
  }
}

TEST(CheckTargets, CountsRowsAndReportsTheFirstBadOne) {
  const auto check = [](const std::vector<std::int64_t>& classes, std::int64_t bad) {
    double count = -1;
    backend::run(
        kernels::CheckTargets{static_cast<std::int64_t>(classes.size()), 10, classes.data(), ignored, &count, &bad});
    return std::pair{count, bad};
  };
  EXPECT_EQ(check({}, -1), std::pair(0.0, std::int64_t{-1}));
  EXPECT_EQ(check({0, 9, ignored, 5}, -1), std::pair(3.0, std::int64_t{-1}));
  EXPECT_EQ(check({0, 9, ignored, 5}, 7), std::pair(3.0, std::int64_t{7}));
  EXPECT_EQ(check({0, 10, ignored, -1}, -1).second, 1);
  std::vector<std::int64_t> many(3001, 4);
  for (std::size_t i = 0; i < many.size(); i += 3) many[i] = ignored;
  EXPECT_EQ(check(many, -1), std::pair(2000.0, std::int64_t{-1}));
  for (const std::size_t i : {2999, 1501, 2060}) many[i] = static_cast<std::int64_t>(i);
  EXPECT_EQ(check(many, -1).second, 1501);
}

// ---- layer norm ----

Doubles layer_norm(const Doubles& x, bool rms, double eps, const Doubles& weight, const Doubles& bias) {
  const auto n = static_cast<double>(x.size());
  double mean = 0, var = 0;
  for (const double v : x) mean += rms ? 0 : v / n;
  for (const double v : x) var += (v - mean) * (v - mean) / n;
  Doubles y;
  for (std::size_t i = 0; i < x.size(); ++i) {
    y.push_back((x[i] - mean) / std::sqrt(var + eps) * (weight.empty() ? 1 : weight[i]) + (bias.empty() ? 0 : bias[i]));
  }
  return y;
}

template <class T>
struct Norm {
  Norm(bool rms, bool affine, const Rows& s, double offset = 0)
      : x(random_values<T>(s.size(), 6, offset - 2, offset + 2)), dy(random_values<T>(s.size(), 7)) {
    if (affine) weight = random_values<T>(s.cols, 8), bias = random_values<T>(s.cols, 9);
    y.resize(x.size());
    dx.resize(x.size());
    dweight.resize(static_cast<std::size_t>(s.cols));
    dbias.resize(dweight.size());
    mean.resize(static_cast<std::size_t>(s.rows));
    rstd.resize(mean.size());
    const T* w = affine ? weight.data() : nullptr;
    const T* b = affine ? bias.data() : nullptr;
    const DType dtype = dtype_of<T>;
    backend::run(
        kernels::LayerNorm{dtype, rms, s.rows, s.cols, eps, x.data(), w, b, y.data(), mean.data(), rstd.data()});
    backend::run(kernels::LayerNormGrad{dtype, rms, s.rows, s.cols, x.data(), w, mean.data(), rstd.data(), dy.data(),
                                        dx.data(), affine ? dweight.data() : nullptr, affine ? dbias.data() : nullptr});
  }
  static constexpr double eps = 1e-3;
  std::vector<T> x, dy, weight, bias, y, dx, dweight, dbias;
  std::vector<Compute<T>> mean, rstd;
};

TYPED_TEST(Rowwise, LayerNorm) {
  for (const bool rms : {false, true}) {
    for (const bool affine : {false, true}) {
      for (const Rows& s : shapes) {
        if (s.cols == 0 || s.cols > 5000) continue;  // below; slow
        SCOPED_TRACE(::testing::Message()
                     << s.rows << " x " << s.cols << (rms ? " rms" : "") << (affine ? " affine" : ""));
        const Norm<TypeParam> got(rms, affine, s);
        const Doubles x = doubles(got.x), dy = doubles(got.dy), weight = doubles(got.weight), bias = doubles(got.bias);
        Doubles y, dx, dweight(static_cast<std::size_t>(s.cols)), dbias = dweight;
        for (std::int64_t r = 0; r < s.rows; ++r) {
          const Doubles xr = row(x, s, r), dyr = row(dy, s, r);
          const auto f = [&](const Doubles& v) { return layer_norm(v, rms, got.eps, weight, bias); };
          const Doubles yr = f(xr), normal = layer_norm(xr, rms, got.eps, {}, {});
          y.insert(y.end(), yr.begin(), yr.end());
          for (std::size_t i = 0; i < xr.size(); ++i) {
            dweight[i] += dyr[i] * normal[i];
            dbias[i] += dyr[i];
          }
          Doubles slope;
          for (std::size_t i = 0; i < xr.size(); ++i) slope.push_back(dyr[i] * (affine ? weight[i] : 1));
          const auto n = static_cast<double>(s.cols);
          const double offset = rms ? 0 : std::accumulate(slope.begin(), slope.end(), 0.0) / n;
          const double along = dot(slope, normal) / n,
                       rstd = static_cast<double>(got.rstd[static_cast<std::size_t>(r)]);
          Doubles row_dx;
          for (std::size_t i = 0; i < xr.size(); ++i) row_dx.push_back(rstd * (slope[i] - offset - normal[i] * along));
          if (this->dtype == DType::f64 && s.cols <= numeric_cols) {
            expect_near(row_dx, numeric_gradient(xr, [&](const Doubles& v) { return dot(f(v), dyr); }), 1e-7);
          }
          dx.insert(dx.end(), row_dx.begin(), row_dx.end());
        }
        expect_near(got.y, y);
        expect_near(got.dx, dx);
        if (!affine) continue;
        expect_near(got.dweight, dweight);
        expect_near(got.dbias, dbias);
      }
    }
  }
}

TYPED_TEST(Rowwise, LayerNormOfASumAndGradientOnTop) {
  for (const bool rms : {false, true}) {
    for (const Rows& s : {Rows{3, 5}, Rows{2, 64}, Rows{7, 100}, Rows{0, 5}}) {
      SCOPED_TRACE(::testing::Message() << s.rows << " x " << s.cols << (rms ? " rms" : ""));
      const auto x = this->values(s.size(), 21), residual = this->values(s.size(), 22),
                 before = this->values(s.size(), 23);
      std::vector<TypeParam> total;
      for (std::size_t i = 0; i < x.size(); ++i) total.push_back(store<TypeParam>(load(x[i]) + load(residual[i])));
      std::vector<TypeParam> sum(x.size()), y(x.size()), y_of_total(x.size());
      std::vector<Compute<TypeParam>> mean(static_cast<std::size_t>(s.rows)), rstd(mean);
      kernels::LayerNorm args{this->dtype, rms,     s.rows,   s.cols,      1e-3,        x.data(),
                              nullptr,     nullptr, y.data(), mean.data(), rstd.data(), residual.data(),
                              sum.data()};
      backend::run(args);
      EXPECT_TRUE(same_bits(sum, total));
      args.x = total.data();
      args.y = y_of_total.data();
      args.residual = nullptr;
      backend::run(args);
      EXPECT_TRUE(same_bits(y, y_of_total));

      const auto dy = this->values(s.size(), 24);
      std::vector<TypeParam> dx(x.size()), on_top = before;
      kernels::LayerNormGrad grad{this->dtype, rms,         s.rows,    s.cols,    total.data(), nullptr,
                                  mean.data(), rstd.data(), dy.data(), dx.data(), nullptr,      nullptr};
      backend::run(grad);
      grad.dx = on_top.data();
      grad.accumulate = true;
      backend::run(grad);
      Doubles want;
      for (std::size_t i = 0; i < dx.size(); ++i) {
        want.push_back(static_cast<double>(load(before[i])) + static_cast<double>(load(dx[i])));
      }
      expect_near(on_top, want);
    }
  }
}

TEST(LayerNormStatistics, KeepTheirPrecisionFarFromZero) {
  const Norm<float> got(false, false, {3, 1000}, 1000);
  const Doubles x = doubles(got.x);
  Doubles y;
  for (std::int64_t r = 0; r < 3; ++r) {
    const Doubles row_y = layer_norm(row(x, {3, 1000}, r), false, got.eps, {}, {});
    y.insert(y.end(), row_y.begin(), row_y.end());
  }
  expect_near(got.y, y, 2e-4);  // the mean of numbers about 1000 is a float as well
}

TYPED_TEST(Rowwise, LayerNormOfNothing) {
  const Norm<TypeParam> no_columns(false, true, {4, 0}), no_rows(false, true, {0, 4});
  EXPECT_TRUE(no_columns.y.empty());
  expect_near(no_rows.dweight, {0, 0, 0, 0});
  expect_near(no_rows.dbias, {0, 0, 0, 0});
}

TYPED_TEST(Rowwise, LayerNormSameBitsForAnyThreads) {
  for (const bool rms : {false, true}) {
    expect_thread_independent([&] {
      const Norm<TypeParam> n(rms, true, backend::emulated ? Rows{29, 97} : Rows{1801, 97});
      return std::vector{n.y, n.dx, n.dweight, n.dbias};
    });
  }
}

}  // namespace
}  // namespace anneal::testing
