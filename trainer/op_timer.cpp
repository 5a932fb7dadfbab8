#include "anneal/trainer/op_timer.h"

#include <utility>

namespace anneal {
inline namespace v0 {

OpTimer::OpTimer(std::function<void(const TimedOp&)> take, DeviceMark origin)
    : take_(std::move(take)), origin_(std::move(origin)) {
  observe(true);
}

void OpTimer::begin(const kernels::Work& work, Device device) {
  if (device.kind != DeviceKind::cpu) zero_of(device);
  work_ = work;
  start_.emplace(device);
}

void OpTimer::end(Device device) {
  if (!start_) return;  // it began to look within an op
  DeviceMark end(device);
  if (device.kind == DeviceKind::cpu) {
    take_({work_, device, start_->seconds_since(origin_), end.seconds_since(*start_)});
  } else {
    pending_.push_back({work_, device, std::move(*start_), std::move(end)});
    while (!pending_.empty() && pending_.front().end.passed()) take_first();
  }
  start_.reset();
}

void OpTimer::finish() {
  while (!pending_.empty()) take_first();
}

void OpTimer::take_first() {
  const Pending op = std::move(pending_.front());
  pending_.pop_front();
  const Zero& zero = zero_of(op.device);
  take_({op.work, op.device, zero.seconds + op.start.seconds_since(zero.mark), op.end.seconds_since(op.start)});
}

// The host's time and the GPU's meet when the GPU has nothing to do.
const OpTimer::Zero& OpTimer::zero_of(Device device) {
  for (const Zero& zero : zeros_)
    if (zero.gpu == device.index) return zero;
  synchronize(device);
  DeviceMark mark(device);
  return zeros_.emplace_back(Zero{device.index, std::move(mark), DeviceMark().seconds_since(origin_)});
}

}  // namespace v0
}  // namespace anneal
