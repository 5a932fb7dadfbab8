// The ops: free functions on tensors, differentiable unless they say otherwise. Names and semantics are PyTorch's.
// Operands of a pointwise op broadcast by NumPy's rules and must agree in dtype and device; every op throws Error, with
// its name and the shapes, when its inputs do not fit. 16-bit types are computed with in f32.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "anneal/core/generator.h"
#include "anneal/core/tensor.h"
#include "anneal/kernels/pointwise.h"

namespace anneal {
inline namespace v0 {

// ---- pointwise, one input (floating dtypes): the functors of kernels/pointwise.h ----

template <class Op>
Tensor unary(const Tensor& x);
/// dy op'(saved), differentiable in both; `saved` is what went into op, or came out, as the functor says. For rules.
template <class Op>
Tensor unary_grad(const Tensor& dy, const Tensor& saved);

inline Tensor neg(const Tensor& x) { return unary<kernels::Neg>(x); }
inline Tensor abs(const Tensor& x) { return unary<kernels::Abs>(x); }
inline Tensor sign(const Tensor& x) { return unary<kernels::Sign>(x); }
inline Tensor square(const Tensor& x) { return unary<kernels::Square>(x); }
inline Tensor sqrt(const Tensor& x) { return unary<kernels::Sqrt>(x); }
inline Tensor rsqrt(const Tensor& x) { return unary<kernels::Rsqrt>(x); }
inline Tensor reciprocal(const Tensor& x) { return unary<kernels::Reciprocal>(x); }
inline Tensor exp(const Tensor& x) { return unary<kernels::Exp>(x); }
inline Tensor log(const Tensor& x) { return unary<kernels::Log>(x); }
inline Tensor log1p(const Tensor& x) { return unary<kernels::Log1p>(x); }
inline Tensor sin(const Tensor& x) { return unary<kernels::Sin>(x); }
inline Tensor cos(const Tensor& x) { return unary<kernels::Cos>(x); }
inline Tensor tanh(const Tensor& x) { return unary<kernels::Tanh>(x); }
inline Tensor erf(const Tensor& x) { return unary<kernels::Erf>(x); }
inline Tensor floor(const Tensor& x) { return unary<kernels::Floor>(x); }
inline Tensor ceil(const Tensor& x) { return unary<kernels::Ceil>(x); }
inline Tensor round(const Tensor& x) { return unary<kernels::Round>(x); }
inline Tensor sigmoid(const Tensor& x) { return unary<kernels::Sigmoid>(x); }
inline Tensor log_sigmoid(const Tensor& x) { return unary<kernels::LogSigmoid>(x); }
inline Tensor relu(const Tensor& x) { return unary<kernels::Relu>(x); }
/// x * Phi(x); Hendrycks & Gimpel 2016.
inline Tensor gelu(const Tensor& x) { return unary<kernels::Gelu>(x); }
/// GPT-2's approximation by tanh.
inline Tensor gelu_tanh(const Tensor& x) { return unary<kernels::GeluTanh>(x); }
/// x * sigmoid(x)
inline Tensor silu(const Tensor& x) { return unary<kernels::Silu>(x); }
inline Tensor softplus(const Tensor& x) { return unary<kernels::Softplus>(x); }

// ---- pointwise, two inputs ----

Tensor add(const Tensor& a, const Tensor& b);
Tensor sub(const Tensor& a, const Tensor& b);
Tensor mul(const Tensor& a, const Tensor& b);
/// Integers: rounded towards zero, 0 where b is 0.
Tensor div(const Tensor& a, const Tensor& b);
Tensor pow(const Tensor& a, const Tensor& b);
/// Where both are equal each gets half of the gradient. NaN wins.
Tensor maximum(const Tensor& a, const Tensor& b);
Tensor minimum(const Tensor& a, const Tensor& b);
/// The scalar is converted to x's dtype.
Tensor pow(const Tensor& x, double exponent);
/// Values below `low` become `low`, values above `high` become `high`; the gradient there, and at both, is 0.
Tensor clamp(const Tensor& x, double low, double high);

inline Tensor operator+(const Tensor& a, const Tensor& b) { return add(a, b); }
inline Tensor operator-(const Tensor& a, const Tensor& b) { return sub(a, b); }
inline Tensor operator*(const Tensor& a, const Tensor& b) { return mul(a, b); }
inline Tensor operator/(const Tensor& a, const Tensor& b) { return div(a, b); }
inline Tensor operator-(const Tensor& x) { return neg(x); }
Tensor operator+(const Tensor& x, double s);
Tensor operator-(const Tensor& x, double s);
Tensor operator*(const Tensor& x, double s);
Tensor operator/(const Tensor& x, double s);
Tensor operator+(double s, const Tensor& x);
Tensor operator-(double s, const Tensor& x);
Tensor operator*(double s, const Tensor& x);
Tensor operator/(double s, const Tensor& x);

// ---- comparisons: the result is bool, and not differentiable ----

template <class Op>
Tensor compare(const Tensor& a, const Tensor& b);

inline Tensor eq(const Tensor& a, const Tensor& b) { return compare<kernels::Eq>(a, b); }
inline Tensor ne(const Tensor& a, const Tensor& b) { return compare<kernels::Ne>(a, b); }
inline Tensor lt(const Tensor& a, const Tensor& b) { return compare<kernels::Lt>(a, b); }
inline Tensor le(const Tensor& a, const Tensor& b) { return compare<kernels::Le>(a, b); }
inline Tensor gt(const Tensor& a, const Tensor& b) { return compare<kernels::Gt>(a, b); }
inline Tensor ge(const Tensor& a, const Tensor& b) { return compare<kernels::Ge>(a, b); }
/// condition ? a : b, element by element; `condition` is bool.
Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b);
/// `value` where the mask is true, else x.
Tensor masked_fill(const Tensor& x, const Tensor& mask, double value);

// ---- reductions over some dimensions, or all if `dims` is empty; kept with size 1 if `keepdim` ----

Tensor sum(const Tensor& x, std::span<const int> dims, bool keepdim = false);
/// The result has `dtype`: 16-bit numbers summed to f32 are rounded once, at most.
Tensor sum(const Tensor& x, std::span<const int> dims, bool keepdim, DType dtype);
Tensor mean(const Tensor& x, std::span<const int> dims, bool keepdim = false);
/// Equal maxima (minima) share the gradient evenly. Throws Error where there is nothing to reduce.
Tensor amax(const Tensor& x, std::span<const int> dims, bool keepdim = false);
Tensor amin(const Tensor& x, std::span<const int> dims, bool keepdim = false);
/// `correction` = 1 divides by n - 1.
Tensor var(const Tensor& x, std::span<const int> dims, int correction = 1, bool keepdim = false);
Tensor logsumexp(const Tensor& x, std::span<const int> dims, bool keepdim = false);

using Dims = std::initializer_list<int>;
inline std::span<const int> as_span(Dims dims) { return {dims.begin(), dims.size()}; }
inline Tensor sum(const Tensor& x, Dims dims = {}, bool keepdim = false) { return sum(x, as_span(dims), keepdim); }
inline Tensor sum(const Tensor& x, Dims dims, bool keepdim, DType dtype) {
  return sum(x, as_span(dims), keepdim, dtype);
}
inline Tensor mean(const Tensor& x, Dims dims = {}, bool keepdim = false) { return mean(x, as_span(dims), keepdim); }
inline Tensor amax(const Tensor& x, Dims dims = {}, bool keepdim = false) { return amax(x, as_span(dims), keepdim); }
inline Tensor amin(const Tensor& x, Dims dims = {}, bool keepdim = false) { return amin(x, as_span(dims), keepdim); }
inline Tensor var(const Tensor& x, Dims dims = {}, int correction = 1, bool keepdim = false) {
  return var(x, as_span(dims), correction, keepdim);
}
inline Tensor logsumexp(const Tensor& x, Dims dims, bool keepdim = false) {
  return logsumexp(x, as_span(dims), keepdim);
}
/// The product over one dimension.
Tensor prod(const Tensor& x, int dim, bool keepdim = false);
/// The position (i64) of the first largest (smallest) element along a dimension. Not differentiable.
Tensor argmax(const Tensor& x, int dim, bool keepdim = false);
Tensor argmin(const Tensor& x, int dim, bool keepdim = false);
/// x summed to a shape that broadcasts to x's.
Tensor sum_to(const Tensor& x, const Shape& shape);

// ---- linear algebra ----

/// Matrix product of the last two dimensions; leading ones broadcast. A vector is a row on the left, a column on the
/// right, as in NumPy.
Tensor matmul(const Tensor& a, const Tensor& b);
using kernels::Activation;
/// activation(x weight^T + bias): x [..., in], weight [out, in], bias [out] or undefined -> [..., out]. The activation
/// is taken in the product's pass; with gelu the result can be differentiated once.
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, Activation activation = Activation::none);

// ---- sequences: [n, channels, length] ----

struct Conv1dOptions {
  std::int64_t stride = 1;
  std::int64_t padding = 0;
  std::int64_t dilation = 1;
  std::int64_t groups = 1;
};
/// Cross-correlation: x [n, c_in, length], weight [c_out, c_in / groups, k], bias [c_out] or undefined.
Tensor conv1d(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, Conv1dOptions options = {});

// ---- images: [n, channels, height, width] ----

struct Pair {
  std::int64_t h, w;
  Pair(std::int64_t both) : h(both), w(both) {}
  Pair(std::int64_t h, std::int64_t w) : h(h), w(w) {}
};
struct Conv2dOptions {
  Pair stride = 1;
  Pair padding = 0;
  Pair dilation = 1;
  std::int64_t groups = 1;
  Activation activation = Activation::none;  ///< of the result, in the same pass: none or relu
};
/// Cross-correlation: x [n, c_in, h, w], weight [c_out, c_in / groups, kh, kw], bias [c_out] or undefined.
Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, Conv2dOptions options = {});

struct PoolOptions {
  std::optional<Pair> stride = {};  ///< default: the window
  Pair padding = 0;                 ///< at most half of the window
};
Tensor max_pool2d(const Tensor& x, Pair window, PoolOptions options = {});
/// Padding counts as zeros if `count_include_pad`.
Tensor avg_pool2d(const Tensor& x, Pair window, PoolOptions options = {}, bool count_include_pad = true);

// ---- softmax and losses ----

Tensor softmax(const Tensor& x, int dim);
Tensor log_softmax(const Tensor& x, int dim);

enum class LossReduction { none, mean, sum };
struct CrossEntropyOptions {
  std::int64_t ignore_index = -100;  ///< targets of this class do not count, in the mean neither
  double label_smoothing = 0;        ///< Szegedy et al. 2016
  LossReduction reduction = LossReduction::mean;
};
/// Cross-entropy of logits [n, classes] (or [n, classes, ...]) with class indices [n] (or [n, ...]; i64 or i32), or
/// with probabilities of the logits' shape. Under Autocast the loss of 16-bit logits is f32. Logits that nobody else
/// holds, `cross_entropy(model(x), y)`, are overwritten by their gradient, which is as large. Throws Error for a class
/// outside [0, classes). Not twice differentiable.
Tensor cross_entropy(Tensor logits, const Tensor& target, CrossEntropyOptions options = {});
/// -log_probabilities[i, target[i]]
Tensor nll_loss(const Tensor& log_probabilities, const Tensor& target, LossReduction reduction = LossReduction::mean);
Tensor mse_loss(const Tensor& x, const Tensor& target, LossReduction reduction = LossReduction::mean);
Tensor l1_loss(const Tensor& x, const Tensor& target, LossReduction reduction = LossReduction::mean);
/// Logits, and targets in [0, 1].
Tensor binary_cross_entropy_with_logits(const Tensor& logits, const Tensor& target,
                                        LossReduction reduction = LossReduction::mean);

// ---- normalisations ----

/// Over the last dimensions, those of `weight`'s shape: (x - mean) / sqrt(var + eps) * weight + bias. Ba et al. 2016.
/// An undefined weight means the last dimension, without weight. Not twice differentiable.
Tensor layer_norm(const Tensor& x, const Tensor& weight = {}, const Tensor& bias = {}, double eps = 1e-5);
/// Over the last dimension: x / sqrt(mean(x^2) + eps) * weight. Zhang & Sennrich 2019. Not twice differentiable.
Tensor rms_norm(const Tensor& x, const Tensor& weight = {}, double eps = 1e-5);
/// x + residual, and the norm of it.
struct NormOfSum {
  Tensor sum, norm;
};
/// layer_norm and rms_norm of a residual stream, in one pass where both tensors have the same shape and dtype:
/// `const auto [h, normed] = add_layer_norm(x, attention(y), weight, bias)`.
NormOfSum add_layer_norm(const Tensor& x, const Tensor& residual, const Tensor& weight = {}, const Tensor& bias = {},
                         double eps = 1e-5);
NormOfSum add_rms_norm(const Tensor& x, const Tensor& residual, const Tensor& weight = {}, double eps = 1e-5);
struct BatchNormOptions {
  bool training = true;
  double momentum = 0.1;
  double eps = 1e-5;
};
/// Over all dimensions but 1; weight and bias, [channels], may be undefined. Training: by the batch's statistics, which
/// move the running ones (they may be undefined). Else: by the running ones. Ioffe & Szegedy 2015. Not twice
/// differentiable.
Tensor batch_norm(const Tensor& x, const Tensor& running_mean, const Tensor& running_var, const Tensor& weight = {},
                  const Tensor& bias = {}, BatchNormOptions options = {});

// ---- attention ----

struct AttentionOptions {
  /// Broadcasts to [.., heads, queries, keys]: bool, true where a query sees a key, or of q's dtype and added to the
  /// scores. Gets no gradient. May come with `is_causal`.
  Tensor mask = {};
  double dropout_p = 0;              ///< of the weights; the mask is drawn from `generator`
  bool is_causal = false;            ///< query i sees the keys 0, ..., i alone
  std::optional<double> scale = {};  ///< default: 1 / sqrt(depth)
  bool enable_gqa = false;           ///< k and v may have fewer heads, each for as many neighbours of q's
};
/// softmax(scale q k^T + mask) v for each head: q [.., heads, queries, depth], k and v [.., heads, keys, depth]. Memory
/// grows with the number of queries and keys, not with their product. A query that sees no key gets zeros. Vaswani et
/// al. 2017; Dao et al. 2022. Not twice differentiable.
Tensor scaled_dot_product_attention(const Tensor& q, const Tensor& k, const Tensor& v, AttentionOptions options = {},
                                    Generator& generator = current_generator());
/// The same for q, k and v from one projection, [batch, rows, 3, heads, depth] -> [batch, heads, rows, depth]. Nothing
/// is copied, and the gradient is one tensor.
Tensor scaled_dot_product_attention(const Tensor& qkv, AttentionOptions options = {},
                                    Generator& generator = current_generator());

// ---- indexing: indices are i64 or i32; one out of range throws Error ----

/// y[i][j][k] = x[index[i][j][k]][j][k] for dim 0, and so on; index has x's rank and is nowhere larger but along `dim`.
Tensor gather(const Tensor& x, int dim, const Tensor& index);
/// x with src[i][j][k] added at [index[i][j][k]][j][k] for dim 0, and so on; in a fixed order.
Tensor scatter_add(const Tensor& x, int dim, const Tensor& index, const Tensor& src);
/// The given positions of one dimension; index is a vector.
Tensor index_select(const Tensor& x, int dim, const Tensor& index);
/// Rows of table [rows, cols]: index [...] -> [..., cols]. Rows `padding` get no gradient.
Tensor embedding(const Tensor& index, const Tensor& table, std::int64_t padding = -1);
/// i64 classes [...] -> [..., classes] of 0 and 1, f32.
Tensor one_hot(const Tensor& index, std::int64_t classes);

/// Joined along an existing dimension; along a new one.
Tensor cat(std::span<const Tensor> tensors, int dim = 0);
Tensor cat(std::initializer_list<Tensor> tensors, int dim = 0);
Tensor stack(std::span<const Tensor> tensors, int dim = 0);
Tensor stack(std::initializer_list<Tensor> tensors, int dim = 0);
/// Views of pieces of `size` along a dimension, the last one shorter if need be.
std::vector<Tensor> split(const Tensor& x, std::int64_t size, int dim = 0);

// ---- random ----

/// Each element is 0 with probability p, else x / (1 - p); the mask is drawn from `generator`.
Tensor dropout(const Tensor& x, double p, Generator& generator = current_generator());
/// Uniform in [0, 1); normal; integers in [low, high).
Tensor rand(const Shape& shape, TensorOptions options = {}, Generator& generator = current_generator());
Tensor randn(const Shape& shape, TensorOptions options = {}, Generator& generator = current_generator());
Tensor randint(std::int64_t low, std::int64_t high, const Shape& shape, TensorOptions options = {.dtype = DType::i64},
               Generator& generator = current_generator());
/// A random order of 0, ..., n - 1.
Tensor randperm(std::int64_t n, Generator& generator = current_generator());

}  // namespace v0
}  // namespace anneal
