// A kernels::StepState in the memory of a device. Private.
#pragma once

#include <cstring>

#include "anneal/core/tensor.h"
#include "anneal/kernels/kernels.h"

namespace anneal {
inline namespace v0 {
namespace optim {

inline Tensor make_state(const kernels::StepState& state, Device device) {
  const Tensor bytes = empty({sizeof state}, {.dtype = DType::u8});
  std::memcpy(bytes.raw(), &state, sizeof state);
  return bytes.to(device);
}
/// One f64 member, by its offset, as a tensor that shares the memory.
inline Tensor field(const Tensor& bytes, std::size_t offset) {
  const auto position = static_cast<std::int64_t>(offset / sizeof(double));
  return Tensor(make_ref<TensorImpl>(bytes.impl().storage, position, Shape{}, Shape{}, DType::f64));
}
/// Waits for the device.
inline kernels::StepState read_state(const Tensor& bytes) {
  const Tensor here = bytes.to(Device{});
  kernels::StepState state;
  std::memcpy(&state, here.raw(), sizeof state);
  return state;
}

}  // namespace optim
}  // namespace v0
}  // namespace anneal
