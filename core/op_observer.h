// Who looks at the ops that a thread runs: profilers, and those who count what a model computes.
#pragma once

#include "anneal/core/device.h"
#include "anneal/kernels/work.h"

namespace anneal {
inline namespace v0 {

/// While it observes, it is told of each kernel that its thread runs, or queues on a GPU. Views run none. It belongs to
/// that thread.
class OpObserver {
 public:
  OpObserver() = default;
  OpObserver(const OpObserver&) = delete;
  OpObserver& operator=(const OpObserver&) = delete;
  virtual ~OpObserver() { observe(false); }

  /// Begins to look at the calling thread's ops, or ends it, as the object's end does; several may look.
  void observe(bool on);

  virtual void begin(const kernels::Work& work, Device device) = 0;
  /// Not for a kernel that threw.
  virtual void end(Device) {}

  /// Whether anyone observes the calling thread.
  static bool any() { return first_ != nullptr; }
  static void begin_all(const kernels::Work& work, Device device) {
    for (OpObserver* o = first_; o; o = o->next_) o->begin(work, device);
  }
  static void end_all(Device device) {
    for (OpObserver* o = first_; o; o = o->next_) o->end(device);
  }

 private:
  static inline constinit thread_local OpObserver* first_ = nullptr;
  OpObserver* next_ = nullptr;
};

/// Adds up the FLOPs of what it observes.
class FlopCounter final : public OpObserver {
 public:
  double flops() const { return flops_; }
  void begin(const kernels::Work& work, Device) override { flops_ += work.flops; }

 private:
  double flops_ = 0;
};

}  // namespace v0
}  // namespace anneal
