// Moments of a device's work, by which it is timed.
#pragma once

#include <chrono>
#include <memory>

#include "anneal/core/device.h"

namespace anneal {
inline namespace v0 {

/// When a device has done all that the calling thread gave it so far. On the CPU that is now; on a GPU it is a mark in
/// its stream, and nothing waits for it to be passed.
class DeviceMark {
 public:
  DeviceMark() : DeviceMark(Device{}) {}
  explicit DeviceMark(Device device);
  bool passed() const;
  /// Until it has been passed.
  void wait() const;
  /// Waits until both marks, which are of one device, have been passed.
  double seconds_since(const DeviceMark& start) const;

 private:
  std::chrono::steady_clock::time_point time_;
  std::shared_ptr<const void> event_;  // of a GPU
};

}  // namespace v0
}  // namespace anneal
