// Views, and the copies between layouts and dtypes.
#include <algorithm>

#include "anneal/core/autograd.h"
#include "anneal/core/dispatch.h"
#include "anneal/core/ops.h"
#include "anneal/core/space.h"

namespace anneal {
inline namespace v0 {
namespace {

Tensor view_of(const Tensor& x, std::int64_t offset, const Shape& shape, const Shape& strides) {
  return Tensor(make_ref<TensorImpl>(x.impl().storage, offset, shape, strides, x.dtype()));
}

// Strides that show x in another shape, or false where only a copy can.
bool reshape_strides(const Tensor& x, const Shape& shape, Shape& strides) {
  strides = shape.contiguous_strides();
  if (x.is_contiguous()) return true;
  int d = x.rank() - 1;
  std::int64_t stride = 0;
  std::int64_t left = 1;  // of the run of old dimensions that new ones are being cut from
  for (int n = shape.rank() - 1; n >= 0; --n) {
    if (shape[n] == 1) continue;
    if (left == 1) {
      while (d >= 0 && x.shape()[d] == 1) --d;
      if (d < 0) return false;
      left = x.shape()[d];
      stride = x.strides()[d];
      while (d > 0 && x.strides()[d - 1] == x.strides()[d] * x.shape()[d]) left *= x.shape()[--d];
      --d;
    }
    if (left % shape[n] != 0) return false;
    strides[n] = stride;
    stride *= shape[n];
    left /= shape[n];
  }
  return true;
}

Shape resolve(const Tensor& x, Shape shape, const char* op) {
  int unknown = -1;
  std::int64_t known = 1;
  for (int d = 0; d < shape.rank(); ++d) {
    if (shape[d] == -1) {
      check(unknown < 0, "{}: more than one -1 in {}", op, shape);
      unknown = d;
    } else {
      known *= shape[d];
    }
  }
  if (unknown >= 0) {
    check(known > 0 && x.numel() % known == 0, "{}: {} elements of shape {} do not fit {}", op, x.numel(), x.shape(),
          shape);
    shape[unknown] = x.numel() / known;
  }
  check(shape.numel() == x.numel(), "{}: {} elements of shape {} do not fit {}", op, x.numel(), x.shape(), shape);
  return shape;
}

struct ReshapeRule {
  static constexpr const char* name = "reshape";
  static void backward(const Tensor& dy, Gradients& dx, const Shape& shape) { dx.set(0, dy.reshape(shape)); }
};
struct PermuteRule {
  static constexpr const char* name = "permute";
  static void backward(const Tensor& dy, Gradients& dx, const Shape& inverse) {
    int order[Shape::max_rank];
    std::copy(inverse.begin(), inverse.end(), order);
    dx.set(0, dy.permute(std::span<const int>(order, static_cast<std::size_t>(inverse.rank()))));
  }
};
struct ExpandRule {
  static constexpr const char* name = "expand";
  static void backward(const Tensor& dy, Gradients& dx, const Shape& shape) { dx.set(0, sum_to(dy, shape)); }
};
struct CloneRule {
  static constexpr const char* name = "clone";
  static void backward(const Tensor& dy, Gradients& dx) { dx.set(0, dy); }
};
struct ToRule {
  static constexpr const char* name = "to";
  static void backward(const Tensor& dy, Gradients& dx, DType from) { dx.set(0, dy.to(from)); }
};

struct Slice {
  int dim;
  std::int64_t begin, end, step;
};

// The gradient of a slice is zero but where the slice was; the gradient of that is a slice again.
Tensor unslice(const Tensor& dy, const Shape& shape, const Slice& at);
struct UnsliceRule {
  static constexpr const char* name = "slice_backward";
  static void backward(const Tensor& dy, Gradients& dx, const Slice& at) {
    dx.set(0, dy.slice(at.dim, at.begin, at.end, at.step));
  }
};
struct SliceRule {
  static constexpr const char* name = "slice";
  static void backward(const Tensor& dy, Gradients& dx, const Shape& shape, const Slice& at) {
    dx.set(0, unslice(dy, shape, at));
  }
};
Tensor unslice(const Tensor& dy, const Shape& shape, const Slice& at) {
  const Tensor x = zeros(shape, {.dtype = dy.dtype(), .device = dy.device()});
  {
    const NoGrad no_grad;
    x.slice(at.dim, at.begin, at.end, at.step).copy_(dy);
  }
  return record<UnsliceRule>(x, {dy}, at);
}

Tensor copy_to(const Tensor& x, const Tensor& y) {
  launch(x.device(), kernels::Copy{x.dtype(), y.dtype(), space_of(x.shape(), x, y), x.raw(), y.raw()});
  return y;
}

}  // namespace

Tensor Tensor::view(Shape shape) const& {
  shape = resolve(*this, shape, "view");
  Shape strides;
  check(reshape_strides(*this, shape, strides), "view: shape {} with strides {} cannot be seen as {}; use reshape",
        this->shape(), this->strides(), shape);
  return record<ReshapeRule>(view_of(*this, impl_->offset, shape, strides), {*this}, this->shape());
}

Tensor Tensor::reshape(Shape shape) const& {
  shape = resolve(*this, shape, "reshape");
  if (shape == this->shape()) return *this;
  Shape strides;
  return reshape_strides(*this, shape, strides) ? view(shape) : contiguous().view(shape);
}

Tensor Tensor::flatten(int from, int to) const& {
  if (rank() == 0) return reshape({1});
  from = shape().wrap(from);
  to = shape().wrap(to);
  check(from <= to, "flatten: dimension {} comes after {}", from, to);
  Shape out = shape();
  for (int d = from; d < to; ++d) {
    out[from] *= out[from + 1];
    out = out.without(from + 1);
  }
  return reshape(out);
}

Tensor Tensor::permute(std::span<const int> order) const {
  check(static_cast<int>(order.size()) == rank(), "permute: {} dimensions for a tensor of shape {}", order.size(),
        shape());
  Shape new_shape = shape();
  Shape new_strides = strides();
  Shape inverse = shape();
  bool seen[Shape::max_rank] = {};
  for (int d = 0; d < rank(); ++d) {
    const int from = shape().wrap(order[static_cast<std::size_t>(d)]);
    check(!std::exchange(seen[from], true), "permute: dimension {} is given twice", from);
    new_shape[d] = shape()[from];
    new_strides[d] = strides()[from];
    inverse[from] = d;
  }
  return record<PermuteRule>(view_of(*this, impl_->offset, new_shape, new_strides), {*this}, inverse);
}

Tensor Tensor::transpose(int dim0, int dim1) const {
  int order[Shape::max_rank];
  for (int d = 0; d < rank(); ++d) order[d] = d;
  std::swap(order[shape().wrap(dim0)], order[shape().wrap(dim1)]);
  return permute(std::span<const int>(order, static_cast<std::size_t>(rank())));
}

Tensor Tensor::slice(int dim, std::int64_t begin, std::int64_t end, std::int64_t step) const {
  dim = shape().wrap(dim);
  check(step >= 1, "slice: the step must be positive, got {}", step);
  const std::int64_t n = shape()[dim];
  const auto clip = [n](std::int64_t i) { return std::clamp<std::int64_t>(i < 0 ? i + n : i, 0, n); };
  begin = clip(begin);
  end = std::max(clip(end), begin);
  Shape new_shape = shape();
  Shape new_strides = strides();
  new_shape[dim] = (end - begin + step - 1) / step;
  new_strides[dim] *= step;
  return record<SliceRule>(view_of(*this, impl_->offset + begin * strides()[dim], new_shape, new_strides), {*this},
                           shape(), Slice{dim, begin, end, step});
}

Tensor Tensor::select(int dim, std::int64_t index) const {
  const std::int64_t n = size(dim);
  check(index >= -n && index < n, "select: position {} of dimension {}, which has size {}", index, dim, n);
  if (index < 0) index += n;
  return slice(dim, index, index + 1).squeeze(dim);
}

Tensor Tensor::expand(const Shape& to) const {
  if (to == shape()) return *this;
  check(broadcast(shape(), to, "expand") == to, "expand: shape {} does not broadcast to {}", shape(), to);
  Shape new_strides = to;
  for (int d = 1; d <= to.rank(); ++d) new_strides[-d] = d > rank() || shape()[-d] == 1 ? 0 : strides()[-d];
  return record<ExpandRule>(view_of(*this, impl_->offset, to, new_strides), {*this}, shape());
}

Tensor Tensor::squeeze(int dim) const {
  check(size(dim) == 1, "squeeze: dimension {} of shape {} is not 1", dim, shape());
  return record<ReshapeRule>(view_of(*this, impl_->offset, shape().without(dim), strides().without(dim)), {*this},
                             shape());
}

Tensor Tensor::unsqueeze(int dim) const {
  const int at = dim < 0 ? dim + rank() + 1 : dim;
  return record<ReshapeRule>(view_of(*this, impl_->offset, shape().with(at, 1), strides().with(at, 1)), {*this},
                             shape());
}

Tensor Tensor::clone() const {
  return record<CloneRule>(copy_to(*this, empty(shape(), {.dtype = dtype(), .device = device()})), {*this});
}

Tensor Tensor::contiguous() const { return is_contiguous() ? *this : clone(); }

Tensor Tensor::to(DType to) const {
  if (to == dtype()) return *this;
  Tensor y = copy_to(*this, empty_like(*this, to));
  return is_floating(to) ? record<ToRule>(y, {*this}, dtype()) : y;
}

}  // namespace v0
}  // namespace anneal
