// Reductions over any dimensions.
#include <cmath>

#include "anneal/core/autocast.h"
#include "anneal/core/autograd.h"
#include "anneal/core/dispatch.h"
#include "anneal/core/ops.h"
#include "anneal/core/space.h"

namespace anneal {
inline namespace v0 {
namespace {

using kernels::Reduction;

// Which dimensions go, and the two shapes of the result.
struct Plan {
  bool reduced[Shape::max_rank] = {};
  Shape kept;     // without them
  Shape keepdim;  // with size 1 in their place
  std::int64_t count = 1;
};

Plan plan_for(const Tensor& x, std::span<const int> dims, const char* op) {
  Plan plan;
  for (int dim : dims) {
    const int d = x.shape().wrap(dim);
    check(!std::exchange(plan.reduced[d], true), "{}: dimension {} is given twice", op, dim);
  }
  for (int d = 0; d < x.rank(); ++d) {
    const bool reduced = plan.reduced[d] = plan.reduced[d] || dims.empty();
    plan.keepdim = plan.keepdim.with(d, reduced ? 1 : x.shape()[d]);
    if (reduced) plan.count *= x.shape()[d];
    else plan.kept = plan.kept.with(plan.kept.rank(), x.shape()[d]);
  }
  return plan;
}

// x as [outer, reduced, inner]: directly if the reduced dimensions stand together, else through a copy with them last.
struct Rows {
  Tensor x;
  std::int64_t outer = 1, reduced = 1, inner = 1;
};
Rows rows_of(const Tensor& x, const Plan& plan) {
  Rows rows;
  int order[Shape::max_rank];
  int n = 0;
  bool together = true;
  for (int d = 0; d < x.rank(); ++d) {
    if (plan.reduced[d]) {
      together = together && rows.inner == 1;
      rows.reduced *= x.shape()[d];
    } else {
      (rows.reduced == 1 ? rows.outer : rows.inner) *= x.shape()[d];
      order[n++] = d;
    }
  }
  if (!together) {
    for (int d = 0; d < x.rank(); ++d)
      if (plan.reduced[d]) order[n++] = d;
    rows.x = x.permute(std::span<const int>(order, static_cast<std::size_t>(n))).contiguous();
    rows.outer *= rows.inner;
    rows.inner = 1;
  } else {
    rows.x = x.contiguous();
  }
  return rows;
}

// `out` is x's dtype, or f32 where that has 16 bits.
Tensor reduce(Reduction op, const Tensor& x, DType out, const Plan& plan, bool keepdim) {
  const NoGrad no_grad;
  const Rows rows = rows_of(x, plan);
  const Tensor y = empty(keepdim ? plan.keepdim : plan.kept, {.dtype = out, .device = x.device()});
  launch(x.device(), kernels::Reduce{op, x.dtype(), out, rows.outer, rows.reduced, rows.inner, rows.x.raw(), y.raw()});
  return y;
}

struct SumRule {
  static constexpr const char* name = "sum";
  static void backward(const Tensor& dy, Gradients& dx, DType dtype, const Shape& shape, const Shape& keepdim) {
    dx.set(0, dy.to(dtype).reshape(keepdim).expand(shape));
  }
};
struct MeanRule {
  static constexpr const char* name = "mean";
  static void backward(const Tensor& dy, Gradients& dx, DType dtype, const Shape& shape, const Shape& keepdim,
                       double count) {
    dx.set(0, (dy.reshape(keepdim) * (1 / count)).to(dtype).expand(shape));
  }
};
struct ExtremeRule {
  static constexpr const char* name = "amax";
  static void backward(const Tensor& dy, Gradients& dx, const Tensor& x, const Tensor& y, const Shape& keepdim) {
    const Tensor hit = eq(x.detach(), y.detach().reshape(keepdim).expand(x.shape())).to(dy.dtype());
    int dims[Shape::max_rank];
    int n = 0;
    for (int d = 0; d < keepdim.rank(); ++d)
      if (keepdim[d] != x.shape()[d]) dims[n++] = d;
    const Tensor hits = n ? sum(hit, std::span<const int>(dims, static_cast<std::size_t>(n)), true) : hit;
    dx.set(0, dy.reshape(keepdim) * (hit / hits));
  }
};
struct ProdRule {
  static constexpr const char* name = "prod";
  static void backward(const Tensor& dy, Gradients& dx, const Tensor& x, int dim) {
    // The product of all others, element by element: right where some are zero, and differentiable.
    std::vector<Tensor> parts;
    for (std::int64_t i = 0; i < x.size(dim); ++i) {
      Tensor others = ones(x.select(dim, 0).shape(), {.dtype = x.dtype(), .device = x.device()});
      for (std::int64_t j = 0; j < x.size(dim); ++j)
        if (j != i) others = others * x.select(dim, j);
      parts.push_back(others * dy);
    }
    dx.set(0, parts.empty() ? zeros(x.shape(), {.dtype = x.dtype(), .device = x.device()}) : stack(parts, dim));
  }
};

Tensor extreme(Reduction op, const Tensor& x, std::span<const int> dims, bool keepdim, const char* name) {
  const Plan plan = plan_for(x, dims, name);
  check(plan.count > 0, "{}: nothing to reduce in shape {}", name, x.shape());
  const Tensor y = reduce(op, x, x.dtype(), plan, keepdim);
  return is_floating(x.dtype()) ? record<ExtremeRule>(y, {x}, x, y, plan.keepdim) : y;
}

Tensor arg(bool largest, const Tensor& x, int dim, bool keepdim) {
  const char* name = largest ? "argmax" : "argmin";
  dim = x.shape().wrap(dim);
  const int dims[] = {dim};
  const Plan plan = plan_for(x, dims, name);
  check(plan.count > 0, "{}: nothing to choose from in shape {}", name, x.shape());
  const NoGrad no_grad;
  const Rows rows = rows_of(x, plan);
  const Tensor y = empty(keepdim ? plan.keepdim : plan.kept, {.dtype = DType::i64, .device = x.device()});
  launch(x.device(), kernels::ArgReduce{largest, x.dtype(), rows.outer, rows.reduced, rows.inner, rows.x.raw(),
                                        static_cast<std::int64_t*>(y.raw())});
  return y;
}

}  // namespace

Tensor sum(const Tensor& x, std::span<const int> dims, bool keepdim) {
  return sum(x, dims, keepdim, autocast_sum(x.dtype()));
}
Tensor sum(const Tensor& x, std::span<const int> dims, bool keepdim, DType out) {
  if (out != x.dtype() && !(size_of(x.dtype()) == 2 && out == DType::f32)) return sum(x.to(out), dims, keepdim);
  check(x.dtype() != DType::u8 && x.dtype() != DType::boolean, "sum: convert {} to a wider dtype first",
        name_of(x.dtype()));
  const Plan plan = plan_for(x, dims, "sum");
  return record<SumRule>(reduce(Reduction::sum, x, out, plan, keepdim), {x}, x.dtype(), x.shape(), plan.keepdim);
}

Tensor mean(const Tensor& x, std::span<const int> dims, bool keepdim) {
  check(is_floating(x.dtype()), "mean: expected a floating dtype, got {}", name_of(x.dtype()));
  const Plan plan = plan_for(x, dims, "mean");
  return record<MeanRule>(reduce(Reduction::mean, x, autocast_sum(x.dtype()), plan, keepdim), {x}, x.dtype(), x.shape(),
                          plan.keepdim, static_cast<double>(plan.count));
}

Tensor amax(const Tensor& x, std::span<const int> dims, bool keepdim) {
  return extreme(Reduction::max, x, dims, keepdim, "amax");
}
Tensor amin(const Tensor& x, std::span<const int> dims, bool keepdim) {
  return extreme(Reduction::min, x, dims, keepdim, "amin");
}
Tensor argmax(const Tensor& x, int dim, bool keepdim) { return arg(true, x, dim, keepdim); }
Tensor argmin(const Tensor& x, int dim, bool keepdim) { return arg(false, x, dim, keepdim); }

Tensor prod(const Tensor& x, int dim, bool keepdim) {
  if (const Tensor full = autocast(policy_of("prod"), x); full.defined()) return prod(full, dim, keepdim);
  dim = x.shape().wrap(dim);
  const int dims[] = {dim};
  const Tensor y =
      record<ProdRule>(reduce(Reduction::prod, x, x.dtype(), plan_for(x, dims, "prod"), false), {x}, x, dim);
  return keepdim ? y.unsqueeze(dim) : y;
}

Tensor var(const Tensor& x, std::span<const int> dims, int correction, bool keepdim) {
  if (const Tensor full = autocast(policy_of("var"), x); full.defined()) return var(full, dims, correction, keepdim);
  const auto count = static_cast<double>(plan_for(x, dims, "var").count);
  return sum(square(x - mean(x, dims, true)), dims, keepdim) * (1 / (count - correction));
}

Tensor logsumexp(const Tensor& x, std::span<const int> dims, bool keepdim) {
  const Plan plan = plan_for(x, dims, "logsumexp");
  // Shifting by the largest changes nothing but the range; rows of only -inf or +inf are not shifted.
  const Tensor top = amax(x.detach(), dims, true);
  const Tensor infinite = eq(abs(top), full({}, HUGE_VAL, {.dtype = x.dtype(), .device = x.device()}));
  const Tensor shift = masked_fill(top, infinite, 0);
  const Tensor y = log(sum(exp(x - shift), dims, true)) + shift;
  return keepdim ? y : y.reshape(plan.kept);
}

Tensor sum_to(const Tensor& x, const Shape& shape) {
  if (x.shape() == shape) return x;
  int dims[Shape::max_rank];
  int n = 0;
  const int leading = x.rank() - shape.rank();
  for (int d = 0; d < x.rank(); ++d)
    if (d < leading || (shape[d - leading] == 1 && x.shape()[d] != 1)) dims[n++] = d;
  const Tensor y = n ? sum(x, std::span<const int>(dims, static_cast<std::size_t>(n)), true) : x;
  return y.reshape(shape);
}

}  // namespace v0
}  // namespace anneal
