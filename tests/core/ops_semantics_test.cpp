// Where semantics matter: NaN and infinities, integers, comparisons, edge cases of losses, and what bad input is told.
#include <gtest/gtest.h>

#include <cmath>

#include "anneal/core/allocator.h"
#include "anneal/core/autograd.h"
#include "anneal/core/ops.h"
#include "anneal/tests/expect.h"

using namespace anneal;
using anneal::testing::error_of;
using anneal::testing::expect_contains;

namespace {

using Doubles = std::vector<double>;

constexpr double inf = INFINITY;

Tensor f64(std::initializer_list<double> values) { return tensor(values, {.dtype = DType::f64}); }
Tensor i64(std::initializer_list<double> values) { return tensor(values, {.dtype = DType::i64}); }

// Equal, with NaN equal to NaN.
void expect_values(const Tensor& got, const Doubles& want) {
  const Doubles values = got.to_vector();
  ASSERT_EQ(values.size(), want.size());
  for (std::size_t i = 0; i < want.size(); ++i)
    EXPECT_TRUE(values[i] == want[i] || (std::isnan(values[i]) && std::isnan(want[i]))) << i << ": " << values[i];
}

TEST(Semantics, NanAndInfinity) {
  for (const DType dtype : {DType::f32, DType::f64, DType::f16, DType::bf16}) {
    SCOPED_TRACE(name_of(dtype));
    const Tensor x = f64({NAN, inf, -inf, 0}).to(dtype);
    expect_values(maximum(x, scalar(1, {.dtype = dtype})), {NAN, inf, 1, 1});
    expect_values(maximum(scalar(1, {.dtype = dtype}), x), {NAN, inf, 1, 1});
    expect_values(minimum(x, scalar(1, {.dtype = dtype})), {NAN, 1, -inf, 0});
    expect_values(clamp(x, -1, 1), {NAN, 1, -1, 0});
    expect_values(relu(x), {NAN, inf, 0, 0});
    expect_values(exp(x), {NAN, inf, 0, 1});
    expect_values(log(x), {NAN, inf, NAN, -inf});
    expect_values(sqrt(x), {NAN, inf, NAN, 0});
    expect_values(tanh(x), {NAN, 1, -1, 0});
    expect_values(sigmoid(x), {NAN, 1, 0, 0.5});
    expect_values(reciprocal(x), {NAN, 0, 0, inf});
    expect_values(sign(x), {NAN, 1, -1, 0});
    expect_values(softplus(f64({NAN, inf, -inf}).to(dtype)), {NAN, inf, 0});
    expect_values(log_sigmoid(f64({NAN, inf, -inf}).to(dtype)), {NAN, 0, -inf});
    expect_values(amax(x), {NAN});
    expect_values(amin(x.slice(0, 1, 4)), {-inf});
    expect_values(sum(x.slice(0, 1, 3)), {NAN});
    EXPECT_EQ(argmax(x, 0).item(), 0) << "NaN is largest";
    expect_values(eq(x, x), {0, 1, 1, 1});
    expect_values(ne(x, x), {1, 0, 0, 0});
    expect_values(lt(x, scalar(0, {.dtype = dtype})), {0, 0, 1, 0});
    expect_values(softmax(f64({-inf, 0, -inf}).to(dtype), 0), {0, 1, 0});
    expect_values(softmax(f64({-inf, -inf}).to(dtype), 0), {NAN, NAN});
  }
  expect_values(pow(f64({0, 0, -8, NAN, 1, -2}), f64({0, -1, 1.0 / 3, 0, NAN, 3})), {1, inf, NAN, 1, 1, -8});
  expect_values(logsumexp(tensor({-inf, -inf, inf, 0, 1000, 1000}, {3, 2}, {.dtype = DType::f64}), {1}),
                {-inf, inf, 1000 + std::log(2.0)});
}

TEST(Semantics, Integers) {
  for (const DType dtype : {DType::i64, DType::i32}) {
    const Tensor a = tensor({7, -7, 5, 0, -1}, {.dtype = dtype});
    const Tensor b = tensor({2, 2, 0, 3, -1}, {.dtype = dtype});
    expect_values(a + b, {9, -5, 5, 3, -2});
    expect_values(a * 2, {14, -14, 10, 0, -2});
    expect_values(a / b, {3, -3, 0, 0, 1});
    expect_values(pow(a, b), {49, 49, 1, 0, -1});
    expect_values(maximum(a, b), {7, 2, 5, 3, -1});
    expect_values(clamp(a, -2, 6), {6, -2, 5, 0, -1});
    expect_values(sum(a), {4});
    expect_values(amax(a), {7});
    expect_values(prod(a, 0), {0});
    EXPECT_EQ(argmin(a, 0).item(), 1);
    EXPECT_FALSE((a + b).requires_grad());
  }
  const Tensor bytes = tensor({250, 3}, {.dtype = DType::u8});
  expect_values(bytes + 10, {4, 13});  // wraps around
  expect_contains(error_of([&] { sum(bytes); }), "sum: convert u8 to a wider dtype first");
  expect_contains(error_of([&] { mean(i64({1})); }), "mean: expected a floating dtype, got i64");
  expect_contains(error_of([&] { exp(i64({1})); }), "exp: expected a floating dtype, got i64");
  expect_values(eq(bytes, tensor({3, 3}, {.dtype = DType::u8})), {0, 1});
  // Smallest by -1 has no positive counterpart.
  const Tensor smallest = empty({1}, {.dtype = DType::i64});
  *smallest.data<std::int64_t>() = INT64_MIN;
  EXPECT_EQ(*(smallest / i64({-1})).data<std::int64_t>(), INT64_MIN);
}

TEST(Semantics, Comparisons) {
  const Tensor a = f64({1, 2, 3});
  const Tensor b = f64({2, 2, 2});
  EXPECT_EQ(lt(a, b).dtype(), DType::boolean);
  expect_values(eq(a, b), {0, 1, 0});
  expect_values(ne(a, b), {1, 0, 1});
  expect_values(lt(a, b), {1, 0, 0});
  expect_values(le(a, b), {1, 1, 0});
  expect_values(gt(a, b), {0, 0, 1});
  expect_values(ge(a, b), {0, 1, 1});
  EXPECT_EQ(lt(f64({1, 2}).unsqueeze(1), a).shape(), (Shape{2, 3}));
  EXPECT_FALSE(lt(tensor({1}, {.requires_grad = true}), scalar(2)).requires_grad());
}

TEST(Semantics, OneHotAndArguments) {
  const Tensor y = one_hot(tensor({2, 0, 1, 1}, {2, 2}, {.dtype = DType::i64}), 3);
  EXPECT_EQ(y.shape(), (Shape{2, 2, 3}));
  EXPECT_EQ(y.dtype(), DType::f32);
  expect_values(y, {0, 0, 1, 1, 0, 0, 0, 1, 0, 0, 1, 0});
  EXPECT_EQ(one_hot(i64({}), 3).shape(), (Shape{0, 3}));
  expect_contains(error_of([] { one_hot(i64({3}), 3); }), "index 3 at position 0 is not in [0, 3)");
  const Tensor x = tensor({1, 5, 5, 9, 2, 9}, {2, 3});
  expect_values(argmax(x, 1), {1, 0});
  expect_values(argmax(x, 0), {1, 0, 1});
  EXPECT_EQ(argmax(x, 1, true).shape(), (Shape{2, 1}));
  expect_values(argmax(x.transpose(0, 1), 0), {1, 0});
  expect_contains(error_of([] { argmax(zeros({2, 0}), 1); }), "argmax: nothing to choose from in shape [2, 0]");
  EXPECT_EQ(argmax(zeros({0, 2}), 1).shape(), Shape{0});
}

TEST(Semantics, CrossEntropyLeavesLogitsAndRetainedGraphsAlone) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    const Tensor logits = tensor({1, 2, 3, 1, 1, 1}, {2, 3}, {.dtype = dtype, .requires_grad = true});
    const Tensor loss = cross_entropy(logits, i64({2, 0}));
    EXPECT_EQ(loss.dtype(), dtype);
    backward(loss, scalar(64, {.dtype = dtype}), {.retain_graph = true});
    const Doubles scaled = logits.grad().to_vector();
    logits.zero_grad();
    backward(loss, {}, {.retain_graph = false});
    const Doubles plain = logits.grad().to_vector();
    for (std::size_t i = 0; i < plain.size(); ++i) EXPECT_EQ(scaled[i], 64 * plain[i]);
    expect_values(logits, {1, 2, 3, 1, 1, 1});
  }
}

TEST(Semantics, CrossEntropyGivesItsGradientTheMemoryOfATemporary) {
  const Tensor target = i64({2, 0, 1, 2});
  const auto requests = [](const auto& call) {
    const std::size_t before = allocator().stats().requests;
    call();
    return allocator().stats().requests - before;
  };
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16}) {
    const Tensor leaf = tensor({1, 2, 3, 1, 1, 1, 0, -2, 5, 4, 4, 3}, {4, 3}, {.dtype = dtype, .requires_grad = true});
    const auto gradient_of = [&](const Tensor& loss) {
      leaf.zero_grad();
      loss.backward();
      return leaf.grad().to_vector();
    };
    const Tensor kept = leaf + 0;
    Tensor loss;
    const std::size_t beside = requests([&] { loss = cross_entropy(kept, target); });
    const Doubles expected = gradient_of(loss);
    EXPECT_EQ(kept.to_vector(), leaf.to_vector());

    Tensor temporary = leaf + 0;
    EXPECT_EQ(requests([&] { loss = cross_entropy(std::move(temporary), target); }), beside - 1);
    EXPECT_EQ(gradient_of(loss), expected);
    // A view of a temporary is one; what somebody else holds is not, nor is memory from elsewhere.
    EXPECT_EQ(gradient_of(cross_entropy((leaf + 0).view({2, 2, 3}).flatten(0, 1), target)), expected);
    temporary = (leaf + 0).reshape({2, 2, 3});
    EXPECT_EQ(requests([&] { loss = cross_entropy(std::move(temporary).view({-1, 3}), target); }), beside - 1);
    EXPECT_EQ(gradient_of(loss), expected);
    EXPECT_EQ(requests([&] { cross_entropy(Tensor(kept), target); }), beside);
    EXPECT_EQ(requests([&] { cross_entropy(kept.view({4, 3}), target); }), beside);
    EXPECT_EQ(kept.to_vector(), leaf.to_vector());
  }
  std::vector<float> memory{1, 2, 3};
  cross_entropy(from_blob(memory.data(), {1, 3}, {.requires_grad = true}), i64({2})).backward();
  EXPECT_EQ(memory, (std::vector<float>{1, 2, 3}));
}

TEST(Semantics, CrossEntropyEdges) {
  const Tensor logits = tensor({1, 2, 3, 1, 1, 1}, {2, 3}, {.dtype = DType::f64, .requires_grad = true});
  EXPECT_TRUE(std::isnan(cross_entropy(logits, i64({-100, -100})).item()));
  EXPECT_EQ(cross_entropy(logits, i64({-100, -100}), {.reduction = LossReduction::sum}).item(), 0);
  expect_values(cross_entropy(logits, i64({-100, 1}), {.reduction = LossReduction::none}), {0, std::log(3.0)});
  EXPECT_TRUE(std::isnan(cross_entropy(zeros({0, 3}), i64({})).item()));
  // Large logits do not overflow, and a class that is impossible costs infinity.
  EXPECT_NEAR(cross_entropy(tensor({1e4, 0}, {1, 2}), i64({1})).item(), 1e4, 1e-3);
  EXPECT_EQ(cross_entropy(tensor({0, -inf}, {1, 2}), i64({1})).item(), inf);
  // Ignored rows get a gradient of 0.
  cross_entropy(logits, i64({2, -100})).backward();
  EXPECT_EQ(logits.grad().select(0, 1).to_vector(), Doubles(3, 0));
  EXPECT_EQ(error_of([&] {
              cross_entropy(logits, i64({0, 3}));
            }),
            "cross_entropy: target 3 at 1 is not one of the 3 classes 0 to 2");
  expect_contains(error_of([&] { cross_entropy(logits, i64({0, -1})); }), "target -1 at 1");
  expect_contains(error_of([&] { cross_entropy(logits, i64({0})); }),
                  "logits [2, 3] need a target of shape [2], got i64 [1]");
  expect_contains(error_of([&] { cross_entropy(logits, f64({0, 1})); }), "need a target of shape [2, 3]");
  expect_contains(error_of([&] { cross_entropy(logits, i64({0, 1}), {.label_smoothing = 2}); }), "label_smoothing 2");
  expect_contains(error_of([&] { cross_entropy(f64({1}), i64({0})); }), "expected logits [n, classes]");
}

TEST(Semantics, Dropout) {
  Generator generator(1);
  const Tensor x = ones({1000});
  EXPECT_TRUE(dropout(x, 0, generator).same(x));
  EXPECT_EQ(sum(dropout(x, 1, generator)).item(), 0);
  expect_contains(error_of([&] { dropout(x, 1.5, generator); }), "p 1.5 is not in [0, 1]");
  // The mask of backward is that of forward.
  const Tensor w = ones({1000}, {.requires_grad = true});
  const Tensor y = dropout(w, 0.3, generator);
  sum(y).backward();
  EXPECT_EQ(w.grad().to_vector(), y.to_vector());
}

TEST(Semantics, ErrorsNameTheOpAndTheShapes) {
  const Tensor x = zeros({2, 3});
  EXPECT_EQ(error_of([&] { x + zeros({2}); }), "add: shapes [2, 3] and [2] do not broadcast");
  expect_contains(error_of([&] {
                    x* zeros({2, 3}, {.dtype = DType::f64});
                  }),
                  "mul: expected operands of one dtype, got f32 and f64");
  expect_contains(error_of([&] { where(x, x, x); }), "where: expected a bool condition, got f32");
  expect_contains(error_of([&] { matmul(x, x); }), "[2, 3]");
  expect_contains(error_of([&] { matmul(x, scalar(1)); }), "matmul");
  expect_contains(error_of([&] { linear(x, zeros({4, 5})); }), "linear");
  expect_contains(error_of([&] { linear(x, zeros({4, 3}), zeros({3})); }), "linear");
  expect_contains(error_of([&] {
                    conv2d(zeros({1, 3, 4, 4}), zeros({2, 2, 3, 3}));
                  }),
                  "conv2d: x [1, 3, 4, 4] has 3 channels");
  expect_contains(error_of([&] {
                    conv1d(zeros({1, 3, 4, 4}), zeros({2, 3, 3}));
                  }),
                  "conv1d: expected x [n, c, length] and weight [out, in, k], got [1, 3, 4, 4] and [2, 3, 3]");
  expect_contains(error_of([&] {
                    conv2d(zeros({1, 2, 2, 2}), zeros({2, 2, 3, 3}));
                  }),
                  "does not fit into x [1, 2, 2, 2]");
  expect_contains(error_of([&] { max_pool2d(zeros({1, 1, 4, 4}), 2, {.padding = 2}); }), "at most half of the window");
  expect_contains(error_of([&] { max_pool2d(x, 2); }), "expected x [n, c, h, w], got [2, 3]");
  expect_contains(error_of([&] { layer_norm(x, zeros({2})); }), "layer_norm");
  expect_contains(error_of([&] { batch_norm(zeros({1, 3}), {}, {}); }), "more than one value a channel");
  expect_contains(error_of([&] { batch_norm(x, {}, {}, {}, {}, {.training = false}); }), "needs running statistics");
  expect_contains(error_of([&] { sum(x, {0, -2}); }), "sum: dimension -2 is given twice");
  expect_contains(error_of([&] { sum(x, {2}); }), "dimension 2 does not exist in shape [2, 3]");
  expect_contains(error_of([&] { amax(zeros({2, 0}), {1}); }), "amax: nothing to reduce in shape [2, 0]");
  expect_contains(error_of([&] { gather(x, 0, i64({0})); }), "must have as many dimensions");
  expect_contains(error_of([&] { gather(x, 1, f64({0, 0}).unsqueeze(1)); }), "expected indices of i64 or i32, got f64");
  expect_contains(error_of([&] { index_select(x, 1, i64({0, 3})); }), "index 3");
  expect_contains(error_of([&] { embedding(i64({0, -1}), x); }), "embedding: index -1 at position 1 is not in [0, 2)");
  expect_contains(error_of([&] { cat({x, zeros({2})}); }), "cat: f32 [2, 3] and f32 [2] do not fit along dimension 0");
  expect_contains(error_of([&] { cat(std::span<const Tensor>()); }), "expected at least one tensor");
  expect_contains(error_of([&] { stack({x, zeros({3, 2})}); }), "stack: shapes [2, 3] and [3, 2] differ");
  expect_contains(error_of([&] { clamp(x, 2, 1); }), "clamp: low 2 is above high 1");
  expect_contains(error_of([&] { randint(3, 3, {2}); }), "nothing in [3, 3)");
  expect_contains(error_of([&] { rand({2}, {.dtype = DType::i64}); }), "expected a floating dtype");
  expect_contains(error_of([&] { softmax(x, 2); }), "dimension 2 does not exist");
  expect_contains(error_of([&] { nll_loss(x, i64({0, 1, 2})); }), "nll_loss");
}

}  // namespace
