// Softmax and the losses.
#include "anneal/core/autocast.h"
#include "anneal/core/autograd.h"
#include "anneal/core/bad_index.h"
#include "anneal/core/dispatch.h"
#include "anneal/core/ops.h"
#include "anneal/core/space.h"

namespace anneal {
inline namespace v0 {
namespace {

// ---- softmax of rows: x is [..., cols] and contiguous ----

template <bool Log>
struct SoftmaxRule {
  static constexpr const char* name = Log ? "log_softmax" : "softmax";
  static void backward(const Tensor& dy, Gradients& dx, const Tensor& y) {
    if (grad_enabled()) {
      dx.set(0, Log ? dy - exp(y) * sum(dy, {-1}, true) : y * (dy - sum(dy * y, {-1}, true)));
      return;
    }
    const Tensor dense_dy = dy.contiguous();
    const Tensor out = empty(y.shape(), {.dtype = y.dtype(), .device = y.device()});
    launch(y.device(), kernels::SoftmaxGrad{y.dtype(), Log, y.shape().without(-1).numel(), y.size(-1), y.raw(),
                                            dense_dy.raw(), out.raw()});
    dx.set(0, out);
  }
};

template <bool Log>
Tensor softmax_rows(const Tensor& input) {
  const Tensor x = input.contiguous();
  const Tensor y = empty(x.shape(), {.dtype = x.dtype(), .device = x.device()});
  launch(x.device(), kernels::Softmax{x.dtype(), Log, x.shape().without(-1).numel(), x.size(-1), x.raw(), y.raw()});
  return record<SoftmaxRule<Log>>(y, {x}, y);
}

template <bool Log>
Tensor softmax_along(const Tensor& x, int dim) {
  constexpr const char* name = SoftmaxRule<Log>::name;
  constexpr CastPolicy policy = policy_of(SoftmaxRule<Log>::name);
  if (const Tensor full = autocast(policy, x); full.defined()) return softmax_along<Log>(full, dim);
  check(is_floating(x.dtype()), "{}: expected a floating dtype, got {}", name, name_of(x.dtype()));
  dim = x.shape().wrap(dim);
  if (dim == x.rank() - 1) return softmax_rows<Log>(x);
  return softmax_rows<Log>(x.transpose(dim, -1)).transpose(dim, -1);
}

// ---- cross-entropy of rows: logits [n, classes] ----

struct CrossEntropyRule {
  static constexpr const char* name = "cross_entropy";
  // The forward pass has computed `gradient`, as it would be for a dloss of 1.
  static void backward(const Tensor& dloss, Gradients& dx, const Tensor& gradient, bool reduced) {
    check_differentiated_once(name);
    const Tensor dense_dloss = dloss.contiguous();
    const Tensor out =
        dx.last() ? gradient : empty(gradient.shape(), {.dtype = gradient.dtype(), .device = gradient.device()});
    launch(gradient.device(), kernels::ScaleRows{gradient.dtype(), gradient.size(0), gradient.size(1), gradient.raw(),
                                                 dense_dloss.raw(), reduced, out.raw()});
    dx.set(0, out);
  }
};

// How many rows count, an f64 number where the logits are, after checking every class.
Tensor count_targets(const Tensor& target, std::int64_t classes, std::int64_t ignore_index) {
  const Tensor count = empty({}, {.dtype = DType::f64, .device = target.device()});
  BadIndex bad(target.device(), "cross_entropy");
  const auto* data = static_cast<const std::int64_t*>(target.raw());
  launch(target.device(), kernels::CheckTargets{target.numel(), classes, data, ignore_index,
                                                static_cast<double*>(count.raw()), bad.word()});
  bad.check([&](std::int64_t at) {
    return format("cross_entropy: target {} at {} is not one of the {} classes 0 to {}", data[at], at, classes,
                  classes - 1);
  });
  return count;
}

Tensor reduced(const Tensor& loss, LossReduction reduction) {
  return reduction == LossReduction::none ? loss : reduction == LossReduction::sum ? sum(loss) : mean(loss);
}

}  // namespace

Tensor softmax(const Tensor& x, int dim) { return softmax_along<false>(x, dim); }
Tensor log_softmax(const Tensor& x, int dim) { return softmax_along<true>(x, dim); }

Tensor cross_entropy(Tensor given, const Tensor& target, CrossEntropyOptions options) {
  const DType dtype = given.dtype();
  // Gradients that are not scaled yet need more range than f16 has, and probabilities more digits than bf16.
  const bool by_class = !is_floating(target.dtype()), narrow = size_of(dtype) == 2;
  if (narrow && (dtype == DType::f16 || !by_class)) given = given.to(DType::f32);
  check(is_floating(given.dtype()), "cross_entropy: expected logits of a floating dtype, got {}",
        name_of(given.dtype()));
  check(given.rank() >= 2, "cross_entropy: expected logits [n, classes] or [n, classes, ...], got {}", given.shape());
  check(options.label_smoothing >= 0 && options.label_smoothing <= 1,
        "cross_entropy: label_smoothing {} is not in [0, 1]", options.label_smoothing);
  const Shape expected = by_class ? given.shape().without(1) : given.shape();
  check_devices("cross_entropy", given, target);
  check(target.shape() == expected, "cross_entropy: logits {} need a target of shape {}, got {} {}", given.shape(),
        expected, name_of(target.dtype()), target.shape());
  // Classes last, everything else in rows.
  const auto rows = [](const Tensor& x) {
    if (x.rank() == 2) return x.contiguous();
    const Tensor moved = x.flatten(2).transpose(1, 2);
    return moved.reshape({moved.size(0) * moved.size(1), moved.size(2)}).contiguous();
  };
  const Shape shape = given.shape();
  const Tensor logits = rows(std::exchange(given, {}));
  const Tensor detached = target.detach();
  const Tensor wanted = by_class ? detached.to(DType::i64).flatten().contiguous() : rows(detached.to(logits.dtype()));
  const std::int64_t n = logits.size(0);
  const bool each = options.reduction == LossReduction::none, averaged = options.reduction == LossReduction::mean;
  Tensor count;
  if (by_class) count = count_targets(wanted, logits.size(1), options.ignore_index);
  else if (averaged) count = scalar(static_cast<double>(n), {.dtype = DType::f64, .device = logits.device()});
  const kernels::Targets targets{by_class ? static_cast<const std::int64_t*>(wanted.raw()) : nullptr,
                                 by_class ? nullptr : wanted.raw(), options.ignore_index, options.label_smoothing,
                                 averaged ? static_cast<const double*>(count.raw()) : nullptr};
  const TensorOptions like{.dtype = logits.dtype(), .device = logits.device()};
  const Tensor losses =
      empty({n}, {.dtype = logits.dtype() == DType::f64 ? DType::f64 : DType::f32, .device = logits.device()});
  Tensor gradient;
  if (grad_enabled() && logits.requires_grad())
    gradient = owned_alone(logits) ? logits.detach() : empty(logits.shape(), like);
  launch(logits.device(), kernels::CrossEntropy{logits.dtype(), n, logits.size(1), logits.raw(), targets, losses.raw(),
                                                gradient.defined() ? gradient.raw() : nullptr});
  const Tensor loss = [&] {
    const NoGrad no_grad;
    if (each) return losses;
    return averaged && n == 0 ? mean(losses) : sum(losses);  // NaN: of nothing
  }();
  const Tensor result = record<CrossEntropyRule>(loss, {logits}, gradient, !each);
  const Tensor shaped = each && shape.rank() > 2 ? result.reshape(shape.without(1)) : result;
  return narrow && !autocast_dtype() ? shaped.to(dtype) : shaped;
}

Tensor nll_loss(const Tensor& log_probabilities, const Tensor& target, LossReduction reduction) {
  if (const Tensor full = autocast(policy_of("nll_loss"), log_probabilities); full.defined())
    return nll_loss(full, target, reduction);
  check(log_probabilities.rank() == 2 && target.shape() == Shape{log_probabilities.size(0)},
        "nll_loss: expected log-probabilities [n, classes] and targets [n], got {} and {}", log_probabilities.shape(),
        target.shape());
  return reduced(-gather(log_probabilities, 1, target.unsqueeze(1)).squeeze(1), reduction);
}

Tensor mse_loss(const Tensor& x, const Tensor& target, LossReduction reduction) {
  if (const Tensor full = autocast(policy_of("mse_loss"), x); full.defined()) return mse_loss(full, target, reduction);
  return reduced(square(x - target), reduction);
}
Tensor l1_loss(const Tensor& x, const Tensor& target, LossReduction reduction) {
  if (const Tensor full = autocast(policy_of("l1_loss"), x); full.defined()) return l1_loss(full, target, reduction);
  return reduced(abs(x - target), reduction);
}
Tensor binary_cross_entropy_with_logits(const Tensor& logits, const Tensor& target, LossReduction reduction) {
  if (const Tensor full = autocast(policy_of("binary_cross_entropy_with_logits"), logits); full.defined())
    return binary_cross_entropy_with_logits(full, target, reduction);
  return reduced((1 - target) * logits + softplus(-logits), reduction);
}

}  // namespace v0
}  // namespace anneal
