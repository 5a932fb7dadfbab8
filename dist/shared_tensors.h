// One copy of tensors for all ranks of a machine.
#pragma once

#include <chrono>
#include <functional>

#include "anneal/core/named_tensor.h"
#include "anneal/dist/world.h"

namespace anneal {
inline namespace v0 {
namespace dist {

/// What `make` returns, on the CPU: it is called on the first rank of each machine, and the others map the memory that
/// its tensors are put into. Who writes to them gets pages of its own (copy on write). The memory goes with the last
/// process that maps it, however that ends. All ranks call it, in the same order. Throws Error where a rank cannot open
/// another's memory, or has waited for longer than `patience`.
StateDict share_tensors(World& world, const std::function<StateDict()>& make,
                        std::chrono::milliseconds patience = std::chrono::hours(1));

}  // namespace dist
}  // namespace v0
}  // namespace anneal
