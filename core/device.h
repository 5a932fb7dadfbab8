// Where a tensor's memory is.
#pragma once

#include <cstdint>
#include <ostream>
#include <string_view>

namespace anneal {
inline namespace v0 {

enum class DeviceKind : std::uint8_t { cpu, cuda };

/// `Device{}` is the CPU, `Device{DeviceKind::cuda}` the first GPU.
struct Device {
  DeviceKind kind = DeviceKind::cpu;
  std::int8_t index = 0;

  /// "cpu", "cuda" or "cuda:1". Throws Error for anything else, and for a device that is not there.
  static Device parse(std::string_view name);

  friend bool operator==(Device, Device) = default;
  friend std::ostream& operator<<(std::ostream& out, Device device) {
    return device.kind == DeviceKind::cpu ? out << "cpu" : out << "cuda:" << int{device.index};
  }
};

/// How many devices of a kind this process can use: 0 for CUDA in a build without it, or without a driver.
int device_count(DeviceKind kind);
/// Waits until a GPU has done all that was queued, and throws Error for a bad index that it met on the way. Does
/// nothing for the CPU.
void synchronize(Device device);
/// How often this process has waited for a GPU.
std::int64_t device_waits();

}  // namespace v0
}  // namespace anneal
