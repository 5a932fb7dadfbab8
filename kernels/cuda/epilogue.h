// What libraries cannot fuse.
#pragma once

#include "anneal/kernels/cuda/runtime.h"
#include "anneal/kernels/kernels.h"
#include "anneal/kernels/pointwise.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cuda {

/// y = relu(y + bias) in place; without the bias if that is null, and without relu unless asked for. Stride 0 is for y,
/// stride 1 for the bias.
inline void epilogue(DType dtype, const Space<2>& space, void* y, const void* bias, bool relu, Stream stream) {
  Space<3> sum{.rank = space.rank, .size = {}, .stride = {}};
  Space<2> self = space;
  for (int d = 0; d < space.rank; ++d) {
    sum.size[d] = space.size[d];
    sum.stride[0][d] = sum.stride[2][d] = self.stride[1][d] = space.stride[0][d];
    sum.stride[1][d] = space.stride[1][d];
  }
  if (bias) run(Binary{binary_id<Add>, dtype, sum, y, bias, y}, stream);
  if (relu) run(Unary{unary_id<Relu>, dtype, self, y, y}, stream);
}

}  // namespace kernels::cuda
}  // namespace v0
}  // namespace anneal
