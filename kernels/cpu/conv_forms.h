// Forms of convolution for some shapes. Each function does the work and returns true where its form is the faster, else
// it returns false.
#pragma once

#include "anneal/kernels/cpu/level.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu::ANNEAL_LEVEL {

bool run_pointwise(const Conv2d& a);
bool run_pointwise(const Conv2dInputGrad& a);
bool run_pointwise(const Conv2dWeightGrad& a);
bool run_winograd(const Conv2d& a);
bool run_winograd(const Conv2dInputGrad& a);
bool run_winograd(const Conv2dWeightGrad& a);

}  // namespace kernels::cpu::ANNEAL_LEVEL
}  // namespace v0
}  // namespace anneal
