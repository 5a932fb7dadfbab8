#include "anneal/core/shape.h"

#include <algorithm>

#include "anneal/core/error.h"

namespace anneal {
inline namespace v0 {

Shape::Shape(std::span<const std::int64_t> sizes) : rank_(static_cast<int>(sizes.size())) {
  check(sizes.size() <= max_rank, "shape: at most {} dimensions, got {}", max_rank, sizes.size());
  std::copy(sizes.begin(), sizes.end(), sizes_.begin());
}

void Shape::no_such_dimension(int dim) const {
  throw Error(format("dimension {} does not exist in shape {}, which has {} dimensions", dim, *this, rank_));
}

Shape Shape::without(int dim) const {
  Shape out = *this;
  dim = wrap(dim);
  std::copy(sizes_.begin() + dim + 1, sizes_.begin() + rank_, out.sizes_.begin() + dim);
  out.sizes_[static_cast<std::size_t>(--out.rank_)] = 0;
  return out;
}

Shape Shape::with(int dim, std::int64_t size) const {
  check(rank_ < max_rank, "shape: at most {} dimensions, cannot add one to {}", max_rank, *this);
  check(dim >= 0 && dim <= rank_, "dimension {} cannot be inserted into {}", dim, *this);
  Shape out = *this;
  std::copy_backward(sizes_.begin() + dim, sizes_.begin() + rank_, out.sizes_.begin() + rank_ + 1);
  out.sizes_[static_cast<std::size_t>(dim)] = size;
  ++out.rank_;
  return out;
}

Shape Shape::contiguous_strides() const {
  Shape strides = *this;
  std::int64_t stride = 1;
  for (int d = rank_ - 1; d >= 0; --d) {
    strides[d] = stride;
    stride *= std::max<std::int64_t>((*this)[d], 1);
  }
  return strides;
}

std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  out << '[';
  for (int d = 0; d < shape.rank(); ++d) out << (d ? ", " : "") << shape[d];
  return out << ']';
}

Shape broadcast(const Shape& a, const Shape& b, const char* op) {
  if (a == b) return a;
  Shape out = a.rank() >= b.rank() ? a : b;
  for (int d = 1; d <= out.rank(); ++d) {
    const std::int64_t x = d <= a.rank() ? a[-d] : 1;
    const std::int64_t y = d <= b.rank() ? b[-d] : 1;
    check(x == y || x == 1 || y == 1, "{}: shapes {} and {} do not broadcast", op, a, b);
    out[-d] = x == 1 ? y : x;
  }
  return out;
}

}  // namespace v0
}  // namespace anneal
