// Scaled dot-product attention. Its gradient is a fused kernel: of the forward it needs operands, result and one number
// a query.
#include <cmath>

#include "anneal/core/autocast.h"
#include "anneal/core/autograd.h"
#include "anneal/core/dispatch.h"
#include "anneal/core/ops.h"

namespace anneal {
inline namespace v0 {
namespace {

constexpr const char* name_of_op = "scaled_dot_product_attention";

// [batch, heads, rows, depth] each; in gradients, undefined where none is wanted.
struct Operands {
  Tensor q, k, v;
};
// What a call has besides its tensors.
struct Call {
  double scale;
  bool causal;
  double dropout;
  std::uint64_t seed, offset;
};

kernels::HeadStrides strides_of(const Tensor& x) {
  if (!x.defined()) return {};
  return {x.strides()[0], x.strides()[1], x.strides()[2]};
}
void* raw_or_null(const Tensor& x) { return x.defined() ? x.raw() : nullptr; }
Tensor with_dense_rows(const Tensor& x) { return x.strides()[-1] == 1 || x.size(-1) == 1 ? x : x.contiguous(); }

// Stored as [batch, rows, heads, depth], which is how the projections around attention have it.
Tensor empty_heads(std::int64_t batch, std::int64_t heads, std::int64_t rows, std::int64_t depth, const Tensor& like) {
  const NoGrad no_grad;
  return empty({batch, rows, heads, depth}, {.dtype = like.dtype(), .device = like.device()}).transpose(1, 2);
}
Tensor empty_heads(const Tensor& like) {
  return empty_heads(like.size(0), like.size(1), like.size(2), like.size(3), like);
}
// The parts of [batch, rows, 3, heads, depth].
Operands parts_of(const Tensor& qkv) {
  const NoGrad no_grad;
  const auto part = [&](int i) { return qkv.select(2, i).transpose(1, 2); };
  return {part(0), part(1), part(2)};
}

kernels::AttentionInputs inputs_of(const Call& call, const Operands& x, const Tensor& mask) {
  const std::int64_t kv_heads = x.k.size(1);
  kernels::AttentionInputs inputs{.dtype = x.q.dtype(),
                                  .batch = x.q.size(0),
                                  .heads = x.q.size(1),
                                  .group = kv_heads ? x.q.size(1) / kv_heads : 1,
                                  .queries = x.q.size(2),
                                  .keys = x.k.size(2),
                                  .depth = x.q.size(3),
                                  .value_depth = x.v.size(3),
                                  .scale = call.scale,
                                  .causal = call.causal,
                                  .q = x.q.raw(),
                                  .k = x.k.raw(),
                                  .v = x.v.raw(),
                                  .q_strides = strides_of(x.q),
                                  .k_strides = strides_of(x.k),
                                  .v_strides = strides_of(x.v),
                                  .mask = raw_or_null(mask),
                                  .mask_dtype = mask.defined() ? mask.dtype() : DType::boolean,
                                  .mask_strides = {},
                                  .dropout = call.dropout,
                                  .seed = call.seed,
                                  .offset = call.offset};
  for (int d = 0; mask.defined() && d < 4; ++d) inputs.mask_strides[d] = mask.strides()[d];
  return inputs;
}

void write_gradients(const Tensor& given_dy, const Operands& dx, const Call& call, const Operands& x,
                     const Tensor& mask, const Tensor& y, const Tensor& lse) {
  check_differentiated_once(name_of_op);
  const Tensor dy = with_dense_rows(given_dy);
  launch(y.device(), kernels::AttentionGrad{inputs_of(call, x, mask), y.raw(), dy.raw(), strides_of(y), strides_of(dy),
                                            lse.raw(), raw_or_null(dx.q), raw_or_null(dx.k), raw_or_null(dx.v),
                                            strides_of(dx.q), strides_of(dx.k), strides_of(dx.v)});
}

struct AttentionRule {
  static constexpr const char* name = name_of_op;
  static void backward(const Tensor& dy, Gradients& dx, const Call& call, const Tensor& q, const Tensor& k,
                       const Tensor& v, const Tensor& mask, const Tensor& y, const Tensor& lse) {
    const auto wanted = [&](int i, const Tensor& x) {
      if (!dx.wants(i)) return Tensor();
      const Tensor gradient = empty_heads(x);
      dx.set(i, gradient);
      return gradient;
    };
    write_gradients(dy, {wanted(0, q), wanted(1, k), wanted(2, v)}, call, {q, k, v}, mask, y, lse);
  }
};
struct PackedAttentionRule {
  static constexpr const char* name = name_of_op;
  static void backward(const Tensor& dy, Gradients& dx, const Call& call, const Tensor& qkv, const Tensor& mask,
                       const Tensor& y, const Tensor& lse) {
    const Tensor gradient = empty(qkv.shape(), {.dtype = qkv.dtype(), .device = qkv.device()});
    write_gradients(dy, parts_of(gradient), call, parts_of(qkv), mask, y, lse);
    dx.set(0, gradient);
  }
};

Tensor expanded(const Tensor& mask, const Shape& shape) {
  check(broadcast(mask.shape(), shape, name_of_op) == shape, "{}: a mask of shape {} does not broadcast to {}",
        name_of_op, mask.shape(), shape);
  return mask.expand(shape);
}

// The mask as the kernel takes it, of shape [batch, heads, queries, keys] and q's dtype or bool.
Tensor mask_for(const Tensor& mask, const Shape& shape, const Tensor& q) {
  if (!mask.defined()) return mask;
  if (const Tensor low = autocast(policy_of("scaled_dot_product_attention"), mask); low.defined())
    return mask_for(low, shape, q);
  check(mask.dtype() == DType::boolean || mask.dtype() == q.dtype(), "{}: expected a mask of bool or {}, got {}",
        name_of_op, name_of(q.dtype()), name_of(mask.dtype()));
  check(!grad_enabled() || !mask.requires_grad(), "{}: no gradient is computed for the mask; detach() it", name_of_op);
  check_devices(name_of_op, q, mask);
  return expanded(mask, shape);
}

// The result of a call that is complete but for its place in the stream of random numbers.
struct Result {
  Call call;
  Tensor mask, y, lse;
};
Result attend(const Operands& x, const AttentionOptions& options, Generator& generator) {
  const auto& [q, k, v] = x;
  const std::int64_t batch = q.size(0), heads = q.size(1), queries = q.size(2), keys = k.size(2), depth = q.size(3);
  check(options.dropout_p >= 0 && options.dropout_p <= 1, "{}: dropout_p {} is not in [0, 1]", name_of_op,
        options.dropout_p);
  const Tensor mask = mask_for(options.mask, {batch, heads, queries, keys}, q);
  Call call{options.scale.value_or(1 / std::sqrt(static_cast<double>(depth))), options.is_causal, options.dropout_p, 0,
            0};
  if (call.dropout > 0) {
    call.seed = generator.seed();
    call.offset = generator.reserve(static_cast<std::uint64_t>(batch * heads * queries * ((keys + 3) / 4 * 4)));
  }
  const Tensor y = empty_heads(batch, heads, queries, v.size(3), q);
  const Tensor lse = empty({batch, heads, queries},
                           {.dtype = q.dtype() == DType::f64 ? DType::f64 : DType::f32, .device = q.device()});
  launch(q.device(), kernels::Attention{inputs_of(call, x, mask), y.raw(), strides_of(y), lse.raw()});
  return {call, mask, y, lse};
}

}  // namespace

Tensor scaled_dot_product_attention(const Tensor& q, const Tensor& k, const Tensor& v, AttentionOptions options,
                                    Generator& generator) {
  constexpr CastPolicy policy = policy_of("scaled_dot_product_attention");
  const Tensor low_q = autocast(policy, q), low_k = autocast(policy, k), low_v = autocast(policy, v);
  if (low_q.defined() || low_k.defined() || low_v.defined())
    return scaled_dot_product_attention(low_q.defined() ? low_q : q, low_k.defined() ? low_k : k,
                                        low_v.defined() ? low_v : v, options, generator);
  check(is_floating(q.dtype()) && q.dtype() == k.dtype() && q.dtype() == v.dtype(),
        "{}: expected operands of one floating dtype, got {}, {} and {}", name_of_op, name_of(q.dtype()),
        name_of(k.dtype()), name_of(v.dtype()));
  check_devices(name_of_op, q, k, v);
  const int rank = q.rank();
  check(rank >= 2 && k.rank() == rank && v.rank() == rank,
        "{}: expected q, k and v of one rank, at least 2, got shapes {}, {} and {}", name_of_op, q.shape(), k.shape(),
        v.shape());
  if (rank != 4) {
    // [.., heads, rows, depth] with another number of leading dimensions.
    const auto four = [&](const Tensor& x) { return rank > 4 ? x.flatten(0, rank - 4) : x.unsqueeze(0); };
    if (options.mask.defined() && rank > 4) {
      Shape shape = q.shape();
      shape[-1] = k.size(-2);
      options.mask = four(expanded(options.mask, shape));
    }
    Shape shape = q.shape();
    shape[-1] = v.size(-1);
    return scaled_dot_product_attention(four(q), four(k), four(v), options, generator).reshape(shape);
  }
  const std::int64_t heads = q.size(1), kv_heads = k.size(1);
  check(k.size(0) == q.size(0) && v.size(0) == q.size(0) && v.size(1) == kv_heads && v.size(2) == k.size(2) &&
            k.size(3) == q.size(3),
        "{}: q {}, k {} and v {} do not fit", name_of_op, q.shape(), k.shape(), v.shape());
  check(heads == kv_heads || (options.enable_gqa && kv_heads > 0 && heads % kv_heads == 0),
        "{}: {} heads of q do not fit {} of k and v{}", name_of_op, heads, kv_heads,
        options.enable_gqa ? "" : "; did you mean .enable_gqa = true?");
  const Operands x{with_dense_rows(q), with_dense_rows(k), with_dense_rows(v)};
  const Result r = attend(x, options, generator);
  return record<AttentionRule>(r.y, {x.q, x.k, x.v}, r.call, x.q, x.k, x.v, r.mask, r.y, r.lse);
}

Tensor scaled_dot_product_attention(const Tensor& qkv, AttentionOptions options, Generator& generator) {
  if (const Tensor low = autocast(policy_of("scaled_dot_product_attention"), qkv); low.defined())
    return scaled_dot_product_attention(low, options, generator);
  check(is_floating(qkv.dtype()) && qkv.rank() == 5 && qkv.size(2) == 3,
        "{}: expected [batch, rows, 3, heads, depth] of a floating dtype, got {} {}", name_of_op, name_of(qkv.dtype()),
        qkv.shape());
  const Tensor x = with_dense_rows(qkv);
  const Result r = attend(parts_of(x), options, generator);
  return record<PackedAttentionRule>(r.y, {x}, r.call, x, r.mask, r.y, r.lse);
}

}  // namespace v0
}  // namespace anneal
