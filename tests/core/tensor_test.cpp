// Tensors as containers: making, viewing, converting, printing them, and what bad input is told.
#include "anneal/core/tensor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <sstream>

#include "anneal/core/autograd.h"
#include "anneal/core/ops.h"
#include "anneal/tests/expect.h"

using namespace anneal;
using anneal::testing::error_of;
using anneal::testing::expect_contains;

namespace {

using Doubles = std::vector<double>;

constexpr DType all_dtypes[] = {DType::f32, DType::f64, DType::f16, DType::bf16,
                                DType::i64, DType::i32, DType::u8,  DType::boolean};

std::string text_of(const Tensor& x) {
  std::ostringstream out;
  out << x;
  return out.str();
}
// 0, 1, 2, ... in a shape.
Tensor counted(const Shape& shape, DType dtype = DType::f64) {
  return arange(shape.numel(), {.dtype = dtype}).reshape(shape);
}

// ---- shapes ----

TEST(ShapeTest, SizesAndDimensions) {
  Shape shape{2, 3, 4};
  EXPECT_EQ(shape.rank(), 3);
  EXPECT_EQ(shape.numel(), 24);
  EXPECT_EQ(shape[-1], 4);
  EXPECT_EQ(Shape{}.numel(), 1);
  EXPECT_EQ((Shape{2, 0, 3}).numel(), 0);
  EXPECT_EQ(shape.without(1), (Shape{2, 4}));
  EXPECT_EQ(shape.without(-1), (Shape{2, 3}));
  EXPECT_EQ(shape.with(3, 7), (Shape{2, 3, 4, 7}));
  EXPECT_EQ(shape.with(0, 7), (Shape{7, 2, 3, 4}));
  EXPECT_EQ(shape.contiguous_strides(), (Shape{12, 4, 1}));
  EXPECT_EQ((Shape{2, 0, 3}).contiguous_strides(), (Shape{3, 3, 1}));
  shape[1] = 9;
  EXPECT_EQ(shape, (Shape{2, 9, 4}));
  EXPECT_FALSE(shape == (Shape{2, 9}));
  EXPECT_EQ(error_of([&] { shape[3]; }), "dimension 3 does not exist in shape [2, 9, 4], which has 3 dimensions");
  expect_contains(error_of([&] { shape[-4]; }), "dimension -4");
  expect_contains(error_of([&] { shape.with(4, 1); }), "dimension 4");
  expect_contains(error_of([] { Shape{1, 1, 1, 1, 1, 1, 1, 1, 1}; }), "at most 8 dimensions, got 9");
  expect_contains(error_of([] { Shape({1, 1, 1, 1, 1, 1, 1, 1}).with(0, 1); }), "at most 8 dimensions");
}

TEST(ShapeTest, Broadcasts) {
  EXPECT_EQ(broadcast({2, 1, 3}, {4, 1}, "op"), (Shape{2, 4, 3}));
  EXPECT_EQ(broadcast({}, {2}, "op"), (Shape{2}));
  EXPECT_EQ(broadcast({1}, {0}, "op"), (Shape{0}));
  EXPECT_EQ(broadcast({5, 0}, {1, 1}, "op"), (Shape{5, 0}));
  EXPECT_EQ(error_of([] { broadcast({2, 3}, {2}, "add"); }), "add: shapes [2, 3] and [2] do not broadcast");
  expect_contains(error_of([] { broadcast({0}, {2}, "add"); }), "do not broadcast");
}

// ---- making ----

TEST(TensorMaking, Values) {
  EXPECT_EQ(zeros({2}).to_vector(), (Doubles{0, 0}));
  EXPECT_EQ(ones({2}, {.dtype = DType::boolean}).to_vector(), (Doubles{1, 1}));
  EXPECT_EQ(full({2}, 2.5, {.dtype = DType::f16}).to_vector(), (Doubles{2.5, 2.5}));
  EXPECT_EQ(scalar(3).shape(), Shape{});
  EXPECT_EQ(arange(3).dtype(), DType::i64);
  EXPECT_EQ(arange(3).to_vector(), (Doubles{0, 1, 2}));
  EXPECT_EQ(arange(0).shape(), Shape{0});
  EXPECT_EQ(tensor({1, 2, 3, 4}, {2, 2}).select(0, 1).to_vector(), (Doubles{3, 4}));
  EXPECT_EQ(tensor({1, 2}).dtype(), DType::f32);
  EXPECT_TRUE(zeros({2}, {.requires_grad = true}).requires_grad());
  EXPECT_EQ(empty({0, 3}).numel(), 0);
  EXPECT_EQ(error_of([] { tensor({1, 2}, {3}); }), "tensor: 2 values do not fill shape [3]");
  expect_contains(error_of([] { empty({2, -1}); }), "negative size in [2, -1]");
  expect_contains(error_of([] { arange(-1); }), "negative");
  expect_contains(error_of([] {
                    empty({2}, {.device = {DeviceKind::cuda, 15}});
                  }),
                  ANNEAL_HAS_GPU ? "cuda:15: " : "cuda:15: this library was built without CUDA");
  expect_contains(error_of([] { zeros({2}, {.dtype = DType::i64, .requires_grad = true}); }), "i64");
}

TEST(TensorMaking, OverMemoryThatIsThere) {
  auto memory = std::make_shared<std::vector<float>>(6, 1.5f);
  const std::weak_ptr<std::vector<float>> watch = memory;
  float* const data = memory->data();
  Tensor row;
  {
    const Tensor x = from_blob(data, {2, 3}, {}, std::move(memory));
    x.fill_(2);
    EXPECT_EQ(data[5], 2);
    row = x.select(0, 1);
  }
  data[4] = 7;
  EXPECT_EQ(row.to_vector(), (std::vector<double>{2, 7, 2})) << "the view keeps the memory";
  EXPECT_FALSE(watch.expired());
  row = {};
  EXPECT_TRUE(watch.expired());

  double own[] = {3};
  const Tensor leaf = from_blob(own, {1}, {.dtype = DType::f64, .requires_grad = true});
  (leaf * leaf).backward();
  EXPECT_EQ(leaf.grad().item(), 6);
  EXPECT_EQ(from_blob(nullptr, {0, 4}).numel(), 0);
  expect_contains(error_of([&] { from_blob(nullptr, {4}); }), "16 bytes");
  expect_contains(error_of([&] { from_blob(reinterpret_cast<char*>(own) + 1, {1}); }), "aligned");
}

TEST(TensorMaking, Access) {
  Tensor undefined;
  EXPECT_FALSE(undefined.defined());
  EXPECT_FALSE(undefined.requires_grad());
  EXPECT_EQ(error_of([&] { undefined.shape(); }), "an undefined tensor was used");
  EXPECT_EQ(error_of([&] { undefined + scalar(1); }), "an undefined tensor was used");
  const Tensor x = counted({2, 3}, DType::f32);
  EXPECT_EQ(x.data<float>()[4], 4);
  EXPECT_EQ(x.span<float>().size(), 6u);
  EXPECT_EQ(error_of([&] { x.data<double>(); }), "the elements are f32, not f64");
  expect_contains(error_of([&] { x.transpose(0, 1).span<float>(); }), "is not contiguous");
  EXPECT_EQ(x.slice(0, 1, 2).data<float>()[0], 3);
  EXPECT_EQ(x.select(0, 1).select(0, 2).item(), 5);
  EXPECT_EQ(error_of([&] { x.item(); }), "item: expected one element, got shape [2, 3]");
  const Tensor handle = x;
  EXPECT_TRUE(handle.same(x));
  EXPECT_FALSE(x.detach().same(x));
  EXPECT_EQ(x.detach().raw(), x.raw());
}

// ---- views ----

TEST(TensorViews, ShareMemory) {
  const Tensor x = counted({2, 3, 4});
  const Tensor y = x.permute({2, 0, 1});
  EXPECT_EQ(y.shape(), (Shape{4, 2, 3}));
  EXPECT_EQ(y.strides(), (Shape{1, 12, 4}));
  EXPECT_FALSE(y.is_contiguous());
  EXPECT_EQ(y.raw(), x.raw());
  EXPECT_EQ(y.select(0, 1).to_vector(), (Doubles{1, 5, 9, 13, 17, 21}));
  y.select(0, 1).fill_(-1);
  EXPECT_EQ(x.slice(2, 1, 2).to_vector(), Doubles(6, -1));
  EXPECT_EQ(x.transpose(0, 2).shape(), (Shape{4, 3, 2}));
  EXPECT_EQ(x.unsqueeze(1).shape(), (Shape{2, 1, 3, 4}));
  EXPECT_EQ(x.unsqueeze(-1).shape(), (Shape{2, 3, 4, 1}));
  EXPECT_EQ(x.unsqueeze(1).squeeze(1).shape(), x.shape());
  EXPECT_EQ(scalar(1).unsqueeze(0).shape(), Shape{1});
  EXPECT_EQ(error_of([&] { x.squeeze(1); }), "squeeze: dimension 1 of shape [2, 3, 4] is not 1");
  expect_contains(error_of([&] { x.permute({0, 1}); }), "2 dimensions for a tensor of shape [2, 3, 4]");
  expect_contains(error_of([&] { x.permute({0, 1, -2}); }), "dimension 1 is given twice");
  expect_contains(error_of([&] { x.transpose(0, 3); }), "dimension 3 does not exist");
  EXPECT_NE(error_of([&] { x.unsqueeze(5); }), "");
}

TEST(TensorViews, Slices) {
  const Tensor x = counted({6});
  EXPECT_EQ(x.slice(0, 1, 4).to_vector(), (Doubles{1, 2, 3}));
  EXPECT_EQ(x.slice(0, -2, 100).to_vector(), (Doubles{4, 5}));
  EXPECT_EQ(x.slice(0, -100, 2).to_vector(), (Doubles{0, 1}));
  EXPECT_EQ(x.slice(0, 1, 6, 2).to_vector(), (Doubles{1, 3, 5}));
  EXPECT_EQ(x.slice(0, 0, 5, 3).to_vector(), (Doubles{0, 3}));
  EXPECT_EQ(x.slice(0, 1, 6, 2).slice(0, 1, 3, 2).to_vector(), (Doubles{3}));
  EXPECT_EQ(x.slice(0, 4, 2).shape(), Shape{0});
  EXPECT_EQ(x.select(0, -1).item(), 5);
  expect_contains(error_of([&] { x.slice(0, 0, 3, 0); }), "the step must be positive, got 0");
  EXPECT_EQ(error_of([&] { x.select(0, 6); }), "select: position 6 of dimension 0, which has size 6");
  EXPECT_NE(error_of([&] { x.select(0, -7); }), "");
  const auto pieces = split(counted({5, 2}), 2);
  ASSERT_EQ(pieces.size(), 3u);
  EXPECT_EQ(pieces[2].to_vector(), (Doubles{8, 9}));
  EXPECT_NE(error_of([&] { split(x, 0); }), "");
}

TEST(TensorViews, ReshapeCopiesOnlyWhereItMust) {
  const Tensor x = counted({4, 6});
  EXPECT_EQ(x.reshape({2, 2, -1}).shape(), (Shape{2, 2, 6}));
  EXPECT_EQ(x.reshape({24}).raw(), x.raw());
  EXPECT_TRUE(x.reshape({4, 6}).same(x));
  // A column block: rows stay apart, but each can be cut.
  const Tensor block = x.slice(1, 0, 4);
  EXPECT_EQ(block.reshape({2, 2, 2, 2}).raw(), x.raw());
  EXPECT_EQ(block.reshape({2, 2, 2, 2}).to_vector(), block.to_vector());
  EXPECT_NE(block.reshape({16}).raw(), x.raw());
  EXPECT_EQ(block.reshape({16}).to_vector(), block.to_vector());
  EXPECT_EQ(x.transpose(0, 1).reshape({8, 3}).to_vector(), x.transpose(0, 1).to_vector());
  expect_contains(error_of([&] { block.view({16}); }), "cannot be seen as [16]; use reshape");
  EXPECT_EQ(error_of([&] { x.reshape({5, -1}); }), "reshape: 24 elements of shape [4, 6] do not fit [5, -1]");
  expect_contains(error_of([&] { x.view({23}); }), "view: 24 elements");
  expect_contains(error_of([&] { x.reshape({-1, -1}); }), "more than one -1");
  expect_contains(error_of([&] { zeros({0}).reshape({0, -1}); }), "do not fit");
  EXPECT_EQ(x.flatten().shape(), Shape{24});
  EXPECT_EQ(counted({2, 3, 4, 5}).flatten(1, 2).shape(), (Shape{2, 12, 5}));
  EXPECT_NE(error_of([&] { x.flatten(1, 0); }), "");
}

TEST(TensorViews, Expand) {
  const Tensor x = counted({3, 1});
  const Tensor y = x.expand({2, 3, 2});
  EXPECT_EQ(y.strides(), (Shape{0, 1, 0}));
  EXPECT_EQ(y.to_vector(), (Doubles{0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2}));
  EXPECT_EQ(y.contiguous().strides(), (Shape{6, 2, 1}));
  EXPECT_EQ(error_of([&] { x.expand({3}); }).empty(), false);
  expect_contains(error_of([&] { x.expand({2, 2}); }), "expand: shapes [3, 1] and [2, 2] do not broadcast");
}

// ---- copies and conversions ----

// The value after a conversion, by the definition of the types.
double converted(double x, DType to) {
  switch (to) {
    case DType::f16: return to_float(to_f16(static_cast<float>(x)));
    case DType::bf16: return to_float(to_bf16(static_cast<float>(x)));
    case DType::f32: return static_cast<float>(x);
    case DType::f64: return x;
    case DType::boolean: return x != 0;
    default: return std::trunc(x);
  }
}

TEST(TensorCopies, AllPairsOfDtypes) {
  const Doubles fractions{0, 1, 2.75, 100.5, 254.9, 0.3};
  const Doubles negatives{-1, -2.75, -100.5};
  for (const DType from : all_dtypes) {
    for (const DType to : all_dtypes) {
      SCOPED_TRACE(std::string(name_of(from)) + " to " + name_of(to));
      Doubles values = fractions;
      if (from != DType::u8 && from != DType::boolean && to != DType::u8)
        values.insert(values.end(), negatives.begin(), negatives.end());
      const auto n = static_cast<std::int64_t>(values.size());
      const Tensor x = tensor(values, {n}, {.dtype = from});
      EXPECT_EQ(x.dtype(), from);
      const Tensor y = x.to(to);
      EXPECT_EQ(y.dtype(), to);
      EXPECT_EQ(y.same(x), from == to);
      Doubles expected;
      for (const double value : values) expected.push_back(converted(converted(value, from), to));
      EXPECT_EQ(y.to_vector(), expected);
      // From strides into strides.
      const Tensor wide = empty({n, 2}, {.dtype = to});
      wide.select(1, 1).copy_(tensor(values, {n}, {.dtype = from}).unsqueeze(1).expand({n, 3}).select(1, 2));
      EXPECT_EQ(wide.select(1, 1).to_vector(), expected);
    }
  }
}

TEST(TensorCopies, SpecialValues) {
  const double inf = std::numeric_limits<double>::infinity();
  for (const DType to : {DType::f32, DType::f64, DType::f16, DType::bf16}) {
    const Doubles y = tensor({inf, -inf, NAN, -0.0, 1e300, 65520, 65519}, {.dtype = DType::f64}).to(to).to_vector();
    EXPECT_EQ(y[0], inf);
    EXPECT_EQ(y[1], -inf);
    EXPECT_TRUE(std::isnan(y[2]));
    EXPECT_TRUE(std::signbit(y[3]));
    EXPECT_EQ(std::isinf(y[4]), to != DType::f64);
    EXPECT_EQ(std::isinf(y[5]), to == DType::f16);
    EXPECT_FALSE(std::isinf(y[6]));
  }
  EXPECT_EQ(tensor({NAN, 1e-300, -0.0}, {.dtype = DType::f64}).to(DType::boolean).to_vector(), (Doubles{1, 1, 0}));
  const std::int64_t large = (std::int64_t{1} << 62) + 1;
  const Tensor x = empty({1}, {.dtype = DType::i64});
  *x.data<std::int64_t>() = large;
  EXPECT_EQ(*x.clone().data<std::int64_t>(), large);
}

TEST(TensorCopies, CloneAndContiguous) {
  const Tensor x = counted({2, 3});
  const Tensor y = x.transpose(0, 1);
  EXPECT_NE(x.clone().raw(), x.raw());
  EXPECT_TRUE(x.contiguous().same(x));
  EXPECT_TRUE(y.clone().is_contiguous());
  EXPECT_TRUE(y.contiguous().is_contiguous());
  EXPECT_EQ(y.contiguous().to_vector(), (Doubles{0, 3, 1, 4, 2, 5}));
  EXPECT_TRUE(x.to(Device{}).same(x));
  expect_contains(error_of([&] { x.to(Device{DeviceKind::cuda, 15}); }), "cuda:15: ");
}

TEST(TensorInPlace, Writes) {
  const Tensor x = counted({2, 3});
  x.copy_(tensor({7, 8, 9}));  // converted and broadcast
  EXPECT_EQ(x.to_vector(), (Doubles{7, 8, 9, 7, 8, 9}));
  x.add_(ones({2, 3}, {.dtype = DType::f64}), -2);
  EXPECT_EQ(x.to_vector(), (Doubles{5, 6, 7, 5, 6, 7}));
  x.mul_(tensor({2, 10}, {2, 1}, {.dtype = DType::f64}));
  EXPECT_EQ(x.to_vector(), (Doubles{10, 12, 14, 50, 60, 70}));
  x.mul_(0.5);
  x.transpose(0, 1).slice(0, 0, 2).zero_();
  EXPECT_EQ(x.to_vector(), (Doubles{0, 0, 7, 0, 0, 35}));
  const auto version = x.impl().storage->version();
  x.fill_(1);
  EXPECT_EQ(x.impl().storage->version(), version + 1);
  expect_contains(error_of([&] { x.copy_(zeros({3, 2})); }), "copy_: shapes [3, 2] and [2, 3] do not broadcast");
  EXPECT_NE(error_of([&] { x.add_(zeros({1, 2, 3}, {.dtype = DType::f64})); }), "");
  expect_contains(error_of([&] { x.mul_(zeros({2, 3})); }), "f64 is changed in place by f32");
}

// ---- printing ----

TEST(TensorPrinting, Text) {
  EXPECT_EQ(text_of(Tensor()), "Tensor()");
  EXPECT_EQ(text_of(scalar(2.5)), "Tensor(f32 [], 2.5)");
  EXPECT_EQ(text_of(counted({2, 2, 2}, DType::i64)), "Tensor(i64 [2, 2, 2], [[[0, 1], [2, 3]], [[4, 5], [6, 7]]])");
  EXPECT_EQ(text_of(tensor({0.1, 1e-9, 123456789}).transpose(0, 0)), "Tensor(f32 [3], [0.1, 1e-09, 1.23457e+08])");
  EXPECT_EQ(text_of(zeros({0, 3}, {.dtype = DType::boolean})), "Tensor(bool [0, 3], [])");
  EXPECT_EQ(text_of(arange(2000)), "Tensor(i64 [2000], [0, 1, 2, 3, ..., 1996, 1997, 1998, 1999])");
}

}  // namespace
