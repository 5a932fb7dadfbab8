// Tensors of all ranks, one after the other.
#pragma once

#include <optional>

#include "anneal/core/collective.h"

namespace anneal {
inline namespace v0 {
namespace dist {

/// All ranks' tensors joined along their first dimension, in rank order; a scalar counts as one row. Throws Error on
/// all ranks, with their shapes, where the other dimensions differ, or the first ones without a `padding_value`: with
/// it shorter tensors get rows of that value at their end.
Tensor gather(Collective& group, const Tensor& x, std::optional<double> padding_value = {});

}  // namespace dist
}  // namespace v0
}  // namespace anneal
