// The GPU backend of this build, if it has one. Private.
//
// The build defines ANNEAL_GPU, the namespace of the backend (`cuda`, or its emulation on the CPU, `emulated`), and
// ANNEAL_HAS_GPU. Code for it stands in `if constexpr (has_gpu)`: names in there need no definition.
#pragma once

// A header that is compiled by itself has no backend.
#if !defined(ANNEAL_GPU)
#define ANNEAL_GPU cuda
#define ANNEAL_HAS_GPU 0
#endif

#include "anneal/core/device.h"
#include "anneal/kernels/cuda/runtime.h"

namespace anneal {
inline namespace v0 {

inline constexpr bool has_gpu = ANNEAL_HAS_GPU;
namespace gpu = kernels::ANNEAL_GPU;

/// Throws Error, with what is missing, for a device that is not there.
void check_device(Device device);

/// The stream that everything of a CUDA device is queued in. The calling thread's later GPU calls act on that device.
inline kernels::Stream stream_of(Device device) {
  gpu::set_device(device.index);
  return gpu::compute_stream(device.index);
}

}  // namespace v0
}  // namespace anneal
