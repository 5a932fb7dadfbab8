// Joining tensors and cutting them.
#include <algorithm>

#include "anneal/core/autocast.h"
#include "anneal/core/autograd.h"
#include "anneal/core/dispatch.h"
#include "anneal/core/ops.h"

namespace anneal {
inline namespace v0 {
namespace {

struct CatRule {
  static constexpr const char* name = "cat";
  static void backward(const Tensor& dy, Gradients& dx, const std::vector<std::int64_t>& sizes, int dim) {
    std::int64_t begin = 0;
    for (std::size_t i = 0; i < sizes.size(); begin += sizes[i++])
      if (dx.wants(static_cast<int>(i))) dx.set(static_cast<int>(i), dy.slice(dim, begin, begin + sizes[i]));
  }
};

}  // namespace

Tensor cat(std::span<const Tensor> tensors, int dim) {
  check(!tensors.empty(), "cat: expected at least one tensor");
  const Tensor& first = tensors[0];
  const auto other = std::ranges::find_if(tensors, [&](const Tensor& x) { return x.dtype() != first.dtype(); });
  if (other != tensors.end()) {
    autocast_pair(policy_of("cat"), first, *other, "cat");
    std::vector<Tensor> full;
    for (const Tensor& x : tensors) full.push_back(x.to(DType::f32));
    return cat(full, dim);
  }
  dim = first.shape().wrap(dim);
  Shape shape = first.shape();
  shape[dim] = 0;
  std::vector<std::int64_t> sizes;
  for (const Tensor& x : tensors) {
    check_devices("cat", first, x);
    check(
        x.rank() == first.rank() && x.shape().without(dim) == first.shape().without(dim) && x.dtype() == first.dtype(),
        "cat: {} {} and {} {} do not fit along dimension {}", name_of(first.dtype()), first.shape(), name_of(x.dtype()),
        x.shape(), dim);
    sizes.push_back(x.shape()[dim]);
    shape[dim] += sizes.back();
  }
  const Tensor y = empty(shape, {.dtype = first.dtype(), .device = first.device()});
  {
    const NoGrad no_grad;
    std::int64_t begin = 0;
    for (std::size_t i = 0; i < sizes.size(); begin += sizes[i++])
      y.slice(dim, begin, begin + sizes[i]).copy_(tensors[i]);
  }
  return record_all<CatRule>(y, tensors, sizes, dim);
}

Tensor stack(std::span<const Tensor> tensors, int dim) {
  check(!tensors.empty(), "stack: expected at least one tensor");
  const int at = dim < 0 ? dim + tensors[0].rank() + 1 : dim;
  std::vector<Tensor> parts;
  parts.reserve(tensors.size());
  for (const Tensor& x : tensors) {
    check(x.shape() == tensors[0].shape(), "stack: shapes {} and {} differ", tensors[0].shape(), x.shape());
    parts.push_back(x.unsqueeze(at));
  }
  return cat(parts, at);
}

Tensor cat(std::initializer_list<Tensor> tensors, int dim) {
  return cat(std::span(tensors.begin(), tensors.size()), dim);
}
Tensor stack(std::initializer_list<Tensor> tensors, int dim) {
  return stack(std::span(tensors.begin(), tensors.size()), dim);
}

std::vector<Tensor> split(const Tensor& x, std::int64_t size, int dim) {
  check(size >= 1, "split: pieces must have at least 1 element, got {}", size);
  std::vector<Tensor> pieces;
  for (std::int64_t begin = 0; begin < x.size(dim); begin += size) pieces.push_back(x.slice(dim, begin, begin + size));
  return pieces;
}

}  // namespace v0
}  // namespace anneal
