#include "anneal/nn/attention.h"

#include "anneal/core/autograd.h"
#include "anneal/nn/init.h"

namespace anneal {
inline namespace v0 {
namespace nn {

MultiheadAttention::MultiheadAttention(Slot at, std::int64_t embed_dim, std::int64_t num_heads,
                                       MultiheadAttentionOptions options)
    : Module(at),
      in_proj_weight({this, "in_proj_weight"}, init::xavier_uniform_(empty({3 * embed_dim, embed_dim}))),
      in_proj_bias({this, "in_proj_bias"}, options.bias ? zeros({3 * embed_dim}) : Tensor()),
      out_proj({this, "out_proj"}, embed_dim, embed_dim, {.bias = options.bias}),
      num_heads_(num_heads),
      dropout_(options.dropout) {
  check(num_heads > 0 && embed_dim % num_heads == 0, "MultiheadAttention: embed_dim {} is not a multiple of {} heads",
        embed_dim, num_heads);
  check(dropout_ >= 0 && dropout_ <= 1, "MultiheadAttention: dropout {} is not in [0, 1]", dropout_);
  const NoGrad no_grad;
  if (options.bias) out_proj.bias.zero_();
}

AttentionOptions MultiheadAttention::options_for(const MultiheadAttentionCall& call) const {
  return {.mask = call.mask, .dropout_p = training() ? dropout_ : 0, .is_causal = call.is_causal};
}

Tensor MultiheadAttention::joined(const Tensor& heads) const { return out_proj(heads.transpose(1, 2).flatten(2)); }

Tensor MultiheadAttention::forward(const Tensor& x, const MultiheadAttentionCall& call) const {
  const std::int64_t d = in_proj_weight.size(1);
  check(x.rank() == 3 && x.size(2) == d, "MultiheadAttention: expected x [batch, rows, {}], got {}", d, x.shape());
  const Tensor qkv = linear(x, in_proj_weight, in_proj_bias);
  return joined(scaled_dot_product_attention(qkv.reshape({x.size(0), x.size(1), 3, num_heads_, d / num_heads_}),
                                             options_for(call)));
}

Tensor MultiheadAttention::forward(const Tensor& q, const Tensor& k, const Tensor& v,
                                   const MultiheadAttentionCall& call) const {
  const std::int64_t d = in_proj_weight.size(1);
  const auto project = [&](const Tensor& x, int part) {
    check(x.rank() == 3 && x.size(2) == d, "MultiheadAttention: expected q, k and v [batch, rows, {}], got {}", d,
          x.shape());
    const auto rows = [&](const Tensor& p) { return p.defined() ? p.slice(0, part * d, (part + 1) * d) : p; };
    return linear(x, rows(in_proj_weight), rows(in_proj_bias))
        .reshape({x.size(0), x.size(1), num_heads_, d / num_heads_})
        .transpose(1, 2);
  };
  return joined(scaled_dot_product_attention(project(q, 0), project(k, 1), project(v, 2), options_for(call)));
}

}  // namespace nn
}  // namespace v0
}  // namespace anneal
