// Softmax and the losses.
#include "anneal/core/autograd.h"
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
  check(is_floating(x.dtype()), "{}: expected a floating dtype, got {}", SoftmaxRule<Log>::name, name_of(x.dtype()));
  dim = x.shape().wrap(dim);
  if (dim == x.rank() - 1) return softmax_rows<Log>(x);
  return softmax_rows<Log>(x.transpose(dim, -1)).transpose(dim, -1);
}

// ---- cross-entropy of rows: logits [n, classes] ----

// What both passes of the kernel need besides the logits. `target` is [n] classes or [n, classes] probabilities.
kernels::Targets targets_of(const Tensor& target, const CrossEntropyOptions& options) {
  const bool classes = target.dtype() == DType::i64;
  return {classes ? static_cast<const std::int64_t*>(target.raw()) : nullptr, classes ? nullptr : target.raw(),
          options.ignore_index, options.label_smoothing};
}

struct CrossEntropyRule {
  static constexpr const char* name = "cross_entropy";
  static void backward(const Tensor& dloss, Gradients& dx, const Tensor& logits, const Tensor& target,
                       const Tensor& lse, const CrossEntropyOptions& options, double scale) {
    check_differentiated_once(name);
    const Tensor dense_dloss = dloss.contiguous();
    const Tensor out = empty(logits.shape(), {.dtype = logits.dtype(), .device = logits.device()});
    launch(logits.device(), kernels::CrossEntropyGrad{logits.dtype(), logits.size(0), logits.size(1), logits.raw(),
                                                      targets_of(target, options), lse.raw(), dense_dloss.raw(),
                                                      options.reduction != LossReduction::none, scale, out.raw()});
    dx.set(0, out);
  }
};

// How many rows count, after checking every class.
std::int64_t count_targets(const Tensor& target, std::int64_t classes, std::int64_t ignore_index) {
  std::int64_t count = 0;
  const auto values = target.span<std::int64_t>();
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (values[i] == ignore_index) continue;
    check(values[i] >= 0 && values[i] < classes, "cross_entropy: target {} at {} is not one of the {} classes 0 to {}",
          values[i], i, classes, classes - 1);
    ++count;
  }
  return count;
}

Tensor total(const Tensor& losses, LossReduction reduction, double scale) {
  const NoGrad no_grad;
  if (reduction == LossReduction::none) return losses;
  return reduction == LossReduction::sum ? sum(losses) : sum(losses) * scale;
}

Tensor reduced(const Tensor& loss, LossReduction reduction) {
  return reduction == LossReduction::none ? loss : reduction == LossReduction::sum ? sum(loss) : mean(loss);
}

}  // namespace

Tensor softmax(const Tensor& x, int dim) { return softmax_along<false>(x, dim); }
Tensor log_softmax(const Tensor& x, int dim) { return softmax_along<true>(x, dim); }

Tensor cross_entropy(const Tensor& input, const Tensor& target, CrossEntropyOptions options) {
  check(is_floating(input.dtype()), "cross_entropy: expected logits of a floating dtype, got {}",
        name_of(input.dtype()));
  check(input.rank() >= 2, "cross_entropy: expected logits [n, classes] or [n, classes, ...], got {}", input.shape());
  check(options.label_smoothing >= 0 && options.label_smoothing <= 1,
        "cross_entropy: label_smoothing {} is not in [0, 1]", options.label_smoothing);
  const bool by_class = !is_floating(target.dtype());
  const Shape expected = by_class ? input.shape().without(1) : input.shape();
  check(target.shape() == expected, "cross_entropy: logits {} need a target of shape {}, got {} {}", input.shape(),
        expected, name_of(target.dtype()), target.shape());
  if (input.rank() > 2) {
    // Classes last, everything else in rows.
    const auto rows = [](const Tensor& x) {
      const Tensor moved = x.flatten(2).transpose(1, 2);
      return moved.reshape({moved.size(0) * moved.size(1), moved.size(2)});
    };
    const Tensor loss = cross_entropy(rows(input), by_class ? target.flatten() : rows(target), options);
    return options.reduction == LossReduction::none ? loss.reshape(input.shape().without(1)) : loss;
  }
  const Tensor logits = input.contiguous();
  const Tensor wanted = target.to(by_class ? DType::i64 : logits.dtype()).detach().contiguous();
  const std::int64_t n = logits.size(0);
  const std::int64_t count = by_class ? count_targets(wanted, logits.size(1), options.ignore_index) : n;
  const Tensor each = empty({n}, {.dtype = logits.dtype(), .device = logits.device()});
  const Tensor lse =
      empty({n}, {.dtype = logits.dtype() == DType::f64 ? DType::f64 : DType::f32, .device = logits.device()});
  launch(logits.device(), kernels::CrossEntropy{logits.dtype(), n, logits.size(1), logits.raw(),
                                                targets_of(wanted, options), each.raw(), lse.raw()});
  const double scale = options.reduction == LossReduction::mean ? 1 / static_cast<double>(count) : 1;
  return record<CrossEntropyRule>(total(each, options.reduction, scale), {logits}, logits, wanted, lse, options, scale);
}

Tensor nll_loss(const Tensor& log_probabilities, const Tensor& target, LossReduction reduction) {
  check(log_probabilities.rank() == 2 && target.shape() == Shape{log_probabilities.size(0)},
        "nll_loss: expected log-probabilities [n, classes] and targets [n], got {} and {}", log_probabilities.shape(),
        target.shape());
  return reduced(-gather(log_probabilities, 1, target.unsqueeze(1)).squeeze(1), reduction);
}

Tensor mse_loss(const Tensor& x, const Tensor& target, LossReduction reduction) {
  return reduced(square(x - target), reduction);
}
Tensor l1_loss(const Tensor& x, const Tensor& target, LossReduction reduction) {
  return reduced(abs(x - target), reduction);
}
Tensor binary_cross_entropy_with_logits(const Tensor& logits, const Tensor& target, LossReduction reduction) {
  return reduced((1 - target) * logits + softplus(-logits), reduction);
}

}  // namespace v0
}  // namespace anneal
