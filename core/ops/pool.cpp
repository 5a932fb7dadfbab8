// Pooling. The gradients are ops themselves, linear in theirs, so pooling can be differentiated any number of times.
#include "anneal/core/autograd.h"
#include "anneal/core/dispatch.h"
#include "anneal/core/ops.h"

namespace anneal {
inline namespace v0 {
namespace {

using kernels::PoolShape;

PoolShape pool_shape(const Tensor& x, Pair window, const PoolOptions& options, const char* op) {
  check(x.rank() == 4, "{}: expected x [n, c, h, w], got {}", op, x.shape());
  check(is_floating(x.dtype()), "{}: expected a floating dtype, got {}", op, name_of(x.dtype()));
  const Pair stride = options.stride.value_or(window);
  const Pair padding = options.padding;
  check(window.h >= 1 && window.w >= 1 && stride.h >= 1 && stride.w >= 1, "{}: window and stride must be at least 1",
        op);
  check(padding.h >= 0 && padding.w >= 0 && padding.h <= window.h / 2 && padding.w <= window.w / 2,
        "{}: padding {} x {} must be at most half of the window {} x {}", op, padding.h, padding.w, window.h, window.w);
  check(x.size(2) + 2 * padding.h >= window.h && x.size(3) + 2 * padding.w >= window.w,
        "{}: the window {} x {} does not fit into x {}", op, window.h, window.w, x.shape());
  return {x.size(0) * x.size(1), x.size(2), x.size(3), window.h, window.w, stride.h, stride.w, padding.h, padding.w};
}
Tensor pooled(const Tensor& x, const PoolShape& s, DType dtype) {
  return empty({x.size(0), x.size(1), s.out_h(), s.out_w()}, {.dtype = dtype, .device = x.device()});
}
Tensor unpooled(const Tensor& dy, const PoolShape& s) {
  return empty({dy.size(0), dy.size(1), s.h, s.w}, {.dtype = dy.dtype(), .device = dy.device()});
}
Tensor dense(const Tensor& x) {
  const NoGrad no_grad;
  return x.contiguous();
}

Tensor max_grad(const Tensor& dy, const PoolShape& s, const Tensor& index);

struct MaxGradRule {
  static constexpr const char* name = "max_pool2d_backward";
  static void backward(const Tensor& g, Gradients& dx, const PoolShape&, const Tensor& index) {
    dx.set(0, gather(g.flatten(2), 2, index.flatten(2)).reshape(index.shape()));
  }
};
struct MaxRule {
  static constexpr const char* name = "max_pool2d";
  static void backward(const Tensor& dy, Gradients& dx, const PoolShape& s, const Tensor& index) {
    dx.set(0, max_grad(dy, s, index));
  }
};
Tensor max_grad(const Tensor& dy, const PoolShape& s, const Tensor& index) {
  const Tensor dx = unpooled(dy, s);
  const Tensor dense_dy = dense(dy);
  launch(dy.device(), kernels::MaxPool2dGrad{dy.dtype(), s, dense_dy.raw(),
                                             static_cast<const std::int32_t*>(index.raw()), dx.raw()});
  return record<MaxGradRule>(dx, {dy}, s, index);
}

Tensor avg_forward(const Tensor& x, const PoolShape& s, bool count_include_pad);
Tensor avg_grad(const Tensor& dy, const PoolShape& s, bool count_include_pad);

struct AvgRule {
  static constexpr const char* name = "avg_pool2d";
  static void backward(const Tensor& dy, Gradients& dx, const PoolShape& s, bool include) {
    dx.set(0, avg_grad(dy, s, include));
  }
};
struct AvgGradRule {
  static constexpr const char* name = "avg_pool2d_backward";
  static void backward(const Tensor& g, Gradients& dx, const PoolShape& s, bool include) {
    dx.set(0, avg_forward(g, s, include));
  }
};
Tensor avg_forward(const Tensor& x, const PoolShape& s, bool count_include_pad) {
  const Tensor y = pooled(x, s, x.dtype());
  const Tensor dense_x = dense(x);
  launch(x.device(), kernels::AvgPool2d{x.dtype(), s, count_include_pad, dense_x.raw(), y.raw()});
  return record<AvgRule>(y, {x}, s, count_include_pad);
}
Tensor avg_grad(const Tensor& dy, const PoolShape& s, bool count_include_pad) {
  const Tensor dx = unpooled(dy, s);
  const Tensor dense_dy = dense(dy);
  launch(dy.device(), kernels::AvgPool2dGrad{dy.dtype(), s, count_include_pad, dense_dy.raw(), dx.raw()});
  return record<AvgGradRule>(dx, {dy}, s, count_include_pad);
}

}  // namespace

Tensor max_pool2d(const Tensor& x, Pair window, PoolOptions options) {
  const PoolShape s = pool_shape(x, window, options, "max_pool2d");
  const Tensor y = pooled(x, s, x.dtype());
  const Tensor index = grad_enabled() && x.requires_grad() ? pooled(x, s, DType::i32) : Tensor();
  const Tensor dense_x = dense(x);
  launch(x.device(), kernels::MaxPool2d{x.dtype(), s, dense_x.raw(), y.raw(),
                                        index.defined() ? static_cast<std::int32_t*>(index.raw()) : nullptr});
  return record<MaxRule>(y, {x}, s, index);
}

Tensor avg_pool2d(const Tensor& x, Pair window, PoolOptions options, bool count_include_pad) {
  return avg_forward(x, pool_shape(x, window, options, "avg_pool2d"), count_include_pad);
}

}  // namespace v0
}  // namespace anneal
