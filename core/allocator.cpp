#include "anneal/core/allocator.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "anneal/core/error.h"
#include "anneal/core/gpu.h"
#include "anneal/core/sanitizer.h"
#include "anneal/core/segments.h"

namespace anneal {
inline namespace v0 {
namespace {

constexpr std::size_t mb = std::size_t{1} << 20, huge_page = 2 * mb;
// From this size on blocks are cut from segments and put together again, which costs more than a list of a size's
// blocks, but nothing beside what is done with so much memory.
constexpr std::size_t large_block = mb, largest_segment = 256 * mb, page = 4096;
std::size_t pages(std::size_t bytes) { return (bytes + page - 1) / page * page; }

// What a request takes: pages if it is large, else a size class. Those are powers of two cut in four, so at most a
// quarter of a block is wasted.
struct SizeClass {
  std::size_t index, bytes;
};
SizeClass size_class(std::size_t bytes) {
  constexpr std::size_t smallest = 256;
  if (bytes <= smallest) return {0, smallest};
  if (bytes > large_block) return {0, pages(bytes)};
  const int exponent = static_cast<int>(std::bit_width(bytes - 1)) - 1;  // 2^exponent < bytes <= 2^(exponent + 1)
  const std::size_t quarter = std::size_t{1} << (exponent - 2);
  const std::size_t quarters = (bytes - 1) / quarter + 1;  // 5 to 8
  return {static_cast<std::size_t>(exponent - 8) * 4 + quarters - 4, quarters * quarter};
}

// Keeps freed blocks by size class, large ones in segments. What memory is made of, and when it may be used again, is
// for others to say.
class CachingAllocator : public Allocator {
 public:
  explicit CachingAllocator(std::string name) : name_(std::move(name)) {}

  void* allocate(std::size_t bytes) override {
    if (bytes == 0) return nullptr;
    // No object is larger; beyond it rounding up would begin again at 0.
    check<OutOfMemory>(bytes <= PTRDIFF_MAX, "{}: no memory has {} bytes", name_, bytes);
    const auto [index, rounded] = size_class(bytes);
    const std::lock_guard lock(mutex_);
    ++stats_.requests;
    const bool fits = limit_ == 0 || stats_.active + rounded <= limit_;
    if (!fits) ++stats_.failures;
    check<OutOfMemory>(fits, "{}: allocating {} bytes would pass the limit of {} ({} in use)", name_, bytes, limit_,
                       stats_.active);
    void* block = take(index, rounded);
    if (!block) {
      block = grow(index, rounded);
      if (!block) {  // what is cached in other sizes may be enough
        ++stats_.retries;
        give_back();
        block = grow(index, rounded);
      }
      if (!block) ++stats_.failures;
      check<OutOfMemory>(block != nullptr, "{}: no {} bytes left ({} in use)", name_, bytes, stats_.active);
      ++stats_.misses;
    }
    stats_.cached -= rounded;
    stats_.active += rounded;
    stats_.peak = std::max(stats_.peak, stats_.active);
    stats_.held_peak = std::max(stats_.held_peak, stats_.active + stats_.cached);
    lend(block, bytes, rounded);
    return block;
  }

  void release(void* block, std::size_t bytes) noexcept override {
    if (!block) return;
    const auto [index, rounded] = size_class(bytes);
    const std::lock_guard lock(mutex_);
    keep(index, block, rounded);
    stats_.active -= rounded;
    stats_.cached += rounded;
  }

  MemoryStats stats() const override {
    const std::lock_guard lock(mutex_);
    return stats_;
  }

  void empty_cache() override {
    const std::lock_guard lock(mutex_);
    give_back();
  }

  void set_limit(std::size_t bytes) override {
    const std::lock_guard lock(mutex_);
    limit_ = bytes;
  }

 protected:
  // Null if there is none left.
  virtual void* from_system(std::size_t bytes) = 0;
  virtual void to_system(void* memory) noexcept = 0;
  virtual void lend(void* /*block*/, std::size_t /*bytes*/, std::size_t /*rounded*/) {}
  // A block comes back, and is taken again: null if there is none of this class that may be.
  virtual void keep(std::size_t index, void* block, std::size_t rounded) {
    if (rounded >= large_block) return segments_.put(block);
    free_.at(index).bytes = rounded;
    free_.at(index).blocks.push_back(block);
  }
  virtual void* take(std::size_t index, std::size_t rounded) {
    if (rounded >= large_block) return segments_.take(rounded);
    std::vector<void*>& blocks = free_.at(index).blocks;
    if (blocks.empty()) return nullptr;
    void* block = blocks.back();
    blocks.pop_back();
    return block;
  }
  void give_back() {
    for (auto& [bytes, blocks] : free_) {
      for (void* block : blocks) to_system(block);
      stats_.cached -= bytes * blocks.size();
      blocks.clear();
    }
    segments_.drop_free([this](void* segment, std::size_t bytes) {
      to_system(segment);
      stats_.cached -= bytes;
    });
  }

  MemoryStats stats_;

 private:
  // A block from the system; null if there is none left.
  void* grow(std::size_t index, std::size_t rounded) {
    std::size_t bytes = rounded;
    // Segments grow with what is held: a small program is to stay small.
    if (bytes >= large_block)
      bytes = std::max(bytes, std::min(pages((stats_.active + stats_.cached) / 8), largest_segment));
    void* memory = from_system(bytes);
    if (!memory && bytes > rounded) memory = from_system(bytes = rounded);
    if (!memory) return nullptr;
    stats_.cached += bytes;
    if (rounded < large_block) return memory;
    segments_.add(memory, bytes);
    return take(index, rounded);
  }

  struct Blocks {
    std::size_t bytes = 0;  // of each
    std::vector<void*> blocks;
  };
  std::string name_;
  mutable std::mutex mutex_;
  std::array<Blocks, 48> free_;  // by size class
  Segments segments_;
  std::size_t limit_ = 0;
};

class HostAllocator final : public CachingAllocator {
 public:
  HostAllocator() : CachingAllocator("cpu") {}

 private:
  void* from_system(std::size_t bytes) override {
    const std::size_t alignment = bytes >= huge_page ? huge_page : bytes >= large_block ? page : 64;
    void* block = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
#if defined(__linux__)
    if (block && bytes >= huge_page) ::madvise(block, bytes, MADV_HUGEPAGE);  // first touch costs a quarter
#endif
    if (block) poison(block, bytes);
    return block;
  }
  void to_system(void* memory) noexcept override { std::free(memory); }
  void lend(void* block, std::size_t bytes, std::size_t rounded) override {
    unpoison(block, bytes);
    poison(static_cast<std::byte*>(block) + bytes, rounded - bytes);
  }
  void keep(std::size_t index, void* block, std::size_t rounded) override {
    CachingAllocator::keep(index, block, rounded);
    poison(block, rounded);
  }
};

// Everything of a device runs in one stream: a block that is freed may be lent again at once, as what reads it is
// queued before what will write it.
class GpuAllocator final : public CachingAllocator {
 public:
  explicit GpuAllocator(Device device) : CachingAllocator(format("{}", device)), device_(device) {}

 private:
  void* from_system(std::size_t bytes) override {
    gpu::set_device(device_.index);
    return gpu::allocate(bytes);
  }
  void to_system(void* memory) noexcept override {
    gpu::set_device(device_.index);
    gpu::release(memory);
  }
  Device device_;
};

// A freed block may still be read by copies to a device: it waits for a mark in that device's stream. A template, so
// that unoptimised builds without a GPU need no Event either.
template <class Event>
class PinnedAllocator final : public CachingAllocator {
 public:
  PinnedAllocator() : CachingAllocator("pinned memory") {}

 private:
  struct Pending {
    std::size_t index, rounded;
    void* block;
    Event read;
  };
  void* from_system(std::size_t bytes) override { return gpu::allocate_pinned(bytes); }
  void to_system(void* memory) noexcept override { gpu::release_pinned(memory); }
  void keep(std::size_t index, void* block, std::size_t rounded) override {
    pending_.push_back({index, rounded, block, Event()});
    pending_.back().read.record(gpu::compute_stream(gpu::current_device()));
  }
  void* take(std::size_t index, std::size_t rounded) override {
    while (!pending_.empty() && pending_.front().read.done()) {
      CachingAllocator::keep(pending_.front().index, pending_.front().block, pending_.front().rounded);
      pending_.pop_front();
    }
    return CachingAllocator::take(index, rounded);
  }

  std::deque<Pending> pending_;
};

constexpr int most_devices = 16;

std::atomic<Allocator*>& replacement_for(Device device) {
  static std::array<std::atomic<Allocator*>, most_devices + 1> replaced{};
  check_device(device);
  return replaced.at(device.kind == DeviceKind::cpu ? 0 : static_cast<std::size_t>(device.index) + 1);
}

// Allocators are never destroyed: tensors may be static.
Allocator& caching_allocator(Device device) {
  if constexpr (has_gpu) {
    if (device.kind == DeviceKind::cuda) {
      static std::array<std::atomic<Allocator*>, most_devices> made{};
      static std::mutex mutex;
      std::atomic<Allocator*>& slot = made.at(static_cast<std::size_t>(device.index));
      if (Allocator* there = slot.load(std::memory_order_acquire)) return *there;
      const std::lock_guard lock(mutex);
      if (!slot.load()) slot.store(new GpuAllocator(device), std::memory_order_release);
      return *slot.load();
    }
  }
  static Allocator& host = *new HostAllocator;
  return host;
}

}  // namespace

Allocator& allocator(Device device) {
  if (Allocator* own = replacement_for(device).load(std::memory_order_acquire)) return *own;
  return caching_allocator(device);
}

Allocator& pinned_allocator() {
  check_device({DeviceKind::cuda});
  if constexpr (has_gpu) {
    static Allocator& pinned = *new PinnedAllocator<gpu::Event>;
    return pinned;
  }
  return allocator();
}

void set_allocator(Device device, Allocator* replacement) {
  replacement_for(device).store(replacement, std::memory_order_release);
}

}  // namespace v0
}  // namespace anneal
