// Memory for tensors: one caching allocator for each device.
#pragma once

#include <cstddef>
#include <memory>

#include "anneal/core/device.h"

namespace anneal {
inline namespace v0 {

/// Bytes, but for the counts. What the process holds for tensors is active + cached.
struct MemoryStats {
  std::size_t active = 0;     ///< in use by tensors
  std::size_t cached = 0;     ///< free, kept for reuse
  std::size_t peak = 0;       ///< the largest `active` so far
  std::size_t requests = 0;   ///< calls of allocate
  std::size_t misses = 0;     ///< those that had to ask the system
  std::size_t held_peak = 0;  ///< the largest active + cached so far
  std::size_t retries = 0;    ///< requests for which what was cached had to be given back first
  std::size_t failures = 0;   ///< requests that threw OutOfMemory
};

/// Hands out blocks aligned to 64 bytes, on the host to 4 KB from 1 MB on. Thread-safe.
class Allocator {
 public:
  virtual ~Allocator() = default;
  /// Null for 0 bytes. Throws OutOfMemory.
  virtual void* allocate(std::size_t bytes) = 0;
  /// `bytes` as it was asked for.
  virtual void release(void* block, std::size_t bytes) noexcept = 0;
  virtual MemoryStats stats() const = 0;
  /// Gives the cached blocks back to the system.
  virtual void empty_cache() = 0;
  /// An allocation that would take `active` past this throws OutOfMemory; 0 = no limit.
  virtual void set_limit(std::size_t bytes) = 0;
};

/// The allocator of a device. Throws Error for a device that this build does not have.
Allocator& allocator(Device device = {});
/// Page-locked memory of the host, which GPUs copy from and to fastest, beside their kernels. A freed block is lent
/// again when the copies that were queued before have run. Throws Error without a CUDA device.
Allocator& pinned_allocator();
/// Replaces a device's allocator by the embedder's own; null restores the caching one. Blocks that are in use go back
/// to the allocator they came from, which must outlive them.
void set_allocator(Device device, Allocator* replacement);

}  // namespace v0
}  // namespace anneal
