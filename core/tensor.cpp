#include "anneal/core/tensor.h"

#include <iomanip>

#include "anneal/core/autograd.h"
#include "anneal/core/dispatch.h"
#include "anneal/core/gpu.h"
#include "anneal/core/ops.h"
#include "anneal/core/space.h"

namespace anneal {
inline namespace v0 {

TensorImpl::TensorImpl(Ref<Storage> storage, std::int64_t offset, const Shape& shape, const Shape& strides, DType dtype)
    : storage(std::move(storage)), offset(offset), shape(shape), strides(strides), dtype(dtype) {}
TensorImpl::~TensorImpl() = default;

void Tensor::undefined() { throw Error("an undefined tensor was used"); }

bool Tensor::is_contiguous() const {
  if (numel() == 0) return true;
  std::int64_t expected = 1;
  for (int d = rank() - 1; d >= 0; --d) {
    const std::int64_t n = impl_->shape[d];
    if (n != 1 && impl_->strides[d] != expected) return false;
    expected *= n;
  }
  return true;
}

void Tensor::check_access(DType wanted, bool whole) const {
  check(dtype() == wanted, "the elements are {}, not {}", name_of(dtype()), name_of(wanted));
  check(device() == Device{}, "the elements are on {}; use to(Device{}) first", device());
  check(!whole || is_contiguous(), "span: the tensor of shape {} is not contiguous; use contiguous() first", shape());
}

double Tensor::item() const {
  check(numel() == 1, "item: expected one element, got shape {}", shape());
  const Tensor here = to(Device{});
  return visit(dtype(), [&]<class T>() { return static_cast<double>(load(*static_cast<const T*>(here.raw()))); });
}

std::vector<double> Tensor::to_vector() const {
  const NoGrad no_grad;
  const Tensor source = to(Device{}).contiguous();
  std::vector<double> values(static_cast<std::size_t>(numel()));
  visit(dtype(), [&]<class T>() {
    const T* x = static_cast<const T*>(source.raw());
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(load(x[i]));
  });
  return values;
}

namespace {

// Copies the bytes of dense tensors of one dtype and size.
void copy_between(const Tensor& from, const Tensor& to) {
  const std::size_t bytes = static_cast<std::size_t>(from.numel()) * size_of(from.dtype());
  if (bytes == 0) return;
  if constexpr (has_gpu) {
    const bool up = to.device().kind == DeviceKind::cuda, down = from.device().kind == DeviceKind::cuda;
    if (up && down) {  // between two GPUs, by way of the host
      copy_between(from.to(Device{}), to);
    } else {
      const Device device = up ? to.device() : from.device();
      gpu::copy(to.raw(), from.raw(), bytes, up ? gpu::Copying::to_device : gpu::Copying::to_host, stream_of(device));
      if (down) synchronize(device);
    }
  }
}

struct ToDeviceRule {
  static constexpr const char* name = "to";
  static void backward(const Tensor& dy, Gradients& dx, Device from) { dx.set(0, dy.to(from)); }
};

}  // namespace

Tensor Tensor::to(Device device) const {
  if (device == this->device()) return *this;
  check_device(device);
  const Tensor y = empty(shape(), {.dtype = dtype(), .device = device});
  {
    const NoGrad no_grad;
    copy_between(contiguous(), y);
  }
  return record<ToDeviceRule>(y, {*this}, this->device());
}

Tensor Tensor::pin_memory() const {
  check(device() == Device{}, "pin_memory: expected a tensor on the cpu, got {}", device());
  const auto bytes = static_cast<std::size_t>(numel()) * size_of(dtype());
  const auto storage = make_ref<Storage>(bytes, Device{}, pinned_allocator());
  const Tensor y(make_ref<TensorImpl>(storage, 0, shape(), shape().contiguous_strides(), dtype()));
  const NoGrad no_grad;
  y.copy_(*this);
  return y;
}

// ---- autograd ----

bool Tensor::is_leaf() const { return !impl().grad_fn || impl_->grad_fn->is_leaf(); }

Leaf* leaf_of(const Tensor& tensor) {
  Node* node = tensor.impl().grad_fn.get();
  return node && node->is_leaf() ? static_cast<Leaf*>(node) : nullptr;
}

Tensor& Tensor::set_requires_grad(bool on) {
  check(is_leaf(), "set_requires_grad: only leaves can change it; this tensor is the result of {}",
        requires_grad() ? impl_->grad_fn->name() : "");
  check(!on || is_floating(dtype()), "set_requires_grad: expected a floating dtype, got {}", name_of(dtype()));
  if (on == requires_grad()) return *this;
  impl_->grad_fn = on ? Ref<Node>(new Leaf) : Ref<Node>();
  return *this;
}

Tensor Tensor::grad() const {
  const Leaf* leaf = leaf_of(*this);
  if (!leaf || !leaf->touched) return {};
  if (leaf->deferred && leaf->deferred->pending) leaf->deferred->apply();
  return leaf->recorded.defined() ? leaf->recorded : leaf->slot;
}

void Tensor::zero_grad() const {
  if (Leaf* leaf = leaf_of(*this)) {
    leaf->touched = false;
    leaf->recorded = {};
  }
}

Tensor Tensor::detach() const {
  return Tensor(make_ref<TensorImpl>(impl().storage, impl_->offset, impl_->shape, impl_->strides, impl_->dtype));
}

void Tensor::add_hook(Ref<Hook> hook) const {
  check(requires_grad(), "register_hook: the tensor does not require gradients");
  impl_->grad_fn->hooks_.push_back(std::move(hook));
}

// ---- in place ----

namespace {

void check_in_place(const Tensor& tensor, const char* op) {
  check(!grad_enabled() || !tensor.requires_grad(),
        "{}: the tensor takes part in a graph; write to it under NoGrad, or use the op that makes a new tensor", op);
}

}  // namespace

const Tensor& Tensor::fill_(double value) const {
  check_in_place(*this, "fill_");
  launch(device(), kernels::Fill{dtype(), space_of(shape(), *this), value, raw()});
  bump_version();
  return *this;
}

const Tensor& Tensor::copy_(const Tensor& source) const {
  check_in_place(*this, "copy_");
  check(broadcast(source.shape(), shape(), "copy_") == shape(), "copy_: shape {} does not broadcast to {}",
        source.shape(), shape());
  const Tensor x = source.to(device());
  launch(device(), kernels::Copy{x.dtype(), dtype(), space_of(shape(), x, *this), x.raw(), raw()});
  bump_version();
  return *this;
}

namespace {

void binary_in_place(int op, const Tensor& y, const Tensor& other) {
  check(other.dtype() == y.dtype(), "{} is changed in place by {}; convert it first", name_of(y.dtype()),
        name_of(other.dtype()));
  check_devices("in place", y, other);
  check(broadcast(other.shape(), y.shape(), "in place") == y.shape(), "in place: shape {} does not broadcast to {}",
        other.shape(), y.shape());
  launch(y.device(), kernels::Binary{op, y.dtype(), space_of(y.shape(), y, other, y), y.raw(), other.raw(), y.raw()});
  y.bump_version();
}

}  // namespace

const Tensor& Tensor::add_(const Tensor& other, double alpha) const {
  check_in_place(*this, "add_");
  const NoGrad no_grad;
  binary_in_place(kernels::binary_id<kernels::Add>, *this, alpha == 1 ? other : other * alpha);
  return *this;
}
const Tensor& Tensor::mul_(const Tensor& other) const {
  check_in_place(*this, "mul_");
  binary_in_place(kernels::binary_id<kernels::Mul>, *this, other);
  return *this;
}
const Tensor& Tensor::mul_(double factor) const { return mul_(scalar(factor, {.dtype = dtype(), .device = device()})); }

// ---- making and printing ----

Tensor empty(const Shape& shape, TensorOptions options) {
  for (std::int64_t size : shape) check(size >= 0, "empty: negative size in {}", shape);
  const auto bytes = static_cast<std::size_t>(shape.numel()) * size_of(options.dtype);
  Tensor out(make_ref<TensorImpl>(make_ref<Storage>(bytes, options.device), 0, shape, shape.contiguous_strides(),
                                  options.dtype));
  if (options.requires_grad) out.set_requires_grad();
  return out;
}

Tensor from_blob(void* data, const Shape& shape, TensorOptions options, std::shared_ptr<void> owner) {
  for (std::int64_t size : shape) check(size >= 0, "from_blob: negative size in {}", shape);
  const auto bytes = static_cast<std::size_t>(shape.numel()) * size_of(options.dtype);
  check(bytes == 0 || data, "from_blob: expected the address of {} bytes, got null", bytes);
  check(reinterpret_cast<std::uintptr_t>(data) % size_of(options.dtype) == 0,
        "from_blob: expected an address aligned to the {} bytes of {}, got {}", size_of(options.dtype),
        name_of(options.dtype), data);
  Tensor out(make_ref<TensorImpl>(make_ref<Storage>(std::move(owner), data, bytes, options.device), 0, shape,
                                  shape.contiguous_strides(), options.dtype));
  if (options.requires_grad) out.set_requires_grad();
  return out;
}

Tensor full(const Shape& shape, double value, TensorOptions options) {
  const NoGrad no_grad;
  Tensor out = empty(shape, options);
  out.fill_(value);
  return out;
}
Tensor zeros(const Shape& shape, TensorOptions options) { return full(shape, 0, options); }
Tensor ones(const Shape& shape, TensorOptions options) { return full(shape, 1, options); }
Tensor scalar(double value, TensorOptions options) { return full({}, value, options); }

Tensor tensor(std::span<const double> values, const Shape& shape, TensorOptions options) {
  check(static_cast<std::int64_t>(values.size()) == shape.numel(), "tensor: {} values do not fill shape {}",
        values.size(), shape);
  const NoGrad no_grad;
  const Tensor exact = empty(shape, {.dtype = DType::f64});
  std::copy(values.begin(), values.end(), exact.data<double>());
  Tensor out = exact.to(options.dtype).to(options.device);
  if (options.requires_grad) out.set_requires_grad();
  return out;
}
Tensor tensor(std::initializer_list<double> values, const Shape& shape, TensorOptions options) {
  return tensor(std::span(values.begin(), values.size()), shape, options);
}
Tensor tensor(std::initializer_list<double> values, TensorOptions options) {
  return tensor(values, {static_cast<std::int64_t>(values.size())}, options);
}

Tensor arange(std::int64_t n, TensorOptions options) {
  check(n >= 0, "arange: negative size {}", n);
  std::vector<double> values(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(i);
  return tensor(values, {n}, options);
}

std::ostream& operator<<(std::ostream& out, const Tensor& tensor) {
  if (!tensor.defined()) return out << "Tensor()";
  constexpr std::size_t shown = 1000;
  constexpr std::size_t edge = 4;
  const std::vector<double> values = tensor.to_vector();
  const Shape& shape = tensor.shape();
  // The brackets that open before and close after element i follow from the sizes of the inner blocks.
  const auto ends = [&](std::size_t i) {
    int n = 0;
    std::size_t block = 1;
    for (int d = shape.rank() - 1; d >= 0; --d) n += i % (block *= static_cast<std::size_t>(shape[d])) == 0;
    return n;
  };
  out << "Tensor(" << name_of(tensor.dtype()) << ' ' << shape << ", ";
  if (values.empty()) return out << "[])";
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (values.size() > shown && i == edge) {
      out << ", ...";
      i = values.size() - edge;
    }
    const int opened = ends(i);
    out << (i ? ", " : "") << std::string(static_cast<std::size_t>(opened), '[') << std::setprecision(6) << values[i]
        << std::string(static_cast<std::size_t>(ends(i + 1)), ']');
  }
  return out << ')';
}

}  // namespace v0
}  // namespace anneal
