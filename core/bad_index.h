// Indices out of range: thrown at once on the CPU, at the next synchronisation on a GPU. Private.
#pragma once

#include <cstdint>
#include <string>

#include "anneal/core/device.h"
#include "anneal/core/error.h"

namespace anneal {
inline namespace v0 {

/// Where one call of an op's kernel leaves the position of a bad index.
class BadIndex {
 public:
  /// `op` is a literal.
  BadIndex(Device device, const char* op);
  /// In the memory of the device.
  std::int64_t* word() { return shared_ ? shared_ : &own_; }
  /// On the CPU, throws Error with `message(position)` if there is one.
  template <class F>
  void check(const F& message) const {
    if (own_ >= 0) throw Error(message(own_));
  }

 private:
  std::int64_t own_ = -1;
  std::int64_t* shared_ = nullptr;
};

/// Throws Error with the op's name if a kernel on this device, which must be idle, has met a bad index since the last
/// call.
void throw_bad_indices(Device device);

}  // namespace v0
}  // namespace anneal
