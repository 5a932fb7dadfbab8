// In the emulation, what cuBLASLt and cuDNN compute on a device is left to the CPU's kernels.
#include "anneal/kernels/cuda/runtime.h"
#include "anneal/kernels/kernels.h"

namespace anneal {
inline namespace v0 {
namespace kernels::ANNEAL_GPU {

template <>
void run(const Gemm& args, Stream) {
  cpu::run(args);
}
template <>
void run(const Conv2d& args, Stream) {
  cpu::run(args);
}
template <>
void run(const Conv2dInputGrad& args, Stream) {
  cpu::run(args);
}
template <>
void run(const Conv2dWeightGrad& args, Stream) {
  cpu::run(args);
}

}  // namespace kernels::ANNEAL_GPU
}  // namespace v0
}  // namespace anneal
