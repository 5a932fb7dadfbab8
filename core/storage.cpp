#include "anneal/core/storage.h"

#include "anneal/core/error.h"

namespace anneal {
inline namespace v0 {

Storage::Storage(std::size_t bytes, Device device) : Storage(bytes, device, allocator(device)) {}

Storage::Storage(std::size_t bytes, Device device, Allocator& from) : bytes_(bytes), device_(device), from_(&from) {
  data_ = static_cast<std::byte*>(from_->allocate(bytes));
}

Storage::Storage(std::shared_ptr<void> owner, void* data, std::size_t bytes, Device device)
    : data_(static_cast<std::byte*>(data)), bytes_(bytes), device_(device), owner_(std::move(owner)) {}

Storage::Storage(Ref<Storage> whole, std::size_t offset, std::size_t bytes)
    : data_(whole->data() + offset), bytes_(bytes), device_(whole->device()), whole_(std::move(whole)) {
  check(offset + bytes <= whole_->bytes(), "storage: part [{}, {}) of {} bytes", offset, offset + bytes,
        whole_->bytes());
}

Storage::~Storage() {
  if (from_) from_->release(data_, bytes_);
}

}  // namespace v0
}  // namespace anneal
