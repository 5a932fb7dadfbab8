// Who looks at ops sees their kernels: names, FLOPs and bytes.
#include "anneal/core/op_observer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#include "anneal/core/autograd.h"
#include "anneal/core/device_mark.h"
#include "anneal/core/ops.h"

namespace anneal_test {
namespace {

using namespace anneal;

struct Recorder : OpObserver {
  std::vector<kernels::Work> work;
  int ends = 0;
  void begin(const kernels::Work& w, Device) override { work.push_back(w); }
  void end(Device) override { ++ends; }
  std::vector<std::string> names() const {
    std::vector<std::string> list;
    for (const auto& w : work) list.push_back(w.name);
    return list;
  }
};

using Names = std::vector<std::string>;

// What f's only kernel does.
template <class F>
kernels::Work work_in(F&& f) {
  Recorder recorder;
  recorder.observe(true);
  f();
  EXPECT_EQ(recorder.work.size(), 1u);
  EXPECT_EQ(recorder.ends, 1);
  return recorder.work.at(0);
}
void expect(const kernels::Work& work, const std::string& name, double flops, double bytes) {
  EXPECT_EQ(work.name, name);
  EXPECT_EQ(work.flops, flops) << name;
  EXPECT_EQ(work.bytes, bytes) << name;
}

TEST(OpObserver, CountsProducts) {
  const Tensor a = ones({2, 3}), b = ones({3, 4}), batch = ones({5, 2, 3}), batch2 = ones({5, 3, 4});
  const Tensor weight = ones({4, 3}), bias = ones({4});
  expect(work_in([&] { matmul(a, b); }), "gemm", 48, (6 + 12 + 8) * 4);
  expect(work_in([&] { matmul(batch, batch2); }), "gemm", 5 * 48, 5 * (6 + 12 + 8) * 4);
  expect(work_in([&] { linear(a, weight, bias); }), "gemm", 48, (6 + 12 + 4 + 8) * 4);
}

TEST(OpObserver, CountsConvolutions) {
  const Tensor x = ones({2, 4, 5, 5}), weight = ones({6, 4, 3, 3}), grouped = ones({6, 2, 3, 3});
  expect(work_in([&] { conv2d(x, weight, {}, {.padding = 1}); }), "conv2d", 2.0 * (2 * 6 * 25) * (4 * 9),
         (2 * 4 * 25 + 6 * 4 * 9 + 2 * 6 * 25) * 4);
  expect(work_in([&] { conv2d(x, grouped, {}, {.groups = 2}); }), "conv2d", 2.0 * (2 * 6 * 9) * (2 * 9),
         (2 * 4 * 25 + 6 * 2 * 9 + 2 * 6 * 9) * 4);
}

TEST(OpObserver, CountsWhatAttentionSees) {
  const Tensor q = ones({1, 2, 6, 8}), k = ones({1, 2, 4, 8});
  const auto attend = [&](bool causal) {
    return work_in([&] { scaled_dot_product_attention(q, k, k, {.is_causal = causal}); });
  };
  expect(attend(false), "attention", 2.0 * 2 * (6 * 4) * (8 + 8), (2 * 2 * 6 * 8 + 2 * 2 * 4 * 8 + 2 * 6) * 4);
  EXPECT_EQ(attend(true).flops, 2.0 * 2 * (1 + 2 + 3 + 4 + 4 + 4) * (8 + 8));
}

TEST(OpObserver, OtherOpsHaveBytesOnly) {
  const Tensor x = ones({2, 3}), row = ones({3});
  expect(work_in([&] { relu(x); }), "relu", 0, 2 * 6 * 4);
  expect(work_in([&] { add(x, row); }), "add", 0, (6 + 3 + 6) * 4);
  expect(work_in([&] { lt(x, row); }), "lt", 0, (6 + 3) * 4 + 6);
  expect(work_in([&] { x.to(DType::f64); }), "copy", 0, 6 * (4 + 8));
  expect(work_in([&] { sum(x, {1}); }), "sum", 0, (6 + 2) * 4);
}

TEST(OpObserver, SeesBackward) {
  Tensor w = ones({4, 3});
  w.set_requires_grad();
  const Tensor x = ones({2, 3});
  const Tensor loss = sum(relu(linear(x, w)));
  Recorder recorder;
  recorder.observe(true);
  loss.backward();
  const Names names = recorder.names();
  EXPECT_EQ(std::count(names.begin(), names.end(), "relu_grad"), 1);
  EXPECT_EQ(std::count(names.begin(), names.end(), "gemm"), 1);  // of the weight: x wants no gradient
  EXPECT_EQ(recorder.ends, static_cast<int>(names.size()));
}

TEST(OpObserver, SeesNoAdditionWhereKernelsAdd) {
  const Tensor x = ones({2, 3}).set_requires_grad(), w = ones({3, 3}).set_requires_grad();
  const NormOfSum h = add_layer_norm(x * 2, x * 3);
  const Tensor loss = sum((h.sum + linear(h.norm, w)) * 2);
  Recorder recorder;
  recorder.observe(true);
  loss.backward();
  const Names names = recorder.names();
  EXPECT_EQ(std::count(names.begin(), names.end(), "add"), 1) << "of x * 2 and x * 3";
  EXPECT_EQ(std::count(names.begin(), names.end(), "layer_norm_grad"), 1);
}

TEST(OpObserver, TellsFunctionsFromTheirDerivatives) {
  Tensor x = ones({4});
  x.set_requires_grad();
  Recorder recorder;
  recorder.observe(true);
  const Tensor y = exp(x);
  const std::vector<Tensor> dx = grad(y, {x}, {.create_graph = true}, ones({4}));
  grad(dx[0], {x}, {}, ones({4}));
  const Names names = recorder.names();
  for (const char* name : {"exp", "exp_grad", "exp_grad_grad"})
    EXPECT_NE(std::find(names.begin(), names.end(), name), names.end()) << name;
}

TEST(OpObserver, SeveralLookUntilEachEnds) {
  const Tensor x = ones({2});
  Recorder first;
  first.observe(true);
  first.observe(true);  // once is enough
  {
    Recorder second;
    second.observe(true);
    relu(x);
    EXPECT_EQ(second.names(), Names{"relu"});
    first.observe(false);
    neg(x);
    EXPECT_EQ(second.names(), (Names{"relu", "neg"}));
    first.observe(true);
  }
  exp(x);
  EXPECT_EQ(first.names(), (Names{"relu", "exp"}));
  std::thread([&] { neg(x); }).join();  // another thread's ops are its own
  EXPECT_EQ(first.work.size(), 2u);
  first.observe(false);
  EXPECT_FALSE(OpObserver::any());
}

TEST(FlopCounter, AddsUp) {
  FlopCounter counter;
  matmul(ones({2, 3}), ones({3, 4}));
  counter.observe(true);
  relu(matmul(ones({2, 3}), ones({3, 4})));
  matmul(ones({2, 3}), ones({3, 4}));
  EXPECT_EQ(counter.flops(), 96);
}

TEST(DeviceMark, MarksFollowEachOther) {
  const DeviceMark first, second;
  EXPECT_TRUE(first.passed());
  EXPECT_GE(second.seconds_since(first), 0);
  EXPECT_EQ(first.seconds_since(first), 0);
}

}  // namespace
}  // namespace anneal_test
