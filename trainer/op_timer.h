// Times what the ops of a thread run.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <vector>

#include "anneal/core/device_mark.h"
#include "anneal/core/op_observer.h"

namespace anneal {
inline namespace v0 {

/// A kernel that has run.
struct TimedOp {
  kernels::Work work;
  Device device;
  double start;    ///< seconds since the timer's origin
  double seconds;  ///< on the CPU of the kernel with its threads; on a GPU between marks in its stream
};

/// From its making on, each op of the calling thread goes to `take`: on the CPU at once, on a GPU some time after it
/// has run.
class OpTimer final : public OpObserver {
 public:
  explicit OpTimer(std::function<void(const TimedOp&)> take, DeviceMark origin = DeviceMark());

  void begin(const kernels::Work& work, Device device) override;
  void end(Device device) override;
  /// Waits for the ops that a GPU has not done yet.
  void finish();

 private:
  // Where a GPU's time begins, and how long after the origin that was.
  struct Zero {
    std::int8_t gpu;
    DeviceMark mark;
    double seconds;
  };
  struct Pending {
    kernels::Work work;
    Device device;
    DeviceMark start, end;
  };
  const Zero& zero_of(Device device);
  void take_first();

  std::function<void(const TimedOp&)> take_;
  DeviceMark origin_;
  std::vector<Zero> zeros_;
  kernels::Work work_{};
  std::optional<DeviceMark> start_;  // of the running op
  std::deque<Pending> pending_;
};

}  // namespace v0
}  // namespace anneal
