// The reduction that all CPU engines share. Private.
#pragma once

#include <cstdint>
#include <span>

#include "anneal/core/collective.h"

namespace anneal {
inline namespace v0 {
namespace dist {

/// out[i] = ((parts[0][i] op parts[1][i]) op parts[2][i]) op ..., so that an element depends neither on how a tensor is
/// cut nor on who came first. 16-bit types are accumulated in f32 and rounded once; integers wrap; NaN stays. `out` may
/// be one of the parts.
void reduce_in_rank_order(DType dtype, ReduceOp op, std::span<const std::byte* const> parts, std::int64_t n,
                          std::byte* out);

}  // namespace dist
}  // namespace v0
}  // namespace anneal
