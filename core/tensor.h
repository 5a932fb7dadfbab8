// The tensor: a handle to shared memory with a shape, and its place in the autograd graph.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <ostream>
#include <span>
#include <vector>

#include "anneal/core/device.h"
#include "anneal/core/error.h"
#include "anneal/core/shape.h"
#include "anneal/core/storage.h"
#include "anneal/core/version.h"

namespace anneal {
inline namespace v0 {

class Node;
class Hook;

/// What every handle to one tensor shares. A parameter keeps its impl for life: moving it to another device, or into an
/// arena, exchanges the storage inside.
struct TensorImpl final : RefCounted {
  Ref<Storage> storage;
  std::int64_t offset = 0;  // in elements
  Shape shape;
  Shape strides;
  DType dtype = DType::f32;
  /// The op that made it (its gradient goes there), a Leaf that collects gradients, or null: needs none.
  Ref<Node> grad_fn;
  /// A parameter's 16-bit copy and the version of `storage` that it was made from (core/autocast.h).
  Ref<TensorImpl> twin;
  std::uint32_t twin_version = 0;

  TensorImpl(Ref<Storage> storage, std::int64_t offset, const Shape& shape, const Shape& strides, DType dtype);
  ~TensorImpl() override;
};

/// An n-dimensional array of one DType on one device. Copies of a handle are the same tensor; `clone()` makes another.
/// Views share memory. Ops are free functions (core/ops.h).
class Tensor {
 public:
  /// No tensor: `defined()` is false.
  Tensor() = default;
  explicit Tensor(Ref<TensorImpl> impl) : impl_(std::move(impl)) {}

  bool defined() const { return static_cast<bool>(impl_); }
  const Shape& shape() const { return impl().shape; }
  const Shape& strides() const { return impl().strides; }
  int rank() const { return impl().shape.rank(); }
  /// The size of one dimension; negative ones count from the end.
  std::int64_t size(int dim) const { return impl().shape[dim]; }
  std::int64_t numel() const { return impl().shape.numel(); }
  DType dtype() const { return impl().dtype; }
  Device device() const { return impl().storage->device(); }
  /// Row-major without gaps.
  bool is_contiguous() const;

  /// The first element. Throws Error when T is not the dtype or the tensor is not on the CPU.
  template <class T>
  T* data() const {
    check_access(dtype_of<T>, false);
    return static_cast<T*>(raw());
  }
  /// All elements of a contiguous CPU tensor.
  template <class T>
  std::span<T> span() const {
    check_access(dtype_of<T>, true);
    return {static_cast<T*>(raw()), static_cast<std::size_t>(numel())};
  }
  /// The first element's address, whatever the dtype.
  void* raw() const {
    return impl().storage->data() + impl_->offset * static_cast<std::int64_t>(size_of(impl_->dtype));
  }
  /// The value of a tensor with one element. Throws Error for any other number of elements.
  double item() const;
  /// All elements as doubles, in row-major order; for printing and tests.
  std::vector<double> to_vector() const;

  // ---- copies ----

  /// Converted; the tensor itself when there is nothing to do. Differentiable.
  Tensor to(DType dtype) const;
  /// On another device; the tensor itself if it is there. Copies to a GPU are queued, copies from one are waited for.
  Tensor to(Device device) const;
  /// A copy of a CPU tensor in page-locked memory (`pinned_allocator`): from there it is copied to a GPU fastest.
  Tensor pin_memory() const;
  /// A contiguous copy. Differentiable.
  Tensor clone() const;
  /// The tensor itself if it is contiguous, else a copy. Differentiable.
  Tensor contiguous() const;

  // ---- views: they share memory and are differentiable; negative dimensions count from the end. A view of a temporary
  // is the memory's only owner ----

  /// The same elements in another shape; one size may be -1. Copies where strides do not allow a view.
  Tensor reshape(Shape shape) const&;
  Tensor reshape(Shape shape) && { return lvalue(Tensor(std::move(*this))).reshape(shape); }
  /// As reshape, but throws Error where a copy would be needed.
  Tensor view(Shape shape) const&;
  Tensor view(Shape shape) && { return lvalue(Tensor(std::move(*this))).view(shape); }
  /// Dimensions `from` to `to`, both included, as one.
  Tensor flatten(int from = 0, int to = -1) const&;
  Tensor flatten(int from = 0, int to = -1) && { return lvalue(Tensor(std::move(*this))).flatten(from, to); }
  Tensor transpose(int dim0, int dim1) const;
  /// Dimension d of the result is dimension order[d].
  Tensor permute(std::span<const int> order) const;
  Tensor permute(std::initializer_list<int> order) const { return permute(std::span(order.begin(), order.size())); }
  /// Positions begin, begin + step, ... before `end` of one dimension; negative positions count from the end, and those
  /// past it are cut off.
  Tensor slice(int dim, std::int64_t begin, std::int64_t end, std::int64_t step = 1) const;
  /// Position `index` of one dimension, which goes away.
  Tensor select(int dim, std::int64_t index) const;
  /// Sizes of 1 repeated to `shape` without copying, by the rules of broadcasting.
  Tensor expand(const Shape& shape) const;
  /// Without dimension `dim`, which must have size 1; with a dimension of size 1 put before `dim`.
  Tensor squeeze(int dim) const;
  Tensor unsqueeze(int dim) const;

  // ---- autograd (core/autograd.h) ----

  /// Whether gradients are computed for it: it is a leaf that asked for them, or was made from one.
  bool requires_grad() const { return impl_ && impl_->grad_fn; }
  /// Asks for (or forgoes) gradients. Only for leaves of a floating dtype, else throws Error.
  Tensor& set_requires_grad(bool on = true);
  bool is_leaf() const;
  /// The gradient collected so far; undefined when there was none since the last zero_grad.
  Tensor grad() const;
  /// Forgets the gradient. Its memory is kept and overwritten by the next backward.
  void zero_grad() const;
  /// The same memory, outside the graph.
  Tensor detach() const;
  /// Computes the gradients of all leaves that this scalar was made from. Throws Error unless it has one element.
  void backward() const;
  /// The same for any shape, given the gradient of the result with respect to this tensor.
  void backward(const Tensor& gradient) const;
  /// Calls `hook(const Tensor& gradient)` in backward, when this tensor's gradient is complete: once per backward. It
  /// may return nothing or, unless the tensor is a leaf, another gradient to go on with.
  template <class F>
  void register_hook(F hook) const;

  // ---- writing in place; throws Error on a tensor that takes part in a graph which is being recorded ----

  const Tensor& fill_(double value) const;
  const Tensor& zero_() const { return fill_(0); }
  /// Copies `source`, converted and broadcast to this tensor's dtype and shape.
  const Tensor& copy_(const Tensor& source) const;
  /// this = this + alpha * other
  const Tensor& add_(const Tensor& other, double alpha = 1) const;
  const Tensor& mul_(const Tensor& other) const;
  const Tensor& mul_(double factor) const;
  /// Tells the engine that the memory was written through a pointer.
  void bump_version() const { impl().storage->bump_version(); }

  /// Identity: two handles to the same tensor.
  bool same(const Tensor& other) const { return impl_ == other.impl_; }
  /// The shared part; for those who extend the engine. Throws Error on an undefined tensor.
  TensorImpl& impl() const {
    if (!impl_) [[unlikely]]
      undefined();
    return *impl_;
  }

 private:
  static const Tensor& lvalue(const Tensor& tensor) { return tensor; }
  [[noreturn]] static void undefined();
  void check_access(DType dtype, bool whole) const;
  void add_hook(Ref<Hook> hook) const;

  Ref<TensorImpl> impl_;
};

/// Shape, dtype and the elements, long ones shortened.
std::ostream& operator<<(std::ostream& out, const Tensor& tensor);

// ---- making tensors ----

struct TensorOptions {
  DType dtype = DType::f32;
  Device device = {};
  bool requires_grad = false;
};

/// Not initialised.
Tensor empty(const Shape& shape, TensorOptions options = {});
Tensor zeros(const Shape& shape, TensorOptions options = {});
Tensor ones(const Shape& shape, TensorOptions options = {});
Tensor full(const Shape& shape, double value, TensorOptions options = {});
/// Over memory that is there: `data` are its elements, aligned for their dtype and without gaps. `owner` keeps them
/// alive as long as the tensor or a view of it lives; without one they must outlive those.
Tensor from_blob(void* data, const Shape& shape, TensorOptions options = {}, std::shared_ptr<void> owner = {});
/// 0, 1, ..., n - 1
Tensor arange(std::int64_t n, TensorOptions options = {.dtype = DType::i64});
/// A tensor with these elements, in row-major order. Throws Error when their number does not fit.
Tensor tensor(std::span<const double> values, const Shape& shape, TensorOptions options = {});
Tensor tensor(std::initializer_list<double> values, TensorOptions options = {});
Tensor tensor(std::initializer_list<double> values, const Shape& shape, TensorOptions options = {});
/// A scalar.
Tensor scalar(double value, TensorOptions options = {});

}  // namespace v0
}  // namespace anneal

#include "anneal/core/hook.h"
