// Every kernel: a plain struct of arguments that `cpu::run` (and a GPU backend) takes. No Tensor, no autograd: the
// benchmarks and the backend tests call these directly.
//
// Pointers are to the first element. Unless a field says otherwise buffers are dense, row-major and do not overlap;
// sizes and strides count elements. Kernels check nothing but indices: `core` has validated the rest. Results do not
// depend on the number of threads.
#pragma once

#include <cstdint>

#include "anneal/kernels/dtype.h"
#include "anneal/kernels/typelist.h"

namespace anneal {
inline namespace v0 {
namespace kernels {

inline constexpr int max_rank = 8;

/// A loop nest over operands that may be strided or broadcast (stride 0), outermost dimension first.
template <int Operands>
struct Space {
  int rank;
  std::int64_t size[max_rank];
  std::int64_t stride[Operands][max_rank];

  constexpr std::int64_t numel() const {
    std::int64_t n = 1;
    for (int d = 0; d < rank; ++d) n *= size[d];
    return n;
  }
};

// ---- pointwise (op numbers: `unary_id`, `binary_id`, `compare_id` of kernels/pointwise.h) ----

/// y = op(x)
struct Unary {
  int op;
  DType dtype;
  Space<2> space;
  const void* x;
  void* y;
};
/// dx = dy * op'(saved), where `saved` is op's input or output as the functor says
struct UnaryGrad {
  int op;
  DType dtype;
  Space<3> space;
  const void *dy, *saved;
  void* dx;
};
/// out = g * dy * d(op')/d(saved): what a second derivative sends to `saved`
struct UnaryGradGrad {
  int op;
  DType dtype;
  Space<4> space;
  const void *g, *dy, *saved;
  void* out;
};
/// y = op(a, b)
struct Binary {
  int op;
  DType dtype;
  Space<3> space;
  const void *a, *b;
  void* y;
};
/// y = a op b; y is bool
struct Compare {
  int op;
  DType dtype;
  Space<3> space;
  const void *a, *b;
  void* y;
};
/// y = condition ? a : b; condition is bool
struct Where {
  DType dtype;
  Space<4> space;
  const void *condition, *a, *b;
  void* y;
};
/// y = x converted to another dtype
struct Copy {
  DType from, to;
  Space<2> space;
  const void* x;
  void* y;
};
/// y = value
struct Fill {
  DType dtype;
  Space<1> space;
  double value;
  void* y;
};

// ---- random: element i depends on (seed, offset + i) alone ----

enum class Distribution { uniform, normal, integer };
/// uniform: [a, b); normal: mean a, standard deviation b; integer: a, a + 1, ..., b - 1
struct Random {
  Distribution distribution;
  DType dtype;
  std::int64_t n;
  double a, b;
  std::uint64_t seed, offset;
  void* y;
};
/// y = x / (1 - p) where element i is kept, else 0
struct Dropout {
  DType dtype;
  std::int64_t n;
  double p;
  std::uint64_t seed, offset;
  const void* x;
  void* y;
};

// ---- reductions of [outer, reduced, inner] to [outer, inner] ----

enum class Reduction { sum, mean, max, min, prod };
/// y has `out`: `dtype`, or f32 where that has 16 bits.
struct Reduce {
  Reduction op;
  DType dtype, out;
  std::int64_t outer, reduced, inner;
  const void* x;
  void* y;
};
/// The first position of the largest (smallest) value, NaN counting as largest (smallest); `y` is i64.
struct ArgReduce {
  bool largest;
  DType dtype;
  std::int64_t outer, reduced, inner;
  const void* x;
  std::int64_t* y;
};

// ---- linear algebra ----

enum class Activation { none, relu, gelu };
/// C = activation(op(A) op(B) + bias), or C += op(A) op(B) if `accumulate` (then without bias and activation).
/// op(A) is [m, k], op(B) is [k, n]; `lda` is the distance of rows as stored. `bias` (or null) has n elements.
/// A batch repeats the product at distances `stride_*` (0 = shared operand). A and B have `dtype`; C and bias have
/// `out`: `dtype`, or f32 where that has 16 bits. `saved` (or null), laid out like C, receives what gelu was taken of.
struct Gemm {
  DType dtype, out;
  bool trans_a, trans_b;
  std::int64_t m, n, k, lda, ldb, ldc;
  std::int64_t batch, stride_a, stride_b, stride_c;
  const void *a, *b;
  void* c;
  const void* bias;
  Activation activation;
  bool accumulate;
  void* saved = nullptr;
};

// ---- images, NCHW ----

struct ConvShape {
  std::int64_t n, c_in, h, w, c_out, kernel_h, kernel_w;
  std::int64_t stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w, groups;
  constexpr std::int64_t out_h() const { return (h + 2 * padding_h - dilation_h * (kernel_h - 1) - 1) / stride_h + 1; }
  constexpr std::int64_t out_w() const { return (w + 2 * padding_w - dilation_w * (kernel_w - 1) - 1) / stride_w + 1; }
};
/// y = activation(conv(x, weight) + bias), none or relu; weight is [c_out, c_in / groups, kernel_h, kernel_w], bias may
/// be null
struct Conv2d {
  DType dtype;
  ConvShape shape;
  const void *x, *weight, *bias;
  void* y;
  Activation activation;
};
struct Conv2dInputGrad {
  DType dtype;
  ConvShape shape;
  const void *dy, *weight;
  void* dx;
};
/// dweight = (or += if `accumulate`) the gradient of the weight; it has `out`: `dtype`, or f32 where that has 16 bits
struct Conv2dWeightGrad {
  DType dtype, out;
  ConvShape shape;
  const void *dy, *x;
  void* dweight;
  bool accumulate;
};

struct PoolShape {
  std::int64_t planes, h, w, kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w;
  constexpr std::int64_t out_h() const { return (h + 2 * padding_h - kernel_h) / stride_h + 1; }
  constexpr std::int64_t out_w() const { return (w + 2 * padding_w - kernel_w) / stride_w + 1; }
};
/// `index` (may be null) receives where in its plane each maximum was: the first one, or a NaN
struct MaxPool2d {
  DType dtype;
  PoolShape shape;
  const void* x;
  void* y;
  std::int32_t* index;
};
struct MaxPool2dGrad {
  DType dtype;
  PoolShape shape;
  const void* dy;
  const std::int32_t* index;
  void* dx;
};
/// The mean of a window; padding counts as zeros if `count_include_pad`, else it is left out
struct AvgPool2d {
  DType dtype;
  PoolShape shape;
  bool count_include_pad;
  const void* x;
  void* y;
};
struct AvgPool2dGrad {
  DType dtype;
  PoolShape shape;
  bool count_include_pad;
  const void* dy;
  void* dx;
};

// ---- rows: [rows, cols] ----

struct Softmax {
  DType dtype;
  bool log;
  std::int64_t rows, cols;
  const void* x;
  void* y;
};
struct SoftmaxGrad {
  DType dtype;
  bool log;
  std::int64_t rows, cols;
  const void *y, *dy;
  void* dx;
};

/// Counts the rows whose class is not `ignore_index`. The first row whose class is not in [0, cols) is left in `*bad`,
/// which else keeps its value.
struct CheckTargets {
  std::int64_t rows, cols;
  const std::int64_t* classes;
  std::int64_t ignore_index;
  double* count;
  std::int64_t* bad;
};
/// A row's loss is -sum_j q_j log softmax(x)_j, where q is `probabilities`' row if that is not null, else one at the
/// target; then q = (1 - smoothing) q + smoothing / cols. Rows whose target is `ignore_index`, or not in [0, cols),
/// have loss 0. Losses and gradients are divided by `*count` if that is not null.
struct Targets {
  const std::int64_t* classes;
  const void* probabilities;
  std::int64_t ignore_index;
  double smoothing;
  const double* count;
};
/// `dx` (or null; it may lie over x) receives d loss[row] / dx. Losses are f64 for f64, else f32.
struct CrossEntropy {
  DType dtype;
  std::int64_t rows, cols;
  const void* x;
  Targets targets;
  void *loss, *dx;
};
/// y = factor[row] * x; `shared`: one factor for all rows. Factors are f64 for f64, else f32. y may be x: a row whose
/// factor is 1 then costs nothing.
struct ScaleRows {
  DType dtype;
  std::int64_t rows, cols;
  const void *x, *factor;
  bool shared;
  void* y;
};

/// y = (x - mean) * rstd * weight + bias over each row; weight and bias may be null. `rms`: mean is taken as 0.
/// `mean` and `rstd` (one a row) are f64 for f64, else f32. With a residual (else null), sum = x + residual takes the
/// place of x.
struct LayerNorm {
  DType dtype;
  bool rms;
  std::int64_t rows, cols;
  double eps;
  const void *x, *weight, *bias;
  void *y, *mean, *rstd;
  const void* residual = nullptr;
  void* sum = nullptr;
};
/// dx, dweight and dbias may each be null. `accumulate`: to what is in dx.
struct LayerNormGrad {
  DType dtype;
  bool rms;
  std::int64_t rows, cols;
  const void *x, *weight, *mean, *rstd, *dy;
  void *dx, *dweight, *dbias;
  bool accumulate = false;
};

// ---- batch norm: x is [n, c, inner]; `mean` and `rstd` (one a channel) are f64 for f64, else f32 ----

/// Training: normalises by the batch's statistics, writes them to `mean` and `rstd`, and moves the running ones (may
/// be null) by `momentum`, the variance unbiased. Else: normalises by the running statistics. Weight, bias and running
/// statistics are `parameters`, which is `dtype` or, where that has 16 bits, f32.
struct BatchNorm {
  DType dtype, parameters;
  bool training;
  std::int64_t n, c, inner;
  double eps, momentum;
  const void *x, *weight, *bias;
  void *y, *running_mean, *running_var, *mean, *rstd;
};
/// `training`: the statistics depended on x. dx, dweight and dbias may each be null
struct BatchNormGrad {
  DType dtype, parameters;
  bool training;
  std::int64_t n, c, inner;
  const void *x, *weight, *mean, *rstd, *dy;
  void *dx, *dweight, *dbias;
};

// ---- attention ----

/// The distances of batches, heads and rows; the elements of a row are side by side.
struct HeadStrides {
  std::int64_t batch, head, row;
};
/// For each head softmax(scale q k^T + mask) v. q is [batch, heads, queries, depth], k [batch, heads / group, keys,
/// depth], v [batch, heads / group, keys, value_depth]: head h reads head h / group of k and v. `causal`: query i sees
/// the keys 0, ..., i. `mask` (or null) has the strides of [batch, heads, queries, keys]; it is bool, true where a key
/// is seen, or has `dtype` and is added. The softmax's results go through a dropout with probability `dropout`, whose
/// element j of a row has the position `position(batch, head, query) + j`; `offset` is a multiple of 4.
struct AttentionInputs {
  DType dtype;
  std::int64_t batch, heads, group, queries, keys, depth, value_depth;
  double scale;
  bool causal;
  const void *q, *k, *v;
  HeadStrides q_strides, k_strides, v_strides;
  const void* mask;
  DType mask_dtype;
  std::int64_t mask_strides[4];
  double dropout;
  std::uint64_t seed, offset;

  constexpr std::int64_t kv_heads() const { return heads / group; }
  /// The keys that a query sees are the first so many.
  constexpr std::int64_t seen(std::int64_t query) const { return causal && query < keys ? query + 1 : keys; }
  constexpr std::uint64_t position(std::int64_t b, std::int64_t h, std::int64_t query) const {
    return offset + static_cast<std::uint64_t>(((b * heads + h) * queries + query) * ((keys + 3) / 4 * 4));
  }
};
/// `lse` [batch, heads, queries], for the gradient, is the log-sum-exp of each row: f64 for f64, else f32. Queries that
/// see no key have result 0 and lse infinity.
struct Attention : AttentionInputs {
  void* out;
  HeadStrides out_strides;
  void* lse;
};
/// dq, dk and dv may each be null
struct AttentionGrad : AttentionInputs {
  const void *out, *dout;
  HeadStrides out_strides, dout_strides;
  const void* lse;
  void *dq, *dk, *dv;
  HeadStrides dq_strides, dk_strides, dv_strides;
};

// ---- indices: i64; the position of the first one out of range is left in `*bad`, which else keeps its value; what it
// would have read is 0 (on the CPU nothing is written then, but `*bad`) ----

/// y[i] = x[i with its coordinate `dim` replaced by index[i]]; `size` is the shape of index and y, which are dense
struct Gather {
  DType dtype;
  int rank, dim;
  std::int64_t size[max_rank], x_stride[max_rank], x_size;
  const void* x;
  const std::int64_t* index;
  void* y;
  std::int64_t* bad;
};
/// x[i with its coordinate `dim` replaced by index[i]] += src[i], in the order of i
struct ScatterAdd {
  DType dtype;
  int rank, dim;
  std::int64_t size[max_rank], x_stride[max_rank], x_size;
  void* x;
  const std::int64_t* index;
  const void* src;
  std::int64_t* bad;
};
/// y[i] = table[index[i]]; table is [rows, cols]
struct Embedding {
  DType dtype;
  std::int64_t n, rows, cols;
  const void* table;
  const std::int64_t* index;
  void* y;
  std::int64_t* bad;
};
/// dtable = 0 unless `accumulate`; dtable[index[i]] += dy[i], in the order of i, but for i with index[i] == padding
struct EmbeddingGrad {
  DType dtype;
  std::int64_t n, rows, cols, padding;
  const std::int64_t* index;
  const void* dy;
  void* dtable;
  bool accumulate;
};

// ---- optimizers, over a whole arena in one pass ----

/// One parameter's part of an arena: elements [begin, end), in parameter group `group`; skipped unless `active`.
struct Block {
  std::int64_t begin, end;
  std::int32_t group;
  bool active;
  friend bool operator==(const Block&, const Block&) = default;
};
/// The numbers of one parameter group at one step.
struct OptimGroup {
  double lr, beta1, beta2, eps, weight_decay, momentum, dampening;
  bool nesterov, maximize, decoupled;
  friend bool operator==(const OptimGroup&, const OptimGroup&) = default;
};
/// What the gradients of one optimizer step amount to. It lives in the memory of the device, so that nothing waits for
/// the host; the values it starts with are those of a step without scaler or clipping.
struct StepState {
  double total = 0;             ///< GradientSum: the sum of |g|^p, or the largest |g|, so far
  double norm = 0;              ///< StepFactor: the gradients' norm, averaged and unscaled, before clipping
  double factor = 1;            ///< StepFactor: what the update multiplies gradients by
  double scale = 1;             ///< the loss scale
  std::int64_t good_steps = 0;  ///< since the scale last changed
  std::int64_t skipped = 0;     ///< steps skipped so far
  std::int32_t found_inf = 0;   ///< StepFactor: this step is skipped
};
/// Adds the active blocks' part of the norm to `state->total`, in an order fixed by the blocks. `p` may be infinity.
struct GradientSum {
  DType dtype;
  const Block* blocks;
  std::int64_t n_blocks;
  const void* gradients;
  double p;
  StepState* state;
};
/// Turns `total` into norm and factor, and sets it to 0. The factor is average, times min(1, max_norm / (norm + 1e-6))
/// if max_norm > 0 (PyTorch's clip_grad_norm_). With `scaler` it is divided by the scale, and found_inf says whether
/// gradients are not finite: that multiplies the scale by `backoff`; after `interval` good steps it is multiplied by
/// `growth` (1 and interval 0: a scale that stays; -1: scale and good steps are left alone). Micikevicius et al. 2018.
struct StepFactor {
  StepState* state;
  double p, average, max_norm;
  bool scaler;
  double growth, backoff;
  std::int64_t interval;
};

/// What every update works on. Gradients are multiplied by `state->factor`, then clamped to [-clip_value, clip_value]
/// if that is not 0; nothing changes if `state->found_inf`. `state` may be null: no factor. `steps` counts each block's
/// own updates; it is advanced here. Values and gradients have `dtype`, other state is f64 for f64 and else f32; `twin`
/// (or null) receives the values converted to `twin_dtype`; `average` (or null), kept like other state, moves by
/// (1 - decay) * (value - average). `blocks`, `groups`, `steps` and `state` are in the memory of the device.
struct OptimStep {
  DType dtype, twin_dtype;
  const Block* blocks;
  std::int64_t n_blocks;
  const OptimGroup* groups;
  std::int64_t* steps;
  const StepState* state;
  double clip_value;
  const void* gradients;
  void *values, *twin;
  void* average = nullptr;
  double decay = 0;
};
/// Adam (decay added to the gradient) or, if the group is `decoupled`, AdamW. Kingma & Ba 2015; Loshchilov & Hutter
/// 2019.
struct AdamStep : OptimStep {
  void *exp_avg, *exp_avg_sq;
};
/// SGD with momentum as PyTorch defines it: the first step sets the momentum to the gradient (`steps` tells).
struct SgdStep : OptimStep {
  void* momentum;
};

/// All of the above. A new kernel is a struct here, its name in this list, a `work_of`, and a `run` in each backend.
using Kernels = TypeList<Unary, UnaryGrad, UnaryGradGrad, Binary, Compare, Where, Copy, Fill, Random, Dropout, Reduce,
                         ArgReduce, Gemm, Conv2d, Conv2dInputGrad, Conv2dWeightGrad, MaxPool2d, MaxPool2dGrad,
                         AvgPool2d, AvgPool2dGrad, Softmax, SoftmaxGrad, CheckTargets, CrossEntropy, ScaleRows,
                         LayerNorm, LayerNormGrad, BatchNorm, BatchNormGrad, Attention, AttentionGrad, Gather,
                         ScatterAdd, Embedding, EmbeddingGrad, GradientSum, StepFactor, AdamStep, SgdStep>;

namespace cpu {
/// Runs a kernel on the calling thread and, where it is large enough, the workers of `parallel_for`.
template <class Args>
void run(const Args& args);
/// The instruction set that `run` uses: the best one that this processor and this library have, or `ANNEAL_ISA`.
/// Throws std::runtime_error when ANNEAL_ISA names one that is not there.
const char* isa();
}  // namespace cpu

}  // namespace kernels
}  // namespace v0
}  // namespace anneal
