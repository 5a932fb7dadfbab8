#include "anneal/kernels/work.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>

#include "anneal/kernels/pointwise.h"

namespace anneal {
inline namespace v0 {
namespace kernels {
namespace {

// What is counted: elements and bytes, as numbers that do not overflow.
template <class... Sizes>
double product(Sizes... sizes) {
  return (static_cast<double>(sizes) * ... * 1.0);
}
double width(DType dtype) { return static_cast<double>(size_of(dtype)); }
/// Statistics and other numbers that are f64 for f64, else f32.
double wide(DType dtype) { return dtype == DType::f64 ? 8 : 4; }
double count(const void* p) { return p ? 1 : 0; }

// The elements of an operand that a space visits: a broadcast dimension is read once.
template <int Operands>
double elements(const Space<Operands>& space, int operand) {
  double n = 1;
  for (int d = 0; d < space.rank; ++d)
    if (space.stride[operand][d] != 0) n *= static_cast<double>(space.size[d]);
  return n;
}
template <int Operands>
double elements(const Space<Operands>& space) {
  double n = 0;
  for (int k = 0; k < Operands; ++k) n += elements(space, k);
  return n;
}

template <class... Ops>
std::array<std::string, sizeof...(Ops)> names_of(TypeList<Ops...>, const char* ending) {
  return {std::string(Ops::name) + ending...};
}
// `grads`: of the function, its derivative or its second one.
template <class List, int grads = 0>
const char* name_of_op(int op) {
  static const auto names = names_of(List{}, std::array{"", "_grad", "_grad_grad"}[grads]);
  return names[static_cast<std::size_t>(op)].c_str();
}

double conv_flops(const ConvShape& s) {
  return 2 * product(s.n, s.c_out, s.out_h(), s.out_w(), s.c_in / s.groups, s.kernel_h, s.kernel_w);
}
struct ConvElements {
  double x, weight, y;
};
ConvElements elements(const ConvShape& s) {
  return {product(s.n, s.c_in, s.h, s.w), product(s.c_out, s.c_in / s.groups, s.kernel_h, s.kernel_w),
          product(s.n, s.c_out, s.out_h(), s.out_w())};
}
double input(const PoolShape& s) { return product(s.planes, s.h, s.w); }
double output(const PoolShape& s) { return product(s.planes, s.out_h(), s.out_w()); }

// Pairs of a query and a key that it sees.
double pairs(const AttentionInputs& a) {
  double seen = product(a.queries, a.keys);
  if (a.causal) {
    const std::int64_t growing = std::min(a.queries, a.keys);
    seen = product(growing, growing + 1) / 2 + product(a.queries - growing, a.keys);
  }
  return product(a.batch, a.heads) * seen;
}
double query_rows(const AttentionInputs& a) { return product(a.batch, a.heads, a.queries); }
double key_rows(const AttentionInputs& a) { return product(a.batch, a.kv_heads(), a.keys); }
double mask_bytes(const AttentionInputs& a) {
  if (!a.mask) return 0;
  double n = width(a.mask_dtype);
  const std::int64_t size[] = {a.batch, a.heads, a.queries, a.keys};
  for (int d = 0; d < 4; ++d)
    if (a.mask_strides[d] != 0) n *= static_cast<double>(size[d]);
  return n;
}

template <class F>
double active_elements(const Block* blocks, std::int64_t n, bool readable, const F& counts) {
  std::int64_t sum = 0;
  for (std::int64_t i = 0; readable && i < n; ++i)
    if (blocks[i].active && counts(blocks[i])) sum += blocks[i].end - blocks[i].begin;
  return static_cast<double>(sum);
}
double active_elements(const Block* blocks, std::int64_t n, bool readable) {
  return active_elements(blocks, n, readable, [](const Block&) { return true; });
}
// Gradients are read; values, and what else is kept of each element, are read and written.
double update_bytes(const OptimStep& s, int states, bool readable) {
  return active_elements(s.blocks, s.n_blocks, readable) *
         (3 * width(s.dtype) + count(s.twin) * width(s.twin_dtype) + 2 * wide(s.dtype) * (states + count(s.average)));
}

}  // namespace

// ---- pointwise, random ----

template <>
Work work_of(const Unary& a, bool) {
  return {name_of_op<UnaryOps>(a.op), 0, elements(a.space) * width(a.dtype)};
}
template <>
Work work_of(const UnaryGrad& a, bool) {
  return {name_of_op<UnaryOps, 1>(a.op), 0, elements(a.space) * width(a.dtype)};
}
template <>
Work work_of(const UnaryGradGrad& a, bool) {
  return {name_of_op<UnaryOps, 2>(a.op), 0, elements(a.space) * width(a.dtype)};
}
template <>
Work work_of(const Binary& a, bool) {
  return {name_of_op<BinaryOps>(a.op), 0, elements(a.space) * width(a.dtype)};
}
template <>
Work work_of(const Compare& a, bool) {
  return {name_of_op<CompareOps>(a.op), 0,
          (elements(a.space, 0) + elements(a.space, 1)) * width(a.dtype) + elements(a.space, 2)};
}
template <>
Work work_of(const Where& a, bool) {
  return {"where", 0, elements(a.space, 0) + (elements(a.space) - elements(a.space, 0)) * width(a.dtype)};
}
template <>
Work work_of(const Copy& a, bool) {
  return {"copy", 0, elements(a.space, 0) * width(a.from) + elements(a.space, 1) * width(a.to)};
}
template <>
Work work_of(const Fill& a, bool) {
  return {"fill", 0, elements(a.space) * width(a.dtype)};
}
template <>
Work work_of(const Random& a, bool) {
  return {"random", 0, product(a.n) * width(a.dtype)};
}
template <>
Work work_of(const Dropout& a, bool) {
  return {"dropout", 0, 2 * product(a.n) * width(a.dtype)};
}

// ---- reductions ----

template <>
Work work_of(const Reduce& a, bool) {
  constexpr const char* names[] = {"sum", "mean", "max", "min", "prod"};
  return {names[static_cast<int>(a.op)], 0,
          product(a.outer, a.reduced, a.inner) * width(a.dtype) + product(a.outer, a.inner) * width(a.out)};
}
template <>
Work work_of(const ArgReduce& a, bool) {
  return {a.largest ? "argmax" : "argmin", 0,
          product(a.outer, a.reduced, a.inner) * width(a.dtype) + product(a.outer, a.inner) * sizeof *a.y};
}

// ---- products, images ----

template <>
Work work_of(const Gemm& a, bool) {
  const auto times = [&](std::int64_t stride) { return stride == 0 ? 1 : a.batch; };
  return {"gemm", 2 * product(a.batch, a.m, a.n, a.k),
          (product(times(a.stride_a), a.m, a.k) + product(times(a.stride_b), a.k, a.n)) * width(a.dtype) +
              ((a.accumulate ? 2 : 1) * product(a.batch, a.m, a.n) + count(a.bias) * product(a.n)) * width(a.out)};
}
template <>
Work work_of(const Conv2d& a, bool) {
  const auto [x, weight, y] = elements(a.shape);
  return {"conv2d", conv_flops(a.shape), (x + weight + y + count(a.bias) * product(a.shape.c_out)) * width(a.dtype)};
}
template <>
Work work_of(const Conv2dInputGrad& a, bool) {
  const auto [x, weight, y] = elements(a.shape);
  return {"conv2d_input_grad", conv_flops(a.shape), (x + weight + y) * width(a.dtype)};
}
template <>
Work work_of(const Conv2dWeightGrad& a, bool) {
  const auto [x, weight, y] = elements(a.shape);
  return {"conv2d_weight_grad", conv_flops(a.shape),
          (x + y) * width(a.dtype) + (a.accumulate ? 2 : 1) * weight * width(a.out)};
}
template <>
Work work_of(const MaxPool2d& a, bool) {
  return {"max_pool2d", 0,
          (input(a.shape) + output(a.shape)) * width(a.dtype) + count(a.index) * output(a.shape) * sizeof *a.index};
}
template <>
Work work_of(const MaxPool2dGrad& a, bool) {
  return {"max_pool2d_grad", 0,
          (input(a.shape) + output(a.shape)) * width(a.dtype) + output(a.shape) * sizeof *a.index};
}
template <>
Work work_of(const AvgPool2d& a, bool) {
  return {"avg_pool2d", 0, (input(a.shape) + output(a.shape)) * width(a.dtype)};
}
template <>
Work work_of(const AvgPool2dGrad& a, bool) {
  return {"avg_pool2d_grad", 0, (input(a.shape) + output(a.shape)) * width(a.dtype)};
}

// ---- rows, normalisations ----

template <>
Work work_of(const Softmax& a, bool) {
  return {a.log ? "log_softmax" : "softmax", 0, 2 * product(a.rows, a.cols) * width(a.dtype)};
}
template <>
Work work_of(const SoftmaxGrad& a, bool) {
  return {a.log ? "log_softmax_grad" : "softmax_grad", 0, 3 * product(a.rows, a.cols) * width(a.dtype)};
}
template <>
Work work_of(const CheckTargets& a, bool) {
  return {"check_targets", 0, product(a.rows) * sizeof *a.classes};
}
template <>
Work work_of(const CrossEntropy& a, bool) {
  const Targets& t = a.targets;
  return {"cross_entropy", 0,
          (1 + count(a.dx) + count(t.probabilities)) * product(a.rows, a.cols) * width(a.dtype) +
              product(a.rows) * wide(a.dtype) + count(t.classes) * product(a.rows) * sizeof *t.classes};
}
template <>
Work work_of(const ScaleRows& a, bool) {
  return {"scale_rows", 0,
          2 * product(a.rows, a.cols) * width(a.dtype) + (a.shared ? 1 : product(a.rows)) * wide(a.dtype)};
}
template <>
Work work_of(const LayerNorm& a, bool) {
  return {
      a.rms ? "rms_norm" : "layer_norm", 0,
      ((2 + 2 * count(a.residual)) * product(a.rows, a.cols) + (count(a.weight) + count(a.bias)) * product(a.cols)) *
              width(a.dtype) +
          (count(a.mean) + count(a.rstd)) * product(a.rows) * wide(a.dtype)};
}
template <>
Work work_of(const LayerNormGrad& a, bool) {
  return {a.rms ? "rms_norm_grad" : "layer_norm_grad", 0,
          ((2 + count(a.dx) + (a.accumulate ? 1 : 0)) * product(a.rows, a.cols) +
           (count(a.weight) + count(a.dweight) + count(a.dbias)) * product(a.cols)) *
                  width(a.dtype) +
              (count(a.mean) + count(a.rstd)) * product(a.rows) * wide(a.dtype)};
}
template <>
Work work_of(const BatchNorm& a, bool) {
  return {"batch_norm", 0,
          2 * product(a.n, a.c, a.inner) * width(a.dtype) + 2 * product(a.c) * wide(a.dtype) +
              (count(a.weight) + count(a.bias) + count(a.running_mean) + count(a.running_var)) * product(a.c) *
                  width(a.parameters)};
}
template <>
Work work_of(const BatchNormGrad& a, bool) {
  return {"batch_norm_grad", 0,
          (2 + count(a.dx)) * product(a.n, a.c, a.inner) * width(a.dtype) + 2 * product(a.c) * wide(a.dtype) +
              (count(a.weight) + count(a.dweight) + count(a.dbias)) * product(a.c) * width(a.parameters)};
}

// ---- attention ----

template <>
Work work_of(const Attention& a, bool) {
  return {"attention", 2 * pairs(a) * product(a.depth + a.value_depth),
          (query_rows(a) + key_rows(a)) * product(a.depth + a.value_depth) * width(a.dtype) +
              query_rows(a) * wide(a.dtype) + mask_bytes(a)};
}
// The scores are made again; their gradients come from those of the results.
template <>
Work work_of(const AttentionGrad& a, bool) {
  const double depth = product(a.depth), value_depth = product(a.value_depth);
  return {"attention_grad", 2 * pairs(a) * (depth * (1 + count(a.dq) + count(a.dk)) + value_depth * (1 + count(a.dv))),
          (query_rows(a) * (depth * (1 + count(a.dq)) + 2 * value_depth) +
           key_rows(a) * (depth * (1 + count(a.dk)) + value_depth * (1 + count(a.dv)))) *
                  width(a.dtype) +
              query_rows(a) * wide(a.dtype) + mask_bytes(a)};
}

// ---- indices ----

template <>
Work work_of(const Gather& a, bool) {
  double n = 1;
  for (int d = 0; d < a.rank; ++d) n *= static_cast<double>(a.size[d]);
  return {"gather", 0, n * (2 * width(a.dtype) + sizeof *a.index)};
}
template <>
Work work_of(const ScatterAdd& a, bool) {
  double n = 1;
  for (int d = 0; d < a.rank; ++d) n *= static_cast<double>(a.size[d]);
  return {"scatter_add", 0, n * (3 * width(a.dtype) + sizeof *a.index)};
}
template <>
Work work_of(const Embedding& a, bool) {
  return {"embedding", 0, product(a.n) * (2 * product(a.cols) * width(a.dtype) + sizeof *a.index)};
}
template <>
Work work_of(const EmbeddingGrad& a, bool) {
  const double table = a.accumulate ? 2 * product(a.n, a.cols) : product(a.rows, a.cols);
  return {"embedding_grad", 0, (product(a.n, a.cols) + table) * width(a.dtype) + product(a.n) * sizeof *a.index};
}

// ---- optimizers ----

template <>
Work work_of(const GradientSum& a, bool readable) {
  return {"gradient_norm", 0, active_elements(a.blocks, a.n_blocks, readable) * width(a.dtype)};
}
template <>
Work work_of(const StepFactor&, bool) {
  return {"step_factor", 0, 2 * sizeof(StepState)};
}
template <>
Work work_of(const AdamStep& a, bool readable) {
  return {"adam_step", 0, update_bytes(a, 2, readable)};
}
template <>
Work work_of(const SgdStep& a, bool readable) {
  const double with_momentum = active_elements(a.blocks, a.n_blocks, readable,
                                               [&](const Block& block) { return a.groups[block.group].momentum != 0; });
  return {"sgd_step", 0, update_bytes(a, 0, readable) + 2 * wide(a.dtype) * with_momentum};
}

}  // namespace kernels
}  // namespace v0
}  // namespace anneal
