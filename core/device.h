// Where a tensor's memory is.
#pragma once

#include <cstdint>
#include <ostream>

namespace anneal {
inline namespace v0 {

enum class DeviceKind : std::uint8_t { cpu, cuda };

/// `Device{}` is the CPU. This build has no other: asking for one throws.
struct Device {
  DeviceKind kind = DeviceKind::cpu;
  std::int8_t index = 0;

  friend bool operator==(Device, Device) = default;
  friend std::ostream& operator<<(std::ostream& out, Device device) {
    return device.kind == DeviceKind::cpu ? out << "cpu" : out << "cuda:" << int{device.index};
  }
};

}  // namespace v0
}  // namespace anneal
