#include "anneal/core/autocast.h"

#include <mutex>
#include <utility>

#include "anneal/core/autograd.h"

namespace anneal {
inline namespace v0 {
namespace {

thread_local std::optional<DType> mode;

bool is_low(DType dtype) { return dtype == DType::f16 || dtype == DType::bf16; }

std::mutex& twins_mutex() {
  static std::mutex mutex;
  return mutex;
}

}  // namespace

std::optional<DType> autocast_dtype() { return mode; }
Autocast::Autocast(std::optional<DType> dtype) : before_(std::exchange(mode, dtype)) {
  if (dtype && !is_low(*dtype)) {
    mode = before_;
    throw Error(format("Autocast: expected f16 or bf16, got {}", name_of(*dtype)));
  }
}
Autocast::~Autocast() { mode = before_; }

Tensor autocast(CastPolicy policy, const Tensor& x) {
  if (!mode) return {};
  const DType dtype = x.dtype();
  if (policy == CastPolicy::low && dtype != *mode && (dtype == DType::f32 || is_low(dtype))) return x.to(*mode);
  if (policy == CastPolicy::full && is_low(dtype)) return x.to(DType::f32);
  return {};
}

CastPair autocast_pair(CastPolicy policy, const Tensor& a, const Tensor& b, const char* op) {
  const auto castable = [](const Tensor& x) { return is_low(x.dtype()) || x.dtype() == DType::f32; };
  check(mode && policy == CastPolicy::widest && castable(a) && castable(b),
        "{}: expected operands of one dtype, got {} and {}; convert one with to()", op, name_of(a.dtype()),
        name_of(b.dtype()));
  return {a.to(DType::f32), b.to(DType::f32)};
}

DType autocast_sum(DType dtype) { return mode && is_low(dtype) ? DType::f32 : dtype; }

void check_weight(const Tensor& x, const Tensor& weight, const char* op) {
  check(is_floating(x.dtype()) && (weight.dtype() == x.dtype() || (mode == x.dtype() && weight.dtype() == DType::f32)),
        "{}: expected operands of one floating dtype, got {} and {}", op, name_of(x.dtype()), name_of(weight.dtype()));
}

Tensor weight_like(const Tensor& x, const Tensor& weight) {
  if (weight.dtype() == x.dtype()) return weight;
  const NoGrad no_grad;
  if (!weight.is_leaf()) return weight.to(x.dtype());
  TensorImpl& impl = weight.impl();
  const std::lock_guard lock(twins_mutex());
  if (!impl.twin || impl.twin->dtype != x.dtype()) {
    impl.twin = Ref<TensorImpl>(&weight.to(x.dtype()).impl());
  } else if (impl.twin_version != impl.storage->version()) {
    Tensor(impl.twin).copy_(weight.detach());
  }
  impl.twin_version = impl.storage->version();
  return Tensor(impl.twin);
}

void set_twin(const Tensor& parameter, const Tensor& twin) {
  const std::lock_guard lock(twins_mutex());
  parameter.impl().twin = Ref<TensorImpl>(&twin.impl());
  parameter.impl().twin_version = parameter.impl().storage->version() - 1;
}

bool has_fresh_twin(const Tensor& parameter) {
  const std::lock_guard lock(twins_mutex());
  const TensorImpl& impl = parameter.impl();
  return impl.twin && impl.twin_version == impl.storage->version();
}

void mark_twin_fresh(const Tensor& parameter) {
  const std::lock_guard lock(twins_mutex());
  parameter.impl().twin_version = parameter.impl().storage->version();
}

}  // namespace v0
}  // namespace anneal
