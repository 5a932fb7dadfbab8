#include "anneal/core/space.h"

#include <algorithm>
#include <numeric>

namespace anneal {
inline namespace v0 {
namespace detail {
namespace {

// The stride of `operand` along dimension d of `shape`, which it broadcasts to.
std::int64_t broadcast_stride(const Tensor& operand, const Shape& shape, int d) {
  const int own = d - (shape.rank() - operand.rank());
  return own < 0 || operand.shape()[own] == 1 ? 0 : operand.strides()[own];
}

}  // namespace

int fill_space(const Shape& shape, const Tensor* const* operands, int count, std::int64_t* size,
               std::int64_t (*stride)[kernels::max_rank]) {
  int order[kernels::max_rank];
  int rank = 0;
  for (int d = 0; d < shape.rank(); ++d)
    if (shape[d] != 1) order[rank++] = d;
  const Tensor& result = *operands[count - 1];
  if (!result.is_contiguous()) {
    std::stable_sort(order, order + rank, [&](int a, int b) {
      return broadcast_stride(result, shape, a) > broadcast_stride(result, shape, b);
    });
  }
  int out = -1;
  for (int i = 0; i < rank; ++i) {
    const std::int64_t n = shape[order[i]];
    bool merges = out >= 0;
    std::int64_t strides[8];
    for (int k = 0; k < count; ++k) {
      strides[k] = broadcast_stride(*operands[k], shape, order[i]);
      merges = merges && stride[k][out] == strides[k] * n;
    }
    if (!merges) size[++out] = 1;
    size[out] *= n;
    for (int k = 0; k < count; ++k) stride[k][out] = strides[k];
  }
  return out + 1;
}

}  // namespace detail

Tensor empty_like(const Tensor& x) { return empty_like(x, x.dtype()); }

Tensor empty_like(const Tensor& x, DType dtype) {
  Tensor y = empty(x.shape(), {.dtype = dtype, .device = x.device()});
  if (x.is_contiguous() || x.numel() == 0) return y;
  // Dense in another order: walking the dimensions from the smallest stride up leaves no gap.
  int order[Shape::max_rank];
  std::iota(order, order + x.rank(), 0);
  std::sort(order, order + x.rank(), [&](int a, int b) { return x.strides()[a] < x.strides()[b]; });
  std::int64_t expected = 1;
  for (int i = 0; i < x.rank(); ++i) {
    const std::int64_t n = x.shape()[order[i]];
    if (n == 1) continue;
    if (x.strides()[order[i]] != expected) return y;
    expected *= n;
  }
  y.impl().strides = x.strides();
  return y;
}

}  // namespace v0
}  // namespace anneal
