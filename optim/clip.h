// Clipping that a step cannot do in its own pass: it changes the gradients in memory.
#pragma once

#include <span>

#include "anneal/optim/optimizer.h"

namespace anneal {
inline namespace v0 {
namespace optim {

/// Scales the gradients of each group down to a norm of its own, max_norms[group]; 0: no limit. `norm_type` is p;
/// infinity: the largest magnitude. Throws Error unless there is one limit for each group. What `defer` left to the
/// next step, such as unscaling, is done first.
void clip_group_norms(Optimizer& optimizer, std::span<const double> max_norms, double norm_type = 2);

/// Adaptive clipping: the gradient of each unit, a row of a weight or all of a vector, is scaled down to `factor` times
/// the norm of the unit itself, which counts for at least `eps`. Brock et al. 2021, "High-Performance Large-Scale Image
/// Recognition Without Normalization".
void clip_adaptive(Optimizer& optimizer, double factor, double eps = 1e-3);

}  // namespace optim
}  // namespace v0
}  // namespace anneal
