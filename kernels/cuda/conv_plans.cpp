#include "anneal/kernels/cuda/conv_plans.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cuda {
namespace {

cudnnDataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::f64: return CUDNN_DATA_DOUBLE;
    case DType::f16: return CUDNN_DATA_HALF;
    case DType::bf16: return CUDNN_DATA_BFLOAT16;
    default: return CUDNN_DATA_FLOAT;
  }
}

}  // namespace

std::optional<cudnn::Plan> plan(const ConvGraph& g, const cudnn::Target& target) {
  const ConvShape& s = g.shape;
  const cudnnDataType_t type = type_of(g.dtype), compute = g.dtype == DType::f64 ? CUDNN_DATA_DOUBLE : CUDNN_DATA_FLOAT;
  const cudnn::Tensor x{ConvGraph::x, type, {s.n, s.c_in, s.h, s.w}, g.align_x};
  const cudnn::Tensor weight{
      ConvGraph::weight, type, {s.c_out, s.c_in / s.groups, s.kernel_h, s.kernel_w}, g.align_weight};
  const cudnn::Tensor y{ConvGraph::y, type, {s.n, s.c_out, s.out_h(), s.out_w()}, g.align_y};
  cudnn::Graph graph;
  const cudnn::ConvolutionOptions options{
      {s.padding_h, s.padding_w}, {s.stride_h, s.stride_w}, {s.dilation_h, s.dilation_w}, compute};
  if (g.has_bias) {
    const cudnn::Tensor bias{ConvGraph::bias, type, {1, s.c_out, 1, 1}, g.align_bias};
    const cudnn::Tensor product{ConvGraph::product, compute, y.dims, 16, true};
    const cudnn::Tensor sum{ConvGraph::sum, compute, y.dims, 16, true};
    graph.convolution(g.direction, x, weight, product, options);
    graph.add(product, bias, g.relu ? sum : y);
    if (g.relu) graph.relu(sum, y);
  } else {
    graph.convolution(g.direction, x, weight, y, options);
  }
  return graph.plan(target, {.tensor_cores = g.dtype != DType::f32 || g.tf32});
}

}  // namespace kernels::cuda
}  // namespace v0
}  // namespace anneal
