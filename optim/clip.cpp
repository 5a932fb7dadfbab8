#include "anneal/optim/clip.h"

#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "anneal/core/autograd.h"
#include "anneal/core/ops.h"

namespace anneal {
inline namespace v0 {
namespace optim {
namespace {

// 16-bit numbers are too few for sums.
Tensor widened(const Tensor& x) { return x.dtype() == DType::f64 ? x : x.to(DType::f32); }

// sum |x|^p, or the largest |x|.
Tensor power_sum(const Tensor& x, double p) {
  const Tensor magnitude = abs(widened(x));
  return std::isinf(p) ? amax(magnitude) : sum(pow(magnitude, p));
}

// Of what each index of the first dimension has, or of all of a vector.
Tensor unit_norms(const Tensor& x) {
  const Tensor wide = widened(x);
  if (x.rank() <= 1) return sqrt(sum(square(wide)));
  std::vector<int> dims(static_cast<std::size_t>(x.rank() - 1));
  std::iota(dims.begin(), dims.end(), 1);
  return sqrt(sum(square(wide), std::span<const int>(dims), true));
}

}  // namespace

void clip_group_norms(Optimizer& optimizer, std::span<const double> max_norms, double norm_type) {
  check(max_norms.size() == optimizer.groups(), "clip_group_norms: expected a limit for each of {} groups, got {}",
        optimizer.groups(), max_norms.size());
  const NoGrad no_grad;
  for (std::size_t g = 0; g < max_norms.size(); ++g) {
    std::vector<Tensor> gradients;
    for (const NamedTensor& p : optimizer.parameters(g))
      if (const Tensor gradient = p.tensor.grad(); gradient.defined() && gradient.numel() > 0)
        gradients.push_back(gradient);
    if (max_norms[g] == 0 || gradients.empty()) continue;
    Tensor total;
    for (const Tensor& gradient : gradients) {
      const Tensor part = power_sum(gradient, norm_type).to(DType::f64);
      if (!total.defined()) total = part;
      else total = std::isinf(norm_type) ? maximum(total, part) : total + part;
    }
    const Tensor norm = std::isinf(norm_type) ? total : pow(total, 1 / norm_type);
    const Tensor factor = clamp(max_norms[g] / (norm + 1e-6), 0, 1);
    for (const Tensor& gradient : gradients) gradient.mul_(factor.to(gradient.dtype()));
  }
}

void clip_adaptive(Optimizer& optimizer, double factor, double eps) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const NoGrad no_grad;
  for (std::size_t g = 0; g < optimizer.groups(); ++g)
    for (const NamedTensor& p : optimizer.parameters(g)) {
      const Tensor gradient = p.tensor.grad();
      if (!gradient.defined() || gradient.numel() == 0) continue;
      const Tensor limit = factor * clamp(unit_norms(p.tensor.detach()), eps, infinity);
      const Tensor share = clamp(limit / clamp(unit_norms(gradient), 1e-6, infinity), 0, 1);
      gradient.mul_(share.to(gradient.dtype()));
    }
}

}  // namespace optim
}  // namespace v0
}  // namespace anneal
