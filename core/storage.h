// The memory behind tensors, and the count of its changes.
#pragma once

#include <cstdint>
#include <memory>

#include "anneal/core/allocator.h"
#include "anneal/core/pool.h"

namespace anneal {
inline namespace v0 {

/// A piece of memory that a tensor and its views share. It owns a block of its own, or is a part of another storage: a
/// parameter's slot in an arena is such a part, so that the version belongs to the parameter alone.
class Storage final : public RefCounted {
 public:
  /// Uninitialised memory. Throws OutOfMemory.
  Storage(std::size_t bytes, Device device);
  /// The same from an allocator of that device's memory.
  Storage(std::size_t bytes, Device device, Allocator& from);
  /// Memory of somebody else's, kept alive by `owner`.
  Storage(std::shared_ptr<void> owner, void* data, std::size_t bytes, Device device);
  /// The bytes [offset, offset + bytes) of `whole`, which is kept alive.
  Storage(Ref<Storage> whole, std::size_t offset, std::size_t bytes);
  ~Storage() override;

  std::byte* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  Device device() const { return device_; }
  /// Whether the memory is its own, neither somebody else's nor a part of another storage's.
  bool owns_memory() const { return from_ != nullptr; }

  /// Counts the writes in place; what was saved for backward compares it.
  std::uint32_t version() const { return version_; }
  void bump_version() { ++version_; }

 private:
  std::byte* data_;
  std::size_t bytes_;
  Device device_;
  std::uint32_t version_ = 0;
  Allocator* from_ = nullptr;
  Ref<Storage> whole_;
  std::shared_ptr<void> owner_;
};

}  // namespace v0
}  // namespace anneal
