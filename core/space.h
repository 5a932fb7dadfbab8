// From tensors to the loop nests that kernels run over. Private.
#pragma once

#include <array>

#include "anneal/core/tensor.h"
#include "anneal/kernels/kernels.h"

namespace anneal {
inline namespace v0 {
namespace detail {

// Fills size and stride (one row of `kernels::max_rank` for each operand); returns the rank. The last operand decides
// the order of the dimensions; those that can be walked as one are merged.
int fill_space(const Shape& shape, const Tensor* const* operands, int count, std::int64_t* size,
               std::int64_t (*stride)[kernels::max_rank]);

}  // namespace detail

/// A space over `shape` for operands that broadcast to it; the result, of that very shape, comes last.
template <class... Tensors>
kernels::Space<sizeof...(Tensors)> space_of(const Shape& shape, const Tensors&... operands) {
  kernels::Space<sizeof...(Tensors)> space;
  const Tensor* pointers[] = {&operands...};
  space.rank = detail::fill_space(shape, pointers, sizeof...(Tensors), space.size, space.stride);
  return space;
}

/// A new tensor of x's shape, dtype (or another) and device; x's strides too if it has no gaps.
Tensor empty_like(const Tensor& x);
Tensor empty_like(const Tensor& x, DType dtype);

}  // namespace v0
}  // namespace anneal
