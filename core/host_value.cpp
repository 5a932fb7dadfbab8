#include "anneal/core/host_value.h"

#include "anneal/core/gpu.h"
#include "anneal/core/ops.h"

namespace anneal {
inline namespace v0 {

HostValue::HostValue(const Tensor& element) {
  check(element.numel() == 1, "expected a tensor with one element, got shape {}", element.shape());
  if (element.device() == Device{}) {
    value_ = element.item();
    return;
  }
  if constexpr (has_gpu) {
    host_ = empty(Shape(), {.dtype = element.dtype()}).pin_memory();
    gpu::copy(host_.raw(), element.raw(), size_of(element.dtype()), gpu::Copying::to_host, stream_of(element.device()));
    mark_.emplace(element.device());
  }
}

double HostValue::get() const {
  if (!mark_) return value_;
  mark_->wait();
  return host_.item();
}

}  // namespace v0
}  // namespace anneal
