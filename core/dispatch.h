// The one place where a device is looked at. Private.
#pragma once

#include "anneal/core/device.h"
#include "anneal/core/error.h"
#include "anneal/kernels/kernels.h"

namespace anneal {
inline namespace v0 {

/// Runs a kernel where its operands are.
template <class Args>
void launch(Device device, const Args& args) {
  check(device.kind == DeviceKind::cpu, "{}: this library was built without CUDA", device);
  kernels::cpu::run(args);
}

}  // namespace v0
}  // namespace anneal
