// Which cuDNN graphs convolutions are.
#pragma once

#include <optional>

#include "anneal/kernels/cuda/cudnn_graph.h"
#include "anneal/kernels/kernels.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cuda {

/// All that a convolution's plan depends on, but for the device.
struct ConvGraph {
  /// The ids of its tensors. A gradient has the id of what it is the gradient of.
  enum Id : std::int64_t { x = 1, weight, y, bias, product, sum };

  cudnn::Direction direction;
  DType dtype;  // of all tensors: cuDNN has no engine that computes an f32 gradient of 16-bit tensors
  ConvShape shape;
  std::int64_t align_x, align_weight, align_y, align_bias;  // of the pointers, in bytes, at most 16
  bool has_bias = false, relu = false;                      // fused into a forward convolution; relu needs a bias
  bool tf32 = false;

  auto key() const {
    const ConvShape& s = shape;
    return std::to_array<std::int64_t>({static_cast<int>(direction),
                                        static_cast<int>(dtype),
                                        s.n,
                                        s.c_in,
                                        s.h,
                                        s.w,
                                        s.c_out,
                                        s.kernel_h,
                                        s.kernel_w,
                                        s.stride_h,
                                        s.stride_w,
                                        s.padding_h,
                                        s.padding_w,
                                        s.dilation_h,
                                        s.dilation_w,
                                        s.groups,
                                        align_x,
                                        align_weight,
                                        align_y,
                                        align_bias,
                                        has_bias,
                                        relu,
                                        tf32});
  }
};

/// The plan, or none if cuDNN has no engine that gives the same bits every time.
std::optional<cudnn::Plan> plan(const ConvGraph& graph, const cudnn::Target& target);

}  // namespace kernels::cuda
}  // namespace v0
}  // namespace anneal
