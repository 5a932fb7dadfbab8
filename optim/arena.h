// Parameters of one dtype and device in one block of memory, their gradients in another.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "anneal/core/named_tensor.h"

namespace anneal {
inline namespace v0 {
namespace optim {

/// Holds the values of parameters in one contiguous block and their gradients in a second of the same layout, so that
/// an optimizer's step, a norm or a reduction over ranks is one pass over a range. The parameters become views of it:
/// their impl keeps its identity and exchanges its storage, so every handle follows. Slots start at 64 bytes, in
/// reverse order of registration: about the order in which gradients arrive.
class Arena {
 public:
  struct Slot {
    std::string name;
    Tensor parameter;
    std::int64_t begin, end;  ///< elements
    int group;                ///< the optimizer's parameter group
  };

  /// Moves the parameters in; gradients that they have collected are kept. All must be leaves that require gradients,
  /// of one dtype and device. Throws Error otherwise.
  explicit Arena(std::vector<Slot> parameters);

  DType dtype() const { return values_.dtype(); }
  std::span<const Slot> slots() const { return slots_; }
  /// All values (gradients) as a vector with gaps between slots; the gaps are 0.
  const Tensor& values() const { return values_; }
  const Tensor& gradients() const { return gradients_; }
  /// A block of zeros of the same layout in a dtype, for an optimizer's state. `number` staggers its address, so that
  /// the streams of one pass do not fall on the same cache sets.
  Tensor new_block(int number, DType dtype) const;
  /// The part of a block that belongs to a slot, in the parameter's shape.
  Tensor part(const Tensor& block, const Slot& slot) const;
  /// Whether the slot's parameter still has its values and gradient here: not after `to`, or unfreezing.
  bool holds(const Slot& slot) const;

 private:
  std::vector<Slot> slots_;
  std::int64_t size_ = 0;
  Tensor values_, gradients_;
};

}  // namespace optim
}  // namespace v0
}  // namespace anneal
