// Convolution. Its two gradients are ops themselves, each linear in both inputs, so it can be differentiated any number
// of times.
#include "anneal/core/autocast.h"
#include "anneal/core/autograd.h"
#include "anneal/core/dispatch.h"
#include "anneal/core/ops.h"

namespace anneal {
inline namespace v0 {
namespace {

using kernels::ConvShape;

Shape input_shape(const ConvShape& s) { return {s.n, s.c_in, s.h, s.w}; }
Shape weight_shape(const ConvShape& s) { return {s.c_out, s.c_in / s.groups, s.kernel_h, s.kernel_w}; }
Shape output_shape(const ConvShape& s) { return {s.n, s.c_out, s.out_h(), s.out_w()}; }

Tensor forward(const ConvShape& s, const Tensor& x, const Tensor& weight, const Tensor& bias,
               Activation activation = Activation::none);
Tensor input_grad(const ConvShape& s, const Tensor& dy, const Tensor& weight);
Tensor weight_grad(const ConvShape& s, const Tensor& dy, const Tensor& x);

void launch_weight_grad(const ConvShape& s, const Tensor& dy, const Tensor& x, const Destination& to) {
  const NoGrad no_grad;
  const Tensor dense_dy = dy.contiguous();
  const Tensor dense_x = x.contiguous();
  launch(dy.device(), kernels::Conv2dWeightGrad{dy.dtype(), to.out.dtype(), s, dense_dy.raw(), dense_x.raw(),
                                                to.out.raw(), to.accumulate});
}

struct ConvRule {
  static constexpr const char* name = "conv2d";
  static void backward(const Tensor& dy, Gradients& dx, const ConvShape& s, const Tensor& x, const Tensor& weight) {
    if (dx.wants(0)) dx.set(0, input_grad(s, dy, weight));
    if (dx.wants(1)) {
      if (grad_enabled()) dx.set(1, weight_grad(s, dy, x).to(weight.dtype()));
      else launch_weight_grad(s, dy, x, dx.into(1, weight));
    }
    if (dx.wants(2)) dx.set(2, sum(sum(dy, {2, 3}, false, weight.dtype()), {0}));
  }
};
struct ConvReluRule {
  static constexpr const char* name = "conv2d";
  static void backward(const Tensor& dy, Gradients& dx, const ConvShape& s, const Tensor& x, const Tensor& weight,
                       const Tensor& y) {
    ConvRule::backward(unary_grad<kernels::Relu>(dy, y), dx, s, x, weight);
  }
};
struct InputGradRule {
  static constexpr const char* name = "conv2d_input_grad";
  static void backward(const Tensor& g, Gradients& dx, const ConvShape& s, const Tensor& dy, const Tensor& weight) {
    if (dx.wants(0)) dx.set(0, forward(s, g, weight, {}));
    if (dx.wants(1)) dx.set(1, weight_grad(s, dy, g).to(weight.dtype()));
  }
};
struct WeightGradRule {
  static constexpr const char* name = "conv2d_weight_grad";
  static void backward(const Tensor& g, Gradients& dx, const ConvShape& s, const Tensor& dy, const Tensor& x) {
    if (dx.wants(0)) dx.set(0, forward(s, x, g, {}));
    if (dx.wants(1)) dx.set(1, input_grad(s, dy, g));
  }
};

Tensor forward(const ConvShape& s, const Tensor& x, const Tensor& weight, const Tensor& bias, Activation activation) {
  const Tensor y = empty(output_shape(s), {.dtype = x.dtype(), .device = x.device()});
  {
    const NoGrad no_grad;
    const Tensor dense_x = x.contiguous();
    const Tensor dense_weight = weight_like(x, weight).contiguous();
    const Tensor dense_bias = bias.defined() ? weight_like(x, bias).contiguous() : bias;
    launch(x.device(), kernels::Conv2d{x.dtype(), s, dense_x.raw(), dense_weight.raw(),
                                       bias.defined() ? dense_bias.raw() : nullptr, y.raw(), activation});
  }
  if (activation == Activation::relu) return record<ConvReluRule>(y, {x, weight, bias}, s, x, weight, y);
  return record<ConvRule>(y, {x, weight, bias}, s, x, weight);
}

Tensor input_grad(const ConvShape& s, const Tensor& dy, const Tensor& weight) {
  const Tensor dx = empty(input_shape(s), {.dtype = dy.dtype(), .device = dy.device()});
  {
    const NoGrad no_grad;
    const Tensor dense_dy = dy.contiguous();
    const Tensor dense_weight = weight_like(dy, weight).contiguous();
    launch(dy.device(), kernels::Conv2dInputGrad{dy.dtype(), s, dense_dy.raw(), dense_weight.raw(), dx.raw()});
  }
  return record<InputGradRule>(dx, {dy, weight}, s, dy, weight);
}

Tensor weight_grad(const ConvShape& s, const Tensor& dy, const Tensor& x) {
  const Tensor dweight = empty(weight_shape(s), {.dtype = dy.dtype(), .device = dy.device()});
  launch_weight_grad(s, dy, x, {dweight, false});
  return record<WeightGradRule>(dweight, {dy, x}, s, dy, x);
}

}  // namespace

Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias, Conv2dOptions o) {
  if (const Tensor low = autocast(policy_of("conv2d"), x); low.defined()) return conv2d(low, weight, bias, o);
  check(x.rank() == 4 && weight.rank() == 4,
        "conv2d: expected x [n, c, h, w] and weight [out, in, kh, kw], got {} and {}", x.shape(), weight.shape());
  check_weight(x, weight, "conv2d");
  check_devices("conv2d", x, weight, bias);
  check(o.groups >= 1 && weight.size(0) % o.groups == 0 && x.size(1) == weight.size(1) * o.groups,
        "conv2d: x {} has {} channels, weight {} in {} groups takes {}", x.shape(), x.size(1), weight.shape(), o.groups,
        weight.size(1) * o.groups);
  check(o.stride.h >= 1 && o.stride.w >= 1 && o.dilation.h >= 1 && o.dilation.w >= 1 && o.padding.h >= 0 &&
            o.padding.w >= 0,
        "conv2d: stride and dilation must be at least 1 and padding at least 0");
  if (bias.defined())
    check(bias.shape() == Shape{weight.size(0)} && bias.dtype() == weight.dtype(),
          "conv2d: weight {} needs a bias [{}], got {} {}", weight.shape(), weight.size(0), name_of(bias.dtype()),
          bias.shape());
  const ConvShape s{x.size(0),  x.size(1),  x.size(2),   x.size(3),   weight.size(0), weight.size(2), weight.size(3),
                    o.stride.h, o.stride.w, o.padding.h, o.padding.w, o.dilation.h,   o.dilation.w,   o.groups};
  check(s.kernel_h > 0 && s.kernel_w > 0 && s.h + 2 * s.padding_h >= s.dilation_h * (s.kernel_h - 1) + 1 &&
            s.w + 2 * s.padding_w >= s.dilation_w * (s.kernel_w - 1) + 1,
        "conv2d: the window of weight {} does not fit into x {} with padding {} x {}", weight.shape(), x.shape(),
        s.padding_h, s.padding_w);
  check(o.activation != Activation::gelu, "conv2d: expected the activation none or relu, got gelu");
  return forward(s, x, weight, bias, o.activation);
}

Tensor conv1d(const Tensor& x, const Tensor& weight, const Tensor& bias, Conv1dOptions o) {
  check(x.rank() == 3 && weight.rank() == 3, "conv1d: expected x [n, c, length] and weight [out, in, k], got {} and {}",
        x.shape(), weight.shape());
  return conv2d(x.unsqueeze(2), weight.unsqueeze(2), bias,
                {.stride = {1, o.stride}, .padding = {0, o.padding}, .dilation = {1, o.dilation}, .groups = o.groups})
      .squeeze(2);
}

}  // namespace v0
}  // namespace anneal
