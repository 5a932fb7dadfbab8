// How much each kernel does, by its arguments: for profilers.
#pragma once

#include "anneal/kernels/kernels.h"

namespace anneal {
inline namespace v0 {
namespace kernels {

struct Work {
  const char* name;  ///< "gemm", "conv2d_input_grad", "relu", "relu_grad"
  double flops;  ///< 2 for each multiply-add of matrix products, convolutions and attention; other kernels have none
  double bytes;  ///< operands, each read or written once
};

/// `readable`: whether the host can read what the arguments point to. Else the bytes of optimizers' kernels, whose
/// blocks tell them, are 0.
template <class Args>
Work work_of(const Args& args, bool readable);

}  // namespace kernels
}  // namespace v0
}  // namespace anneal
