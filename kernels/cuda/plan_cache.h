// Plans of library calls, by all that they depend on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

namespace anneal {
inline namespace v0 {
namespace kernels::cuda {

/// Plans are made once and shared by all threads. One that holds too many, as with sizes that never repeat, starts
/// anew.
template <class Key, class Plan>
class PlanCache {
 public:
  /// The plan of a key; `make()` returns it at first.
  template <class Make>
  std::shared_ptr<const Plan> find(const Key& key, const Make& make) {
    const std::lock_guard lock(mutex_);
    if (const auto at = plans_.find(key); at != plans_.end()) return at->second;
    if (plans_.size() == most) plans_.clear();
    return plans_.emplace(key, std::make_shared<const Plan>(make())).first->second;
  }

 private:
  static constexpr std::size_t most = 4096;
  std::mutex mutex_;
  std::map<Key, std::shared_ptr<const Plan>> plans_;
};

/// The largest power of two, at most `most`, that an address is a multiple of; null is a multiple of all.
inline std::int64_t alignment_of(const void* p, std::uintptr_t most) {
  const std::uintptr_t bits = reinterpret_cast<std::uintptr_t>(p) | most;
  return static_cast<std::int64_t>(bits & (~bits + 1));
}

}  // namespace kernels::cuda
}  // namespace v0
}  // namespace anneal
