// The one place where kernels look at a device. Private.
#pragma once

#include "anneal/core/error.h"
#include "anneal/core/gpu.h"
#include "anneal/kernels/kernels.h"

namespace anneal {
inline namespace v0 {

/// Runs a kernel where its operands are: on the CPU at once, on a GPU when its turn in the device's stream comes.
template <class Args>
void launch(Device device, const Args& args) {
  if (device.kind == DeviceKind::cpu) {
    kernels::cpu::run(args);
  } else if constexpr (has_gpu) {
    gpu::run(args, stream_of(device));
  } else {
    check_device(device);
  }
}

}  // namespace v0
}  // namespace anneal
