// A number on its way from a device to the host.
#pragma once

#include <optional>

#include "anneal/core/device_mark.h"
#include "anneal/core/tensor.h"

namespace anneal {
inline namespace v0 {

/// A tensor's one element, as it will be when the device has done what the calling thread gave it so far. Nothing waits
/// for that until `get` does.
class HostValue {
 public:
  HostValue(double value) : value_(value) {}
  /// Throws Error for a tensor with another number of elements.
  explicit HostValue(const Tensor& element);

  bool arrived() const { return !mark_ || mark_->passed(); }
  double get() const;

 private:
  double value_ = 0;
  Tensor host_;                     // where a GPU's element is copied to
  std::optional<DeviceMark> mark_;  // behind that copy
};

}  // namespace v0
}  // namespace anneal
