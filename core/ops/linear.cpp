// Matrix products.
#include "anneal/core/autocast.h"
#include "anneal/core/autograd.h"
#include "anneal/core/dispatch.h"
#include "anneal/core/ops.h"
#include "anneal/core/space.h"

namespace anneal {
inline namespace v0 {
namespace {

// A matrix [rows, cols] as the kernel takes it: dense rows at distance `ld`, or those of its transpose.
struct Matrix {
  Tensor tensor;  // of rank 2 or 3
  bool transposed;
  std::int64_t ld;
};
Matrix matrix_of(const Tensor& x) {
  const std::int64_t rows = x.size(-2);
  const std::int64_t cols = x.size(-1);
  const std::int64_t row_stride = x.strides()[-2];
  const std::int64_t col_stride = x.strides()[-1];
  const auto at_least = [](std::int64_t stride, std::int64_t n) { return std::max<std::int64_t>(stride, n); };
  if ((col_stride == 1 || cols == 1) && (row_stride >= cols || rows == 1))
    return {x, false, at_least(rows == 1 ? cols : row_stride, 1)};
  if ((row_stride == 1 || rows == 1) && (col_stride >= rows || cols == 1))
    return {x, true, at_least(cols == 1 ? rows : col_stride, 1)};
  return {x.contiguous(), false, at_least(cols, 1)};
}

// activation(a b + bias), for a [batch, m, k] and b [batch, k, n]; the batch may be missing. `saved`: see
// kernels::Gemm.
void gemm(const Tensor& a, const Tensor& b, const Tensor& bias, const Destination& to,
          Activation activation = Activation::none, const Tensor& saved = {}) {
  const NoGrad no_grad;
  const Tensor& c = to.out;
  const Matrix left = matrix_of(a);
  const Matrix right = matrix_of(b);
  const auto batch_stride = [](const Tensor& x) { return x.rank() == 3 ? x.strides()[0] : 0; };
  launch(c.device(), kernels::Gemm{.dtype = a.dtype(),
                                   .out = c.dtype(),
                                   .trans_a = left.transposed,
                                   .trans_b = right.transposed,
                                   .m = a.size(-2),
                                   .n = b.size(-1),
                                   .k = a.size(-1),
                                   .lda = left.ld,
                                   .ldb = right.ld,
                                   .ldc = b.size(-1),
                                   .batch = c.rank() == 3 ? c.size(0) : 1,
                                   .stride_a = batch_stride(left.tensor),
                                   .stride_b = batch_stride(right.tensor),
                                   .stride_c = batch_stride(c),
                                   .a = left.tensor.raw(),
                                   .b = right.tensor.raw(),
                                   .c = c.raw(),
                                   .bias = bias.defined() ? bias.raw() : nullptr,
                                   .activation = activation,
                                   .accumulate = to.accumulate,
                                   .saved = saved.defined() ? saved.raw() : nullptr});
}

// a [.., m, k] b [.., k, n], ranks 2 or 3.
Tensor product(const Tensor& a, const Tensor& b);

struct MatmulRule {
  static constexpr const char* name = "matmul";
  static void backward(const Tensor& dy, Gradients& dx, const Tensor& a, const Tensor& b) {
    if (dx.wants(0)) dx.set(0, product(dy, b.transpose(-2, -1)));
    if (dx.wants(1)) dx.set(1, product(a.transpose(-2, -1), dy));
  }
};
Tensor product(const Tensor& a, const Tensor& b) {
  Shape shape = a.shape();
  shape[-1] = b.size(-1);
  const Tensor y = empty(shape, {.dtype = a.dtype(), .device = a.device()});
  gemm(a, b, {}, {y, false});
  return record<MatmulRule>(y, {a, b}, a, b);
}

struct LinearRule {
  static constexpr const char* name = "linear";
  static void backward(const Tensor& dy, Gradients& dx, const Tensor& x, const Tensor& weight) {
    if (grad_enabled()) {
      // To be differentiated again: the same in public ops.
      if (dx.wants(0)) dx.set(0, product(dy, weight.to(dy.dtype())));
      if (dx.wants(1)) dx.set(1, product(dy.transpose(0, 1), x).to(weight.dtype()));
    } else {
      if (dx.wants(0)) gemm(dy, weight_like(dy, weight), {}, dx.into(0, x));
      if (dx.wants(1)) gemm(dy.transpose(0, 1), x, {}, dx.into(1, weight));
    }
    if (dx.wants(2)) dx.set(2, sum(dy, {0}, false, weight.dtype()));
  }
};

// With an activation, of which `kept` is what came out, or what went in.
template <class Op>
struct ActivatedRule {
  static constexpr const char* name = "linear";
  static void backward(const Tensor& dy, Gradients& dx, const Tensor& x, const Tensor& weight, const Tensor& kept) {
    if constexpr (Op::saves == kernels::Saves::input) check_differentiated_once(name);
    LinearRule::backward(unary_grad<Op>(dy, kept), dx, x, weight);
  }
};

}  // namespace

Tensor matmul(const Tensor& a, const Tensor& b) {
  if (const Tensor low = autocast(policy_of("matmul"), a); low.defined()) return matmul(low, b);
  if (const Tensor low = autocast(policy_of("matmul"), b); low.defined()) return matmul(a, low);
  check(is_floating(a.dtype()) && a.dtype() == b.dtype(),
        "matmul: expected operands of one floating dtype, got {} and {}", name_of(a.dtype()), name_of(b.dtype()));
  check_devices("matmul", a, b);
  check(a.rank() > 0 && b.rank() > 0, "matmul: expected vectors or matrices, got shapes {} and {}", a.shape(),
        b.shape());
  if (a.rank() == 1) {
    const Tensor y = matmul(a.unsqueeze(0), b.rank() == 1 ? b.unsqueeze(1) : b);
    return b.rank() == 1 ? y.reshape({}) : y.squeeze(-2);
  }
  if (b.rank() == 1) return matmul(a, b.unsqueeze(1)).squeeze(-1);
  check(a.size(-1) == b.size(-2), "matmul: inner sizes differ: {} x {}", a.shape(), b.shape());
  if (a.rank() == 2 && b.rank() == 2) return product(a, b);
  if (b.rank() == 2) {
    // A shared right side: one tall product.
    Shape shape = a.shape();
    shape[-1] = b.size(-1);
    return product(a.flatten(0, -2), b).reshape(shape);
  }
  const Shape batch = broadcast(a.shape().without(-1).without(-1), b.shape().without(-1).without(-1), "matmul");
  const auto batched = [&](const Tensor& x) {
    Shape shape = batch;
    for (int d : {-2, -1}) shape = shape.with(shape.rank(), x.size(d));
    const Tensor expanded = x.expand(shape);
    return expanded.reshape({batch.numel(), x.size(-2), x.size(-1)});
  };
  Shape shape = batch;
  for (std::int64_t size : {a.size(-2), b.size(-1)}) shape = shape.with(shape.rank(), size);
  return product(batched(a), batched(b)).reshape(shape);
}

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias, Activation activation) {
  if (const Tensor low = autocast(policy_of("linear"), x); low.defined()) return linear(low, weight, bias, activation);
  check_weight(x, weight, "linear");
  check_devices("linear", x, weight, bias);
  check(x.rank() >= 1 && weight.rank() == 2 && x.size(-1) == weight.size(1), "linear: x is {} but the weight is {}",
        x.shape(), weight.shape());
  if (bias.defined())
    check(bias.shape() == Shape{weight.size(0)} && bias.dtype() == weight.dtype(),
          "linear: the weight is {} {} but the bias is {} {}", name_of(weight.dtype()), weight.shape(),
          name_of(bias.dtype()), bias.shape());
  if (x.rank() != 2) {
    Shape shape = x.shape();
    shape[-1] = weight.size(0);
    return linear(x.reshape({shape.without(-1).numel(), x.size(-1)}), weight, bias, activation).reshape(shape);
  }
  const TensorOptions like{.dtype = x.dtype(), .device = x.device()};
  const Tensor y = empty({x.size(0), weight.size(0)}, like);
  const bool differentiated = grad_enabled() && (x.requires_grad() || weight.requires_grad() || bias.requires_grad());
  const Tensor saved = activation == Activation::gelu && differentiated ? empty(y.shape(), like) : Tensor();
  {
    const NoGrad no_grad;
    gemm(x, weight_like(x, weight).transpose(0, 1), bias.defined() ? weight_like(x, bias).contiguous() : bias,
         {y, false}, activation, saved);
  }
  if (activation == Activation::relu) return record<ActivatedRule<kernels::Relu>>(y, {x, weight, bias}, x, weight, y);
  if (activation == Activation::gelu)
    return record<ActivatedRule<kernels::Gelu>>(y, {x, weight, bias}, x, weight, saved);
  return record<LinearRule>(y, {x, weight, bias}, x, weight);
}

}  // namespace v0
}  // namespace anneal
