// The one place where kernels look at a device. Private.
#pragma once

#include "anneal/core/error.h"
#include "anneal/core/gpu.h"
#include "anneal/core/op_observer.h"
#include "anneal/core/tensor.h"
#include "anneal/kernels/kernels.h"

namespace anneal {
inline namespace v0 {

/// Throws Error unless an op's operands, but for undefined ones, are on the device of the first.
template <class... Tensors>
void check_devices(const char* op, const Tensor& first, const Tensors&... others) {
  const auto check_one = [&](const Tensor& x) {
    if (x.defined())
      check(x.device() == first.device(), "{}: expected operands on one device, got {} and {}", op, first.device(),
            x.device());
  };
  (check_one(others), ...);
}

/// Runs a kernel where its operands are: on the CPU at once, on a GPU when its turn in the device's stream comes.
template <class Args>
void launch(Device device, const Args& args) {
  const bool observed = OpObserver::any();
  if (observed) [[unlikely]]
    OpObserver::begin_all(kernels::work_of(args, device.kind == DeviceKind::cpu), device);
  if (device.kind == DeviceKind::cpu) {
    kernels::cpu::run(args);
  } else if constexpr (has_gpu) {
    gpu::run(args, stream_of(device));
  } else {
    check_device(device);
  }
  if (observed) [[unlikely]]
    OpObserver::end_all(device);
}

}  // namespace v0
}  // namespace anneal
