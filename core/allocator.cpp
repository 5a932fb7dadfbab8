#include "anneal/core/allocator.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstdlib>
#include <mutex>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "anneal/core/error.h"
#include "anneal/core/sanitizer.h"

namespace anneal {
inline namespace v0 {
namespace {

constexpr std::size_t huge_page = std::size_t{2} << 20;

// Size classes: powers of two cut in four, so at most a quarter of a block is wasted.
struct SizeClass {
  std::size_t index, bytes;
};
SizeClass size_class(std::size_t bytes) {
  constexpr std::size_t smallest = 256;
  if (bytes <= smallest) return {0, smallest};
  const int exponent = static_cast<int>(std::bit_width(bytes - 1)) - 1;  // 2^exponent < bytes <= 2^(exponent + 1)
  const std::size_t quarter = std::size_t{1} << (exponent - 2);
  const std::size_t quarters = (bytes - 1) / quarter + 1;  // 5 to 8
  return {static_cast<std::size_t>(exponent - 8) * 4 + quarters - 4, quarters * quarter};
}

// Free blocks are chained through their own first bytes: the allocator itself allocates nothing.
class CachingHostAllocator final : public Allocator {
 public:
  ~CachingHostAllocator() override { empty_cache(); }

  void* allocate(std::size_t bytes) override {
    if (bytes == 0) return nullptr;
    const auto [index, rounded] = size_class(bytes);
    const std::lock_guard lock(mutex_);
    ++stats_.requests;
    check<OutOfMemory>(limit_ == 0 || stats_.active + rounded <= limit_,
                       "cpu: allocating {} bytes would pass the limit of {} ({} in use)", bytes, limit_, stats_.active);
    void* block = free_.at(index);
    if (block) {
      unpoison(block, rounded);
      free_[index] = *static_cast<void**>(block);
      stats_.cached -= rounded;
    } else {
      block = from_system(rounded);
      ++stats_.misses;
    }
    stats_.active += rounded;
    stats_.peak = std::max(stats_.peak, stats_.active);
    poison(static_cast<std::byte*>(block) + bytes, rounded - bytes);
    return block;
  }

  void release(void* block, std::size_t bytes) noexcept override {
    if (!block) return;
    const auto [index, rounded] = size_class(bytes);
    const std::lock_guard lock(mutex_);
    unpoison(block, rounded);
    *static_cast<void**>(block) = std::exchange(free_[index], block);
    poison(static_cast<void**>(block) + 1, rounded - sizeof(void*));
    stats_.active -= rounded;
    stats_.cached += rounded;
  }

  MemoryStats stats() const override {
    const std::lock_guard lock(mutex_);
    return stats_;
  }

  void empty_cache() override {
    const std::lock_guard lock(mutex_);
    for (void*& head : free_) {
      while (head) {
        void* block = head;
        head = *static_cast<void**>(block);
        std::free(block);
      }
    }
    stats_.cached = 0;
  }

  void set_limit(std::size_t bytes) override {
    const std::lock_guard lock(mutex_);
    limit_ = bytes;
  }

 private:
  static void* from_system(std::size_t bytes) {
    const std::size_t alignment = bytes >= huge_page ? huge_page : 64;
    void* block = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    check<OutOfMemory>(block != nullptr, "cpu: the system has no {} bytes left", bytes);
#if defined(__linux__)
    if (bytes >= huge_page) ::madvise(block, bytes, MADV_HUGEPAGE);  // first touch costs a quarter
#endif
    return block;
  }

  mutable std::mutex mutex_;
  std::array<void*, 240> free_{};
  MemoryStats stats_;
  std::size_t limit_ = 0;
};

std::atomic<Allocator*> replaced{nullptr};

void check_device(Device device) {
  check(device.kind == DeviceKind::cpu, "{}: this library was built without CUDA", device);
}

}  // namespace

Allocator& allocator(Device device) {
  check_device(device);
  if (Allocator* own = replaced.load(std::memory_order_acquire)) return *own;
  // Never destroyed: tensors may be static.
  static Allocator& caching = *new CachingHostAllocator;
  return caching;
}

void set_allocator(Device device, Allocator* replacement) {
  check_device(device);
  replaced.store(replacement, std::memory_order_release);
}

}  // namespace v0
}  // namespace anneal
