// Where the work of a device is queued.
#pragma once

namespace anneal {
inline namespace v0 {
namespace kernels {

/// A queue of kernels that run one after the other: a cudaStream_t, or null for the device's default stream.
struct Stream {
  void* handle = nullptr;
};

}  // namespace kernels
}  // namespace v0
}  // namespace anneal
