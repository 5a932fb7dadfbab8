#include <gtest/gtest.h>

#include "anneal/tests/kernels/backend.h"
#include "anneal/tests/kernels/values.h"

namespace anneal::testing {
namespace {

struct Images {
  std::int64_t n, c, inner;
  std::int64_t size() const { return n * c * inner; }
  std::int64_t at(std::int64_t s, std::int64_t channel, std::int64_t i) const { return (s * c + channel) * inner + i; }
};
constexpr Images shapes[] = {{2, 1, 1},  {1, 3, 2},  {5, 33, 1},  {3, 70, 1}, {4, 5, 3},
                             {2, 40, 9}, {2, 3, 49}, {1, 2, 300}, {3, 2, 64}};
constexpr double eps = 1e-3, momentum = 0.3;

/// What PyTorch does, in plain loops.
struct Reference {
  Doubles y, running_mean, running_var, mean, rstd;
};
Reference batch_norm(const Images& s, bool training, const Doubles& x, const Doubles& weight, const Doubles& bias,
                     Doubles running_mean, Doubles running_var) {
  Reference out{Doubles(x.size()), running_mean, running_var, {}, {}};
  const auto count = static_cast<double>(s.n * s.inner);
  for (std::int64_t c = 0; c < s.c; ++c) {
    const auto k = static_cast<std::size_t>(c);
    const auto each = [&](const auto& f) {
      for (std::int64_t n = 0; n < s.n; ++n) {
        for (std::int64_t i = 0; i < s.inner; ++i) f(static_cast<std::size_t>(s.at(n, c, i)));
      }
    };
    double mean = running_mean[k], var = running_var[k];
    if (training) {
      mean = var = 0;
      each([&](std::size_t i) { mean += x[i] / count; });
      each([&](std::size_t i) { var += (x[i] - mean) * (x[i] - mean) / count; });
      out.running_mean[k] = (1 - momentum) * running_mean[k] + momentum * mean;
      out.running_var[k] = (1 - momentum) * running_var[k] + momentum * var * count / (count - 1);
    }
    const double rstd = 1 / std::sqrt(var + eps);
    out.mean.push_back(mean);
    out.rstd.push_back(rstd);
    each([&](std::size_t i) {
      out.y[i] = (x[i] - mean) * rstd * (weight.empty() ? 1 : weight[k]) + (bias.empty() ? 0 : bias[k]);
    });
  }
  return out;
}

/// P: of weight, bias and running statistics.
template <class T, class P = T>
struct Trained {
  Trained(const Images& s, bool is_training, bool affine, double offset = 0)
      : x(random_values<T>(s.size(), 1, offset - 2, offset + 2)),
        dy(random_values<T>(s.size(), 2)),
        running_mean(random_values<P>(s.c, 5)),
        running_var(random_values<P>(s.c, 6, 0.5, 2)) {
    if (affine) weight = random_values<P>(s.c, 3), bias = random_values<P>(s.c, 4);
    y.resize(x.size());
    dx.resize(x.size());
    dweight.resize(static_cast<std::size_t>(s.c));
    dbias.resize(dweight.size());
    mean.resize(dweight.size());
    rstd.resize(dweight.size());
    old_mean = doubles(running_mean);
    old_var = doubles(running_var);
    const P* w = affine ? weight.data() : nullptr;
    const P* b = affine ? bias.data() : nullptr;
    backend::run(kernels::BatchNorm{dtype_of<T>, dtype_of<P>, is_training, s.n, s.c, s.inner, eps, momentum, x.data(),
                                    w, b, y.data(), running_mean.data(), running_var.data(), mean.data(), rstd.data()});
    backend::run(kernels::BatchNormGrad{dtype_of<T>, dtype_of<P>, is_training, s.n, s.c, s.inner, x.data(), w,
                                        mean.data(), rstd.data(), dy.data(), dx.data(),
                                        affine ? dweight.data() : nullptr, affine ? dbias.data() : nullptr});
  }
  std::vector<T> x, dy, y, dx;
  std::vector<P> running_mean, running_var, weight, bias, dweight, dbias;
  std::vector<Compute<T>> mean, rstd;
  Doubles old_mean, old_var;
};

template <class T>
class BatchNorm : public ::testing::Test {};
TYPED_TEST_SUITE(BatchNorm, FloatingTypes);

template <class T, class P>
void expect_plain_loops() {
  for (const bool training : {false, true}) {
    for (const bool affine : {false, true}) {
      for (const Images& s : shapes) {
        SCOPED_TRACE(::testing::Message() << s.n << " x " << s.c << " x " << s.inner
                                          << (training ? " training" : " evaluation") << (affine ? " affine" : ""));
        const Trained<T, P> got(s, training, affine);
        const Doubles x = doubles(got.x), dy = doubles(got.dy), weight = doubles(got.weight), bias = doubles(got.bias);
        const auto reference = [&](const Doubles& v) {
          return batch_norm(s, training, v, weight, bias, got.old_mean, got.old_var);
        };
        const Reference want = reference(x);
        expect_near(got.y, want.y);
        expect_near(got.mean, want.mean);
        expect_near(got.rstd, want.rstd);
        expect_near(got.running_mean, want.running_mean);
        expect_near(got.running_var, want.running_var);
        const Doubles dx = numeric_gradient(x, [&](const Doubles& v) { return dot(reference(v).y, dy); });
        expect_near(got.dx, dx, std::max(4 * tolerance<T>, 1e-6));
        if (!affine) continue;
        Doubles dweight(static_cast<std::size_t>(s.c)), dbias = dweight;
        for (std::int64_t i = 0; i < s.size(); ++i) {
          const auto k = static_cast<std::size_t>(i / s.inner % s.c), e = static_cast<std::size_t>(i);
          dweight[k] += dy[e] * (x[e] - want.mean[k]) * want.rstd[k];
          dbias[k] += dy[e];
        }
        expect_near(got.dweight, dweight, 4 * tolerance<T>);
        expect_near(got.dbias, dbias, 4 * tolerance<T>);
      }
    }
  }
}

TYPED_TEST(BatchNorm, AsPlainLoops) { expect_plain_loops<TypeParam, TypeParam>(); }

// Parameters may be wider than the batch.
TEST(BatchNormParameters, AsPlainLoops) {
  expect_plain_loops<bf16, float>();
  expect_plain_loops<f16, float>();
}

TYPED_TEST(BatchNorm, SameBitsForAnyThreads) {
  const std::vector<Images> few{{20, 33, 1}, {17, 2, 49}, {2, 1, 5001}};
  const std::vector<Images> many{{64, 517, 1}, {16, 130, 49}, {3, 5, 20001}};
  for (const Images& s : backend::emulated ? few : many) {
    expect_thread_independent([&] {
      const Trained<TypeParam> r(s, true, true);
      return std::vector{r.y, r.running_mean, r.running_var, r.dx, r.dweight, r.dbias};
    });
  }
}

TYPED_TEST(BatchNorm, OfNothing) {
  for (const Images& s : {Images{0, 3, 4}, Images{2, 0, 4}, Images{2, 3, 0}}) {
    const Trained<TypeParam> r(s, true, true);
    expect_near(r.running_mean, r.old_mean);  // no batch, no news
    expect_near(r.running_var, r.old_var);
    expect_near(r.dweight, Doubles(r.dweight.size()));
    expect_near(r.dbias, Doubles(r.dbias.size()));
  }
}

TEST(BatchNormStatistics, KeepTheirPrecisionFarFromZero) {
  const Images s{8, 3, 1000};
  const Trained<float> got(s, true, false, 1000);
  const Reference want = batch_norm(s, true, doubles(got.x), {}, {}, got.old_mean, got.old_var);
  expect_near(got.y, want.y, 2e-4);  // the mean of numbers about 1000 is a float as well
  expect_near(got.running_var, want.running_var, 1e-5);
}

TEST(BatchNormStatistics, MayBeLeftOut) {
  const Images s{4, 3, 5};
  const Trained<double> want(s, true, false);
  Doubles y(want.y.size()), mean(3), rstd(3);
  backend::run(kernels::BatchNorm{DType::f64, DType::f64, true, s.n, s.c, s.inner, eps, momentum, want.x.data(),
                                  nullptr, nullptr, y.data(), nullptr, nullptr, mean.data(), rstd.data()});
  EXPECT_TRUE(same_bits(y, want.y));
}

}  // namespace
}  // namespace anneal::testing
