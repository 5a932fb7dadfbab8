// Tensors of a GPU do what those of the CPU do. Built with a backend for GPUs, which may be the emulation of one;
// without a device there is only the error that says so.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <memory>

#include "anneal/anneal.h"
#include "anneal/core/autocast.h"
#include "anneal/tests/core/gradient_cases_all.h"
#include "anneal/tests/expect.h"

using namespace anneal;
using namespace anneal::testing;

namespace {

using Doubles = std::vector<double>;

constexpr Device cuda{DeviceKind::cuda};

TEST(GpuDevice, AMissingOneIsAClearError) {
  const int count = device_count(DeviceKind::cuda);
  const std::string last = format("cuda:{}", count);
  const std::string what = count == 0 ? "cuda:0: no " : last + ": this machine has " + std::to_string(count);
  const Device missing{DeviceKind::cuda, static_cast<std::int8_t>(count)};
  for (const std::string& text :
       {error_of([&] { Device::parse(last); }), error_of([&] { zeros({2}, {.device = missing}); }), error_of([&] {
          tensor({1, 2}).to(missing);
        }),
        error_of([&] { nn::Linear(2, 3).to(missing); }), error_of([&] { synchronize(missing); })})
    EXPECT_EQ(text.substr(0, what.size()), what) << text;
  if (count == 0) {
    expect_contains(error_of([] { tensor({1}).pin_memory(); }), what);
    expect_contains(error_of([] { Device::parse("cuda"); }), "(cudaGetDeviceCount: ");
  }
}

class OnGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    if (device_count(DeviceKind::cuda) == 0)
      GTEST_SKIP() << "NOT TESTED, for want of a GPU: " << error_of([] { Device::parse("cuda"); });
  }
};

void expect_same(const Tensor& got, const Tensor& want, double tolerance, const std::string& what) {
  ASSERT_EQ(got.defined(), want.defined()) << what;
  if (!want.defined()) return;
  ASSERT_EQ(got.shape(), want.shape()) << what;
  ASSERT_EQ(got.dtype(), want.dtype()) << what;
  const Doubles g = got.to_vector(), w = want.to_vector();
  for (std::size_t i = 0; i < w.size(); ++i) {
    const bool same = g[i] == w[i] || (std::isnan(g[i]) && std::isnan(w[i]));
    ASSERT_TRUE(same || std::abs(g[i] - w[i]) <= tolerance * (1 + std::abs(w[i])))
        << what << " at " << i << ": " << g[i] << ", on the CPU " << w[i];
  }
}

// ---- every differentiable op ----

struct OpResult {
  Tensor value;
  std::vector<Tensor> gradients;
};
// Each case's function, with all its operands in one dtype on one device, and the gradients of a weighted sum.
std::vector<OpResult> run_cases(DType dtype, Device device) {
  options_of_cases = {.dtype = dtype, .device = device};
  std::vector<OpResult> results;
  for (const GradientCase& c : gradient_cases()) {
    SCOPED_TRACE(c.name);
    std::vector<Tensor> leaves;
    for (const Tensor& x : leaves_of(c)) leaves.push_back(x.detach().clone().to(dtype).to(device).set_requires_grad());
    OpResult& result = results.emplace_back(c.f(leaves));
    if (!result.value.requires_grad()) continue;
    result.value.backward(uniform(result.value.shape()).to(result.value.dtype()).to(result.value.device()));
    for (const Tensor& leaf : leaves) {
      result.gradients.push_back(leaf.grad());
      EXPECT_TRUE(!leaf.grad().defined() || leaf.grad().device() == device);
    }
  }
  options_of_cases = {.dtype = DType::f64};
  return results;
}

TEST_F(OnGpu, EveryOpAndItsGradients) {
  const std::vector<GradientCase> cases = gradient_cases();
  for (const DType dtype : {DType::f64, DType::f32}) {
    const double tolerance = dtype == DType::f64 ? 1e-10 : 1e-4;
    const std::vector<OpResult> here = run_cases(dtype, {}), there = run_cases(dtype, cuda);
    for (std::size_t i = 0; i < cases.size(); ++i) {
      SCOPED_TRACE(format("{} {}", cases[i].name, name_of(dtype)));
      expect_same(there[i].value, here[i].value, tolerance, "value");
      ASSERT_EQ(there[i].gradients.size(), here[i].gradients.size());
      for (std::size_t k = 0; k < here[i].gradients.size(); ++k)
        expect_same(there[i].gradients[k], here[i].gradients[k], tolerance, "gradient " + std::to_string(k));
    }
  }
}

// ---- between devices ----

TEST_F(OnGpu, TensorsGoThereAndBack) {
  for (const DType dtype :
       {DType::f32, DType::f64, DType::f16, DType::bf16, DType::i64, DType::i32, DType::u8, DType::boolean}) {
    const Tensor x = (arange(24) / 3.0).to(dtype).reshape({4, 6});
    const Tensor there = x.to(cuda);
    EXPECT_EQ(there.device(), cuda);
    EXPECT_TRUE(there.to(cuda).same(there));
    EXPECT_EQ(there.to_vector(), x.to_vector());
    EXPECT_EQ(x.transpose(0, 1).slice(0, 1, 6, 2).to(cuda).to_vector(),
              there.transpose(0, 1).slice(0, 1, 6, 2).to(Device{}).to_vector());
    EXPECT_EQ(there.to(DType::f32).to_vector(), x.to(DType::f32).to_vector());
    EXPECT_EQ(x.pin_memory().to(cuda).to_vector(), x.to_vector());
    EXPECT_EQ(zeros({3}, {.dtype = dtype, .device = cuda}).copy_(tensor({1, 0, 1})).to_vector(), (Doubles{1, 0, 1}));
  }
  EXPECT_EQ(tensor({1, 2}, {.device = cuda}).to_vector(), (Doubles{1, 2}));
  EXPECT_EQ(scalar(7, {.device = cuda}).item(), 7);
  EXPECT_EQ(arange(3, {.device = cuda}).to_vector(), (Doubles{0, 1, 2}));
  EXPECT_EQ(zeros({0, 3}, {.device = cuda}).to(Device{}).shape(), (Shape{0, 3}));
}

TEST_F(OnGpu, MovingIsDifferentiable) {
  const Tensor x = leaf({1, 2, 3});
  sum(square(x.to(cuda)).to(Device{}) * 2).backward();
  EXPECT_EQ(x.grad().device(), Device{});
  EXPECT_EQ(x.grad().to_vector(), (Doubles{4, 8, 12}));
}

TEST_F(OnGpu, DevicesAreNotMixed) {
  const Tensor here = tensor({1, 2}), there = here.to(cuda);
  const Tensor image = ones({1, 1, 2, 2}), label = arange(1), mask = gt(here, here);
  for (const std::string& text :
       {error_of([&] { here + there; }), error_of([&] { matmul(there, here); }), error_of([&] {
          linear(here, ones({1, 2}), ones({1}, {.device = cuda}));
        }),
        error_of([&] { conv2d(image, image.to(cuda)); }), error_of([&] { gather(there, 0, arange(2)); }),
        error_of([&] { scatter_add(here, 0, arange(2), there); }), error_of([&] {
          embedding(label, ones({1, 2}, {.device = cuda}));
        }),
        error_of([&] { where(mask, there, there); }), error_of([&] {
          cat({here, there});
        }),
        error_of([&] {
          cross_entropy(ones({1, 2}, {.device = cuda}), label);
        }),
        error_of([&] { layer_norm(there, here); }), error_of([&] { batch_norm(image.to(cuda), ones({1}), ones({1})); }),
        error_of([&] { here.clone().add_(there); }),
        error_of([&] { square(there.clone().set_requires_grad()).backward(here); })}) {
    expect_contains(text, "cpu");
    expect_contains(text, "cuda:0");
  }
  expect_contains(error_of([&] { there.data<float>(); }), "cuda:0");
}

TEST_F(OnGpu, ABadIndexIsThrownWhereTheHostWaits) {
  const Tensor table = zeros({3, 2}, {.device = cuda});
  embedding(tensor({0, 7, 9}, {.dtype = DType::i64, .device = cuda}), table);
  expect_contains(error_of([] { synchronize(cuda); }), "embedding: the index at position 1 was out of range");
  synchronize(cuda);  // said once
  EXPECT_EQ(table.to_vector(), (Doubles(6, 0)));
}

TEST_F(OnGpu, RandomNumbersAreThoseOfTheCpu) {
  const auto draw = [](Device device) {
    manual_seed(5);
    const TensorOptions options{.device = device};
    std::vector<Tensor> drawn = {rand({1000}, options),
                                 randint(0, 1000, {1000}, {.dtype = DType::i64, .device = device}),
                                 dropout(ones({1000}, options), 0.3), randn({1000}, options)};
    return drawn;
  };
  const std::vector<Tensor> here = draw({}), there = draw(cuda);
  for (std::size_t i = 0; i < here.size(); ++i) expect_same(there[i], here[i], i == 3 ? 1e-5 : 0, std::to_string(i));
}

// ---- training ----

using MakeOptimizer = std::function<std::unique_ptr<optim::Optimizer>(std::vector<NamedTensor>)>;

struct Trained {
  Doubles losses;
  StateDict model, optimizer;
};
Trained train(Device device, const MakeOptimizer& make, std::optional<DType> precision) {
  manual_seed(3);
  nn::Sequential net(nn::Conv2d(1, 4, 3, {.padding = 1, .bias = false}), nn::BatchNorm2d(4), nn::ReLU(),
                     nn::MaxPool2d(2), nn::Flatten(), nn::Linear(36, 10));
  const Tensor x = randn({16, 1, 6, 6}), y = randint(0, 10, {16});
  net.to(device);
  const auto optimizer = make(net.parameters());
  optim::GradScaler scaler({.init_scale = 64});
  if (precision) optimizer->keep_twins(*precision);
  Trained result;
  for (int step = 0; step < 5; ++step) {
    const Autocast cast(precision);
    const Tensor loss = cross_entropy(net(x.to(device)), y.to(device));
    scaler.scale(loss).backward();
    optimizer->step({.clip_norm = 0.5, .scaler = &scaler});
    optimizer->zero_grad();
    result.losses.push_back(loss.item());
  }
  EXPECT_GT(optimizer->grad_norm().item(), 0);
  EXPECT_LT(result.losses.back(), result.losses.front());
  result.model = net.state_dict();
  result.optimizer = optimizer->state_dict();
  return result;
}

TEST_F(OnGpu, TrainingFollowsTheCpu) {
  const std::pair<const char*, MakeOptimizer> optimizers[] = {
      {"SGD", [](auto p) { return std::make_unique<optim::SGD>(p, optim::SGDOptions{.lr = 0.1, .momentum = 0.9}); }},
      {"Adam", [](auto p) { return std::make_unique<optim::Adam>(p, optim::AdamOptions{.lr = 1e-2}); }},
      {"AdamW", [](auto p) { return std::make_unique<optim::AdamW>(p, optim::AdamWOptions{.lr = 1e-2}); }}};
  for (const auto& [name, make] : optimizers) {
    for (const std::optional<DType> precision : {std::optional<DType>{}, std::optional(DType::bf16)}) {
      SCOPED_TRACE(format("{} {}", name, name_of(precision.value_or(DType::f32))));
      const double tolerance = precision ? 0.1 : 2e-3;
      const Trained here = train({}, make, precision), there = train(cuda, make, precision);
      for (std::size_t i = 0; i < here.losses.size(); ++i) EXPECT_NEAR(there.losses[i], here.losses[i], tolerance);
      ASSERT_EQ(there.model.size(), here.model.size());
      if (!precision)
        for (std::size_t i = 0; i < here.model.size(); ++i)
          expect_same(there.model[i].tensor, here.model[i].tensor, tolerance, here.model[i].name);
      ASSERT_EQ(there.optimizer.size(), here.optimizer.size());
      // What the device computes is the same bits in every run.
      const Trained again = train(cuda, make, precision);
      EXPECT_EQ(again.losses, there.losses);
      for (std::size_t i = 0; i < there.model.size(); ++i)
        EXPECT_EQ(again.model[i].tensor.to_vector(), there.model[i].tensor.to_vector()) << there.model[i].name;
    }
  }
}

}  // namespace
