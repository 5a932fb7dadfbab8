// Small tables that kernels read. Private.
#pragma once

#include <cstring>
#include <vector>

#include "anneal/core/tensor.h"

namespace anneal {
inline namespace v0 {
namespace optim {

/// Entries that the host writes and a kernel on some device reads: copied there when they have changed.
template <class T>
class DeviceTable {
 public:
  /// The entries in the memory of the device, as `entries` are now.
  const T* on(Device device, const std::vector<T>& entries) {
    if (device.kind == DeviceKind::cpu) return entries.data();
    if (!copy_.defined() || copy_.device() != device || sent_ != entries) {
      sent_ = entries;
      const Tensor bytes = empty({static_cast<std::int64_t>(sizeof(T) * entries.size())}, {.dtype = DType::u8});
      if (!entries.empty()) std::memcpy(bytes.raw(), entries.data(), sizeof(T) * entries.size());
      copy_ = bytes.to(device);
    }
    return static_cast<const T*>(copy_.raw());
  }

 private:
  std::vector<T> sent_;
  Tensor copy_;
};

}  // namespace optim
}  // namespace v0
}  // namespace anneal
