#include "anneal/core/device_mark.h"

#include "anneal/core/gpu.h"

namespace anneal {
inline namespace v0 {

DeviceMark::DeviceMark(Device device) : time_(std::chrono::steady_clock::now()) {
  if (device.kind == DeviceKind::cpu) return;
  check_device(device);
  if constexpr (has_gpu) {
    const kernels::Stream stream = stream_of(device);
    auto event = std::make_shared<gpu::Event>(gpu::Event::Timing::on);
    event->record(stream);
    event_ = std::move(event);
  }
}

bool DeviceMark::passed() const {
  if constexpr (has_gpu)
    if (event_) return static_cast<const gpu::Event*>(event_.get())->done();
  return true;
}

void DeviceMark::wait() const {
  if constexpr (has_gpu)
    if (event_) static_cast<const gpu::Event*>(event_.get())->synchronize();
}

double DeviceMark::seconds_since(const DeviceMark& start) const {
  if constexpr (has_gpu) {
    if (event_ && start.event_) {
      const auto* const end = static_cast<const gpu::Event*>(event_.get());
      end->synchronize();
      return end->milliseconds_since(*static_cast<const gpu::Event*>(start.event_.get())) * 1e-3;
    }
  }
  return std::chrono::duration<double>(time_ - start.time_).count();
}

}  // namespace v0
}  // namespace anneal
