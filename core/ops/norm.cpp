// Normalisations. Their gradients are fused kernels.
#include <algorithm>

#include "anneal/core/autocast.h"
#include "anneal/core/autograd.h"
#include "anneal/core/dispatch.h"
#include "anneal/core/ops.h"

namespace anneal {
inline namespace v0 {
namespace {

// Statistics are kept in f32, or f64 for f64.
DType statistics_dtype(const Tensor& x) { return x.dtype() == DType::f64 ? DType::f64 : DType::f32; }
const void* raw_or_null(const Tensor& x) { return x.defined() ? x.raw() : nullptr; }
void* new_gradient(Gradients& dx, int i, const Tensor& input) {
  if (!dx.wants(i)) return nullptr;
  const Tensor gradient = empty(input.shape(), {.dtype = input.dtype(), .device = input.device()});
  dx.set(i, gradient);
  return gradient.raw();
}

// A weight or bias as the kernels take it.
Tensor dense(const Tensor& p) { return p.defined() ? p.contiguous() : p; }

void check_affine(const Tensor& x, const Tensor& weight, const Tensor& bias, const Shape& shape, DType dtype,
                  const char* op) {
  check(is_floating(x.dtype()), "{}: expected a floating dtype, got {}", op, name_of(x.dtype()));
  check_devices(op, x, weight, bias);
  for (const Tensor& p : {weight, bias})
    if (p.defined())
      check(p.shape() == shape && p.dtype() == dtype, "{}: x {} {} needs a weight and bias of {} {}, got {} {}", op,
            name_of(x.dtype()), x.shape(), name_of(dtype), shape, name_of(p.dtype()), p.shape());
}
// What batch norm has its parameters in: as x, or in f32 if one is and x has 16 bits.
DType parameters_dtype(const Tensor& x, std::initializer_list<Tensor> parameters) {
  for (const Tensor& p : parameters)
    if (p.defined() && p.dtype() == DType::f32 && x.dtype() != DType::f64) return DType::f32;
  return x.dtype();
}

template <bool Rms>
struct RowNormRule {
  static constexpr const char* name = Rms ? "rms_norm" : "layer_norm";
  static void backward(const Tensor& dy, Gradients& dx, const Tensor& x, const Tensor& weight, const Tensor& bias,
                       const Tensor& mean, const Tensor& rstd) {
    check_differentiated_once(name);
    const std::int64_t cols = weight.defined() ? weight.numel() : x.size(-1);
    const Tensor dense_dy = dy.contiguous();
    kernels::LayerNormGrad args{x.dtype(),  Rms,        rstd.numel(),   cols,    x.raw(), raw_or_null(weight),
                                mean.raw(), rstd.raw(), dense_dy.raw(), nullptr, nullptr, nullptr};
    if (dx.wants(0)) {  // where x also goes around the norm, that gradient is there already
      const Destination to = dx.into(0, x);
      args.dx = to.out.raw();
      args.accumulate = to.accumulate;
    }
    args.dweight = new_gradient(dx, 1, weight);
    args.dbias = new_gradient(dx, 2, bias);
    launch(x.device(), args);
  }
};

template <bool Rms>
struct NormOfSumRule {
  static constexpr const char* name = Rms ? "add_rms_norm" : "add_layer_norm";
  static void backward(const Tensor& dy, Gradients& dx) {
    for (const int i : {0, 1})
      if (dx.wants(i)) dx.set(i, dy);
  }
};

// Of the input, or of its sum with a residual of the same kind.
template <bool Rms>
NormOfSum row_norm(const Tensor& input, const Tensor& given_residual, const Tensor& given_weight,
                   const Tensor& given_bias, double eps) {
  constexpr const char* name = RowNormRule<Rms>::name;
  constexpr CastPolicy policy = policy_of(RowNormRule<Rms>::name);
  if (const Tensor full = autocast(policy, input); full.defined())
    return row_norm<Rms>(full, {}, given_weight, given_bias, eps);
  const Tensor weight = dense(given_weight);
  const Tensor bias = dense(given_bias);
  const int dims = weight.defined() ? weight.rank() : 1;
  check(input.rank() >= dims && dims >= 1, "{}: x {} has fewer dimensions than the weight {}", name, input.shape(),
        weight.defined() ? weight.shape() : Shape{});
  Shape normalised;
  for (int d = input.rank() - dims; d < input.rank(); ++d)
    normalised = normalised.with(normalised.rank(), input.shape()[d]);
  check_affine(input, weight, bias, normalised, input.dtype(), name);
  const Tensor residual = dense(given_residual);
  Tensor x = input.contiguous();
  const std::int64_t cols = normalised.numel();
  const std::int64_t rows = cols ? x.numel() / cols : 0;
  const TensorOptions statistics{.dtype = statistics_dtype(x), .device = x.device()};
  const Tensor mean = empty({rows}, statistics);
  const Tensor rstd = empty({rows}, statistics);
  const Tensor y = empty(x.shape(), {.dtype = x.dtype(), .device = x.device()});
  kernels::LayerNorm args{x.dtype(),         Rms,     rows,       cols,      eps, x.raw(), raw_or_null(weight),
                          raw_or_null(bias), y.raw(), mean.raw(), rstd.raw()};
  if (residual.defined()) {
    const Tensor sum = empty(x.shape(), {.dtype = x.dtype(), .device = x.device()});
    args.residual = residual.raw();
    args.sum = sum.raw();
    launch(x.device(), args);
    x = record<NormOfSumRule<Rms>>(sum, {x, residual});
  } else {
    launch(x.device(), args);
  }
  return {x, record<RowNormRule<Rms>>(y, {x, weight, bias}, x, weight, bias, mean, rstd)};
}

// One pass where both are of the kind that the norm takes, else the ops one after the other.
template <bool Rms>
NormOfSum norm_of_sum(const Tensor& x, const Tensor& residual, const Tensor& weight, const Tensor& bias, double eps) {
  const bool cast = autocast_dtype() && x.dtype() != DType::f32 && x.dtype() != DType::f64;
  if (!cast && is_floating(x.dtype()) && x.dtype() == residual.dtype() && x.shape() == residual.shape()) {
    check_devices(NormOfSumRule<Rms>::name, x, residual);
    return row_norm<Rms>(x, residual, weight, bias, eps);
  }
  const Tensor sum = x + residual;
  return {sum, row_norm<Rms>(sum, {}, weight, bias, eps).norm};
}

struct BatchNormRule {
  static constexpr const char* name = "batch_norm";
  static void backward(const Tensor& dy, Gradients& dx, bool training, const Tensor& x, const Tensor& weight,
                       const Tensor& bias, const Tensor& mean, const Tensor& rstd) {
    check_differentiated_once(name);
    const Tensor dense_dy = dy.contiguous();
    const std::int64_t n = x.size(0);
    const std::int64_t c = x.size(1);
    kernels::BatchNormGrad args{x.dtype(),
                                parameters_dtype(x, {weight, bias}),
                                training,
                                n,
                                c,
                                x.shape().numel() / std::max<std::int64_t>(n * c, 1),
                                x.raw(),
                                raw_or_null(weight),
                                mean.raw(),
                                rstd.raw(),
                                dense_dy.raw(),
                                nullptr,
                                nullptr,
                                nullptr};
    args.dx = new_gradient(dx, 0, x);
    args.dweight = new_gradient(dx, 1, weight);
    args.dbias = new_gradient(dx, 2, bias);
    launch(x.device(), args);
  }
};

}  // namespace

Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  return row_norm<false>(x, {}, weight, bias, eps).norm;
}
Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  return row_norm<true>(x, {}, weight, {}, eps).norm;
}
NormOfSum add_layer_norm(const Tensor& x, const Tensor& residual, const Tensor& weight, const Tensor& bias,
                         double eps) {
  return norm_of_sum<false>(x, residual, weight, bias, eps);
}
NormOfSum add_rms_norm(const Tensor& x, const Tensor& residual, const Tensor& weight, double eps) {
  return norm_of_sum<true>(x, residual, weight, {}, eps);
}

Tensor batch_norm(const Tensor& input, const Tensor& running_mean, const Tensor& running_var,
                  const Tensor& given_weight, const Tensor& given_bias, BatchNormOptions options) {
  const Tensor weight = dense(given_weight);
  const Tensor bias = dense(given_bias);
  check(input.rank() >= 2, "batch_norm: expected x [n, channels, ...], got {}", input.shape());
  const std::int64_t n = input.size(0);
  const std::int64_t c = input.size(1);
  const DType parameters = parameters_dtype(input, {weight, bias, running_mean, running_var});
  check_affine(input, weight, bias, {c}, parameters, "batch_norm");
  check_affine(input, running_mean, running_var, {c}, parameters, "batch_norm");
  check(running_mean.defined() == running_var.defined(), "batch_norm: only one of the two running statistics is there");
  check(!running_mean.defined() || (running_mean.is_contiguous() && running_var.is_contiguous()),
        "batch_norm: running statistics must be contiguous");
  const std::int64_t values = c ? input.numel() / c : 0;
  if (options.training)
    check(c == 0 || values > 1, "batch_norm: expected more than one value a channel when training, got x {}",
          input.shape());
  else check(running_mean.defined(), "batch_norm: evaluation needs running statistics");
  const Tensor x = input.contiguous();
  const TensorOptions statistics{.dtype = statistics_dtype(x), .device = x.device()};
  const Tensor mean = empty({c}, statistics);
  const Tensor rstd = empty({c}, statistics);
  const Tensor y = empty(x.shape(), {.dtype = x.dtype(), .device = x.device()});
  launch(x.device(), kernels::BatchNorm{x.dtype(), parameters, options.training, n, c,
                                        c > 0 ? values / std::max<std::int64_t>(n, 1) : 0, options.eps,
                                        options.momentum, x.raw(), raw_or_null(weight), raw_or_null(bias), y.raw(),
                                        running_mean.defined() ? running_mean.raw() : nullptr,
                                        running_var.defined() ? running_var.raw() : nullptr, mean.raw(), rstd.raw()});
  if (options.training && running_mean.defined()) {
    running_mean.bump_version();
    running_var.bump_version();
  }
  return record<BatchNormRule>(y, {x, weight, bias}, options.training, x, weight, bias, mean, rstd);
}

}  // namespace v0
}  // namespace anneal
