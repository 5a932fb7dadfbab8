// Forward values of the floating ops in all four dtypes against plain loops in double.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <random>

#include "anneal/core/ops.h"

using namespace anneal;

namespace {

using Doubles = std::vector<double>;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

class OpsValue : public ::testing::TestWithParam<DType> {
 protected:
  // Values that the dtype holds exactly.
  Tensor draw(const Shape& shape, double low = -2, double high = 2) {
    std::uniform_real_distribution<double> uniform(low, high);
    Doubles values(at(shape.numel()));
    for (double& value : values) value = uniform(engine_);
    return tensor(values, shape, {.dtype = GetParam()});
  }
  // The same in the memory order of images with channels last.
  static Tensor channels_last(const Tensor& x) { return x.permute({0, 2, 3, 1}).contiguous().permute({0, 3, 1, 2}); }

  // Within the result's rounding and a few roundings of the largest intermediate value, which `size` bounds.
  void expect_close(const Tensor& got, const Shape& shape, const Doubles& want,
                    const std::function<double(double)>& size = {}) {
    ASSERT_EQ(got.dtype(), GetParam());
    ASSERT_EQ(got.shape(), shape);
    const Doubles values = got.to_vector();
    ASSERT_EQ(values.size(), want.size());
    const double computed = GetParam() == DType::f64 ? 0x1p-52 : 0x1p-23;
    const double rounded = GetParam() == DType::f16 ? 0x1p-11 : GetParam() == DType::bf16 ? 0x1p-8 : 0;
    const double tiny = GetParam() == DType::f16 ? 0x1p-25 : 0;
    for (std::size_t i = 0; i < want.size(); ++i) {
      const double largest = size ? size(want[i]) : std::max(1.0, std::abs(want[i]));
      EXPECT_NEAR(values[i], want[i], 4 * computed * largest + rounded * std::abs(want[i]) * 1.001 + tiny)
          << "element " << i;
    }
  }

 private:
  std::mt19937 engine_{1};
};

double logistic(double x) { return 1 / (1 + std::exp(-x)); }

TEST_P(OpsValue, Unary) {
  const std::map<std::string, std::function<double(double)>> references{
      {"neg", [](double x) { return -x; }},
      {"sign", [](double x) { return x > 0   ? 1.0
                                     : x < 0 ? -1.0
                                             : 0.0; }},
      {"abs", [](double x) { return std::abs(x); }},
      {"square", [](double x) { return x * x; }},
      {"sqrt", [](double x) { return std::sqrt(x); }},
      {"rsqrt", [](double x) { return 1 / std::sqrt(x); }},
      {"reciprocal", [](double x) { return 1 / x; }},
      {"exp", [](double x) { return std::exp(x); }},
      {"log", [](double x) { return std::log(x); }},
      {"log1p", [](double x) { return std::log1p(x); }},
      {"sin", [](double x) { return std::sin(x); }},
      {"cos", [](double x) { return std::cos(x); }},
      {"tanh", [](double x) { return std::tanh(x); }},
      {"sigmoid", logistic},
      {"relu", [](double x) { return std::max(x, 0.0); }},
      {"gelu", [](double x) { return x * 0.5 * std::erfc(-x / std::sqrt(2.0)); }},
      {"gelu_tanh",
       [](double x) { return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }},
      {"silu", [](double x) { return x * logistic(x); }},
      {"softplus", [](double x) { return std::log1p(std::exp(x)); }},
      {"log_sigmoid", [](double x) { return -std::log1p(std::exp(-x)); }},
      {"erf", [](double x) { return std::erf(x); }},
      {"floor", [](double x) { return std::floor(x); }},
      {"ceil", [](double x) { return std::ceil(x); }},
      {"round", [](double x) { return std::nearbyint(x); }},
  };
  for_each_type(kernels::UnaryOps{}, [&]<class Op>() {
    SCOPED_TRACE(Op::name);
    const auto f = references.at(Op::name);
    for (const Shape& shape : {Shape{}, Shape{0}, Shape{2, 0}, Shape{1}, Shape{3, 41}}) {
      // Steps are defined on either side of their jumps.
      const double low = std::is_base_of_v<kernels::Stepwise, Op> ? -3 : Op::domain_low;
      const Tensor x = draw(shape, low, 4);
      Doubles want;
      for (const double value : x.to_vector()) want.push_back(f(value));
      expect_close(unary<Op>(x), shape, want);
    }
    const Tensor image = channels_last(draw({2, 3, 4, 5}, Op::domain_low, Op::domain_high));
    const Tensor y = unary<Op>(image);
    EXPECT_EQ(y.strides(), image.strides()) << "the layout is kept";
    Doubles want;
    for (const double value : image.to_vector()) want.push_back(f(value));
    expect_close(y, image.shape(), want);
    EXPECT_EQ(unary<Op>(image.slice(3, 1, 5, 2)).to_vector(), y.slice(3, 1, 5, 2).to_vector());
  });
}

TEST_P(OpsValue, Binary) {
  struct Reference {
    Tensor (*f)(const Tensor&, const Tensor&);
    double (*want)(double, double);
  };
  const Reference references[] = {{add, [](double a, double b) { return a + b; }},
                                  {sub, [](double a, double b) { return a - b; }},
                                  {mul, [](double a, double b) { return a * b; }},
                                  {div, [](double a, double b) { return a / b; }},
                                  {pow, [](double a, double b) { return std::pow(a, b); }},
                                  {maximum, [](double a, double b) { return std::max(a, b); }},
                                  {minimum, [](double a, double b) { return std::min(a, b); }}};
  for (const Reference& op : references) {
    // Indices of a [2, 3, 4] result in operands of these shapes.
    const Tensor a = draw({2, 1, 4}, 0.5, 2);
    const Tensor b = draw({3, 1}, 0.5, 2);
    const Doubles x = a.to_vector();
    const Doubles y = b.to_vector();
    Doubles want;
    for (std::int64_t i = 0; i < 2; ++i)
      for (std::int64_t j = 0; j < 3; ++j)
        for (std::int64_t k = 0; k < 4; ++k) want.push_back(op.want(x[at(i * 4 + k)], y[at(j)]));
    expect_close(op.f(a, b), {2, 3, 4}, want);
    EXPECT_EQ(op.f(draw({0, 3}), draw({3})).shape(), (Shape{0, 3}));
    const Tensor image = channels_last(draw({2, 3, 4, 5}, 0.5, 2));
    const Tensor row = draw({5}, 0.5, 2);
    EXPECT_EQ(op.f(image, row).strides(), image.strides());
    EXPECT_EQ(op.f(image, row).to_vector(), op.f(image.contiguous(), row).to_vector());
    EXPECT_EQ(op.f(image, image.transpose(2, 2)).to_vector(), op.f(image.contiguous(), image).to_vector());
  }
  const Tensor x = draw({7});
  Doubles want;
  for (const double value : x.to_vector()) want.push_back(3 - 2 * value);
  expect_close(3 - x * 2, {7}, want, [](double) { return 10.0; });
}

TEST_P(OpsValue, Reductions) {
  const Tensor x = draw({3, 50, 4});
  const Doubles values = x.to_vector();
  // Over the middle dimension, for each of the 12 others.
  const auto each = [&](const std::function<double(const Doubles&)>& f) {
    Doubles want;
    for (std::int64_t i = 0; i < 3; ++i) {
      for (std::int64_t k = 0; k < 4; ++k) {
        Doubles column;
        for (std::int64_t j = 0; j < 50; ++j) column.push_back(values[at((i * 50 + j) * 4 + k)]);
        want.push_back(f(column));
      }
    }
    return want;
  };
  const auto total = [](const Doubles& c) {
    double sum = 0;
    for (const double value : c) sum += value;
    return sum;
  };
  const auto variance = [&](const Doubles& c) {
    double sum = 0;
    for (const double value : c) sum += std::pow(value - total(c) / 50, 2);
    return sum / 49;
  };
  const auto size = [](double) { return 100.0; };
  expect_close(sum(x, {1}), {3, 4}, each(total), size);
  expect_close(sum(x, {1}, true), {3, 1, 4}, each(total), size);
  expect_close(sum(x.transpose(0, 2).contiguous().transpose(0, 2), {1}), {3, 4}, each(total), size);
  expect_close(mean(x, {1}), {3, 4}, each([&](const Doubles& c) { return total(c) / 50; }), size);
  expect_close(amax(x, {1}), {3, 4}, each([](const Doubles& c) { return *std::max_element(c.begin(), c.end()); }));
  expect_close(amin(x, {1}), {3, 4}, each([](const Doubles& c) { return *std::min_element(c.begin(), c.end()); }));
  if (GetParam() == DType::f32 || GetParam() == DType::f64) {  // composed of ops: 16-bit results round in between
    expect_close(var(x, {1}), {3, 4}, each(variance), size);
    expect_close(logsumexp(x, {1}), {3, 4}, each([](const Doubles& c) {
                   double sum = 0;
                   for (const double value : c) sum += std::exp(value);
                   return std::log(sum);
                 }),
                 size);
  }
  const Tensor some = draw({2, 5}, 0.5, 2);
  Doubles products;
  for (std::int64_t i = 0; i < 2; ++i) {
    products.push_back(1);
    for (std::int64_t j = 0; j < 5; ++j) products.back() *= some.to_vector()[at(i * 5 + j)];
  }
  expect_close(prod(some, 1), {2}, products, [](double y) { return 4 * std::abs(y); });
  EXPECT_EQ(sum(draw({3, 0}), {1}).to_vector(), (Doubles{0, 0, 0}));
  EXPECT_EQ(prod(draw({3, 0}), 1).to_vector(), (Doubles{1, 1, 1}));
  EXPECT_TRUE(std::isnan(mean(draw({0})).item()));
  EXPECT_EQ(sum(draw({0, 3}), {1}).shape(), Shape{0});
  // A long sum keeps its digits.
  const Tensor many = full({100'000}, 0.5, {.dtype = GetParam()});
  EXPECT_EQ(mean(many).item(), 0.5);
  EXPECT_EQ(argmax(tensor({1, 3, 3, 2}, {.dtype = GetParam()}), 0).item(), 1);
  EXPECT_EQ(argmin(tensor({4, 3, 1, 1, 2, 9}, {2, 3}, {.dtype = GetParam()}), 1).to_vector(), (Doubles{2, 0}));
}

TEST_P(OpsValue, MatrixProducts) {
  const auto reference = [](const Tensor& a, const Tensor& b, std::int64_t m, std::int64_t k, std::int64_t n) {
    const Doubles x = a.to_vector();
    const Doubles y = b.to_vector();
    Doubles want;
    for (std::int64_t i = 0; i < m; ++i) {
      for (std::int64_t j = 0; j < n; ++j) {
        double sum = 0;
        for (std::int64_t l = 0; l < k; ++l) sum += x[at(i * k + l)] * y[at(l * n + j)];
        want.push_back(sum);
      }
    }
    return want;
  };
  const auto size = [](double) { return 200.0; };
  const Tensor a = draw({17, 33});
  const Tensor b = draw({33, 9});
  const Doubles want = reference(a, b, 17, 33, 9);
  expect_close(matmul(a, b), {17, 9}, want, size);
  EXPECT_EQ(matmul(a, b.transpose(0, 1).contiguous().transpose(0, 1)).to_vector(), matmul(a, b).to_vector());
  expect_close(linear(a, b.transpose(0, 1)), {17, 9}, want, size);
  const Tensor bias = draw({9});
  Doubles shifted = want;
  for (std::size_t i = 0; i < shifted.size(); ++i) shifted[i] += bias.to_vector()[i % 9];
  expect_close(linear(a, b.transpose(0, 1), bias), {17, 9}, shifted, size);
  expect_close(matmul(a.select(0, 2), b), {9}, reference(a.select(0, 2), b, 1, 33, 9), size);
  expect_close(matmul(a, b.select(1, 3)), {17}, reference(a, b.select(1, 3), 17, 33, 1), size);
  expect_close(matmul(a.select(0, 0), b.select(1, 0)), {}, reference(a.select(0, 0), b.select(1, 0), 1, 33, 1), size);
  const Tensor batch = draw({2, 3, 4, 5});
  const Tensor right = draw({3, 5, 2});
  const Tensor product = matmul(batch, right);
  EXPECT_EQ(product.shape(), (Shape{2, 3, 4, 2}));
  for (std::int64_t i = 0; i < 2; ++i) {
    for (std::int64_t j = 0; j < 3; ++j) {
      const Tensor left = batch.select(0, i).select(0, j);
      expect_close(product.select(0, i).select(0, j), {4, 2}, reference(left, right.select(0, j), 4, 5, 2), size);
    }
  }
  EXPECT_EQ(matmul(draw({2, 0}), draw({0, 3})).to_vector(), Doubles(6, 0));
  EXPECT_EQ(matmul(draw({0, 4}), draw({4, 3})).shape(), (Shape{0, 3}));
}

TEST_P(OpsValue, Images) {
  const Tensor x = draw({2, 4, 6, 5});
  const Tensor weight = draw({6, 2, 3, 2});
  const Tensor bias = draw({6});
  const Doubles v = x.to_vector();
  const Doubles w = weight.to_vector();
  // An element of x, or `outside` in the padding.
  const auto pixel = [&](std::int64_t n, std::int64_t c, std::int64_t i, std::int64_t j, double outside) {
    return i < 0 || j < 0 || i >= 6 || j >= 5 ? outside : v[at(((n * 4 + c) * 6 + i) * 5 + j)];
  };
  Doubles want;  // stride (2, 1), padding (1, 2), dilation (1, 2), 2 groups
  for (std::int64_t n = 0; n < 2; ++n)
    for (std::int64_t o = 0; o < 6; ++o)
      for (std::int64_t i = 0; i < 3; ++i)
        for (std::int64_t j = 0; j < 7; ++j) {
          double sum = bias.to_vector()[at(o)];
          for (std::int64_t c = 0; c < 2; ++c)
            for (std::int64_t p = 0; p < 3; ++p)
              for (std::int64_t q = 0; q < 2; ++q)
                sum += pixel(n, o / 3 * 2 + c, i * 2 + p - 1, j + q * 2 - 2, 0) * w[at(((o * 2 + c) * 3 + p) * 2 + q)];
          want.push_back(sum);
        }
  const Conv2dOptions options{.stride = {2, 1}, .padding = {1, 2}, .dilation = {1, 2}, .groups = 2};
  expect_close(conv2d(x, weight, bias, options), {2, 6, 3, 7}, want, [](double) { return 50.0; });
  expect_close(conv2d(channels_last(x), weight, bias, options), {2, 6, 3, 7}, want, [](double) { return 50.0; });

  Doubles largest, averages, inside;  // window (3, 2), stride 2, padding 1
  for (std::int64_t n = 0; n < 2; ++n)
    for (std::int64_t c = 0; c < 4; ++c)
      for (std::int64_t i = 0; i < 3; ++i)
        for (std::int64_t j = 0; j < 3; ++j) {
          double top = -INFINITY, sum = 0, count = 0;
          for (std::int64_t p = 0; p < 3; ++p)
            for (std::int64_t q = 0; q < 2; ++q) {
              top = std::max(top, pixel(n, c, 2 * i + p - 1, 2 * j + q - 1, -INFINITY));
              sum += pixel(n, c, 2 * i + p - 1, 2 * j + q - 1, 0);
              count += !std::isnan(pixel(n, c, 2 * i + p - 1, 2 * j + q - 1, NAN));
            }
          largest.push_back(top);
          averages.push_back(sum / 6);
          inside.push_back(sum / count);
        }
  const PoolOptions pool{.stride = Pair(2), .padding = 1};
  expect_close(max_pool2d(x, {3, 2}, pool), {2, 4, 3, 3}, largest);
  expect_close(avg_pool2d(x, {3, 2}, pool), {2, 4, 3, 3}, averages, [](double) { return 4.0; });
  expect_close(avg_pool2d(channels_last(x), {3, 2}, pool, false), {2, 4, 3, 3}, inside, [](double) { return 8.0; });
  EXPECT_EQ(max_pool2d(draw({0, 2, 4, 4}), 2).shape(), (Shape{0, 2, 2, 2}));
}

TEST_P(OpsValue, SoftmaxAndNorms) {
  const std::int64_t rows = 5, cols = 19;
  const Tensor x = draw({rows, cols}, -6, 6);
  const Tensor weight = draw({cols});
  const Tensor bias = draw({cols});
  const Tensor target = tensor({3, 0, 18, 7, 7}, {.dtype = DType::i64});
  const Doubles w = weight.to_vector(), b = bias.to_vector();
  Doubles shares, logs, losses, layer, rms;
  for (std::int64_t i = 0; i < rows; ++i) {
    const Doubles row = x.select(0, i).to_vector();
    double exps = 0, mean = 0, squares = 0, var = 0;
    for (const double value : row) {
      exps += std::exp(value);
      mean += value / cols;
      squares += value * value / cols;
    }
    for (const double value : row) var += (value - mean) * (value - mean) / cols;
    for (std::size_t j = 0; j < row.size(); ++j) {
      shares.push_back(std::exp(row[j]) / exps);
      logs.push_back(row[j] - std::log(exps));
      layer.push_back((row[j] - mean) / std::sqrt(var + 1e-5) * w[j] + b[j]);
      rms.push_back(row[j] / std::sqrt(squares + 1e-5) * w[j]);
    }
    losses.push_back(-logs[at(i * cols) + at(static_cast<std::int64_t>(target.to_vector()[at(i)]))]);
  }
  const auto size = [](double) { return 16.0; };
  expect_close(softmax(x, 1), {rows, cols}, shares, [](double) { return 2.0; });
  expect_close(log_softmax(x, -1), {rows, cols}, logs, size);
  expect_close(softmax(x.transpose(0, 1), 0).transpose(0, 1), {rows, cols}, shares, [](double) { return 2.0; });
  expect_close(cross_entropy(x, target, {.reduction = LossReduction::none}), {rows}, losses, size);
  expect_close(layer_norm(x, weight, bias), {rows, cols}, layer, size);
  expect_close(rms_norm(x, weight), {rows, cols}, rms, size);
  const NormOfSum of_halves = add_layer_norm(x * 0.5, x * 0.5, weight, bias);
  expect_close(of_halves.norm, {rows, cols}, layer, size);
  EXPECT_EQ(of_halves.sum.to_vector(), x.to_vector());
  expect_close(add_rms_norm(x * 0.5, x * 0.5, weight).norm, {rows, cols}, rms, size);
  expect_close(layer_norm(x.transpose(0, 1).contiguous().transpose(0, 1), weight, bias), {rows, cols}, layer, size);
}

TEST_P(OpsValue, MovingElements) {
  const DType dtype = GetParam();
  const Tensor x = tensor({0, 1, 2, 10, 11, 12}, {2, 3}, {.dtype = dtype});
  const Tensor index = tensor({2, 0, 1, 1}, {2, 2}, {.dtype = DType::i32});
  EXPECT_EQ(gather(x, 1, index).to_vector(), (Doubles{2, 0, 11, 11}));
  EXPECT_EQ(scatter_add(x, 1, index, ones({2, 2}, {.dtype = dtype})).to_vector(), (Doubles{1, 1, 3, 10, 13, 12}));
  EXPECT_EQ(index_select(x, 1, tensor({2, 2, 0}, {.dtype = DType::i64})).to_vector(), (Doubles{2, 2, 0, 12, 12, 10}));
  EXPECT_EQ(embedding(tensor({1, 0, 1}, {3, 1}, {.dtype = DType::i64}), x).to_vector(),
            (Doubles{10, 11, 12, 0, 1, 2, 10, 11, 12}));
  EXPECT_EQ(cat({x, x.slice(0, 1, 2)}).to_vector(), (Doubles{0, 1, 2, 10, 11, 12, 10, 11, 12}));
  EXPECT_EQ(cat({x, x.slice(1, 0, 1)}, 1).to_vector(), (Doubles{0, 1, 2, 0, 10, 11, 12, 10}));
  EXPECT_EQ(stack({x.select(0, 1), x.select(0, 0)}, 1).to_vector(), (Doubles{10, 0, 11, 1, 12, 2}));
  EXPECT_EQ(where(gt(x, scalar(5, {.dtype = dtype})), x, -x).to_vector(), (Doubles{0, -1, -2, 10, 11, 12}));
  EXPECT_EQ(masked_fill(x, gt(x, scalar(5, {.dtype = dtype})), 7).to_vector(), (Doubles{0, 1, 2, 7, 7, 7}));
  EXPECT_EQ(clamp(x, 1, 11).to_vector(), (Doubles{1, 1, 2, 10, 11, 11}));
  EXPECT_EQ(sum_to(x, {3}).to_vector(), (Doubles{10, 12, 14}));
}

INSTANTIATE_TEST_SUITE_P(All, OpsValue, ::testing::Values(DType::f32, DType::f64, DType::f16, DType::bf16),
                         [](const auto& info) { return std::string(name_of(info.param)); });

}  // namespace
