#include "anneal/core/device.h"

#include <charconv>
#include <string>

#include "anneal/core/bad_index.h"
#include "anneal/core/error.h"
#include "anneal/core/gpu.h"

namespace anneal {
inline namespace v0 {

Device Device::parse(std::string_view name) {
  if (name == "cpu") return {};
  Device device{DeviceKind::cuda, 0};
  bool valid = name == "cuda";
  if (name.starts_with("cuda:")) {
    const char* const end = name.data() + name.size();
    const auto [rest, error] = std::from_chars(name.data() + 5, end, device.index);
    valid = error == std::errc() && rest == end && device.index >= 0;
  }
  check(valid, "device: expected cpu, cuda or cuda:<number>, got \"{}\"", name);
  check_device(device);
  return device;
}

int device_count(DeviceKind kind) {
  if (kind == DeviceKind::cpu) return 1;
  if constexpr (has_gpu) return gpu::device_count();
  return 0;
}

void check_device(Device device) {
  if (device.kind == DeviceKind::cpu) return;
  check(has_gpu, "{}: this library was built without CUDA (configure with -DANNEAL_CUDA=ON)", device);
  if constexpr (has_gpu) {
    const int count = gpu::device_count();
    check(count > 0, "{}: {}", device, gpu::unavailable());
    check(device.index < count, "{}: this machine has {} CUDA devices", device, count);
  }
}

std::int64_t device_waits() {
  if constexpr (has_gpu) return gpu::waits();
  return 0;
}

void synchronize(Device device) {
  if (device.kind == DeviceKind::cpu) return;
  check_device(device);
  if constexpr (has_gpu) {
    gpu::synchronize(stream_of(device));
    throw_bad_indices(device);
  }
}

}  // namespace v0
}  // namespace anneal
