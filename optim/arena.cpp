#include "anneal/optim/arena.h"

#include <algorithm>

#include "anneal/core/allocator.h"
#include "anneal/core/autograd.h"

namespace anneal {
inline namespace v0 {
namespace optim {
namespace {

constexpr std::int64_t alignment = 64;  // bytes

std::byte* slot_address(const Tensor& block, std::int64_t begin) {
  return static_cast<std::byte*>(block.raw()) + begin * static_cast<std::int64_t>(size_of(block.dtype()));
}

}  // namespace

Arena::Arena(std::vector<Slot> parameters) : slots_(std::move(parameters)) {
  check(!slots_.empty(), "arena: no parameters");
  const NoGrad no_grad;
  std::reverse(slots_.begin(), slots_.end());
  const Tensor& first = slots_[0].parameter;
  const std::int64_t unit = alignment / static_cast<std::int64_t>(size_of(first.dtype()));
  for (Slot& slot : slots_) {
    const Tensor& p = slot.parameter;
    check(p.dtype() == first.dtype() && p.device() == first.device(), "arena: {} is {} on {}, but {} is {} on {}",
          slot.name, name_of(p.dtype()), p.device(), slots_[0].name, name_of(first.dtype()), first.device());
    check(leaf_of(p) != nullptr, "arena: {} is not a leaf that requires gradients", slot.name);
    slot.begin = size_;
    slot.end = size_ + p.numel();
    size_ = (slot.end + unit - 1) / unit * unit;
  }
  // The memory that the parameters' initialisation left is in pieces that a training step has no use for, and so is,
  // once they have moved, the parameters' own.
  allocator(first.device()).empty_cache();
  values_ = new_block(0, first.dtype());
  gradients_ = new_block(1, first.dtype());
  for (const Slot& slot : slots_) {
    TensorImpl& impl = slot.parameter.impl();
    Leaf& leaf = *leaf_of(slot.parameter);
    part(values_, slot).copy_(slot.parameter.detach());
    if (leaf.touched) part(gradients_, slot).copy_(leaf.slot);
    // Each slot gets a storage of its own over its part: versions are counted for each parameter.
    const auto storage_of = [&](const Tensor& block) {
      const Ref<Storage>& whole = block.impl().storage;
      const auto bytes = static_cast<std::size_t>(slot.end - slot.begin) * size_of(dtype());
      return make_ref<Storage>(whole, static_cast<std::size_t>(slot_address(block, slot.begin) - whole->data()), bytes);
    };
    impl.storage = storage_of(values_);
    impl.offset = 0;
    impl.strides = impl.shape.contiguous_strides();
    leaf.slot = Tensor(make_ref<TensorImpl>(storage_of(gradients_), 0, impl.shape, impl.strides, impl.dtype));
  }
  allocator(first.device()).empty_cache();
}

Tensor Arena::new_block(int number, DType dtype) const {
  // 3 pages and 5 lines apart: neither pages nor lines of two blocks coincide.
  constexpr std::int64_t stagger = 3 * 4096 + 5 * alignment;
  const std::int64_t offset = number * stagger / static_cast<std::int64_t>(size_of(dtype));
  const Tensor whole = zeros({offset + size_}, {.dtype = dtype, .device = slots_[0].parameter.device()});
  return whole.slice(0, offset, offset + size_);
}

Tensor Arena::part(const Tensor& block, const Slot& slot) const {
  return block.slice(0, slot.begin, slot.end).view(slot.parameter.shape());
}

bool Arena::holds(const Slot& slot) const {
  const Leaf* leaf = leaf_of(slot.parameter);
  return slot.parameter.raw() == slot_address(values_, slot.begin) && slot.parameter.dtype() == dtype() &&
         (!leaf || (leaf->slot.defined() && leaf->slot.raw() == slot_address(gradients_, slot.begin)));
}

}  // namespace optim
}  // namespace v0
}  // namespace anneal
