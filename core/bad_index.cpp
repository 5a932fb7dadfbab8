#include "anneal/core/bad_index.h"

#include <array>
#include <map>
#include <mutex>

#include "anneal/core/gpu.h"

namespace anneal {
inline namespace v0 {
namespace {

// A device's words, one for each op that has been used there; -1: nothing was found.
class Words {
 public:
  explicit Words(Device device) : device_(device) {
    const kernels::Stream stream = stream_of(device);
    words_ = static_cast<std::int64_t*>(gpu::allocate(sizeof none_));
    anneal::check<OutOfMemory>(words_ != nullptr, "{}: no memory for error words", device);
    none_.fill(-1);
    gpu::copy(words_, none_.data(), sizeof none_, gpu::Copying::to_device, stream);
    gpu::synchronize(stream);
  }

  std::int64_t* of(const char* op) {
    const std::lock_guard lock(mutex_);
    std::size_t i = 0;
    while (i < used_ && ops_[i] != op) ++i;
    if (i == used_) ops_.at(used_++) = op;
    return words_ + i;
  }

  void throw_if_any() {
    const std::lock_guard lock(mutex_);
    if (used_ == 0) return;
    const kernels::Stream stream = stream_of(device_);
    std::array<std::int64_t, most_ops> found{};
    gpu::copy(found.data(), words_, sizeof found, gpu::Copying::to_host, stream);
    gpu::synchronize(stream);
    if (found == none_) return;
    gpu::copy(words_, none_.data(), sizeof none_, gpu::Copying::to_device, stream);
    for (std::size_t i = 0; i < used_; ++i)
      anneal::check(found[i] < 0, "{}: the index at position {} was out of range, in work queued on {} before this",
                    ops_[i], found[i], device_);
  }

 private:
  static constexpr std::size_t most_ops = 16;
  std::mutex mutex_;
  Device device_;
  std::int64_t* words_;
  std::array<const char*, most_ops> ops_{};
  std::size_t used_ = 0;
  std::array<std::int64_t, most_ops> none_;
};

// Never destroyed: the driver may be gone before static objects are.
[[maybe_unused]] inline Words& words_of(Device device) {
  static std::mutex mutex;
  static std::map<int, Words*>& all = *new std::map<int, Words*>;
  const std::lock_guard lock(mutex);
  Words*& words = all[device.index];
  if (!words) words = new Words(device);
  return *words;
}

}  // namespace

BadIndex::BadIndex(Device device, const char* op) {
  if constexpr (has_gpu)
    if (device.kind == DeviceKind::cuda) shared_ = words_of(device).of(op);
}

void throw_bad_indices(Device device) {
  if constexpr (has_gpu) words_of(device).throw_if_any();
}

}  // namespace v0
}  // namespace anneal
