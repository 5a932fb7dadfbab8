// Multi-head attention.
#pragma once

#include "anneal/core/ops.h"
#include "anneal/nn/linear.h"

namespace anneal {
inline namespace v0 {
namespace nn {

struct MultiheadAttentionOptions {
  double dropout = 0;  ///< of the weights, in training
  bool bias = true;
};
/// One call's choices. The mask broadcasts to [batch, heads, queries, keys] and is that of
/// scaled_dot_product_attention: true is what is seen (PyTorch's class has it the other way round).
struct MultiheadAttentionCall {
  Tensor mask = {};
  bool is_causal = false;
};
/// Projects queries, keys and values [batch, rows, embed_dim], attends in `num_heads` heads, projects their results.
/// Vaswani et al. 2017. Parameters and their initialisation are those of PyTorch's class with batch_first = true.
class MultiheadAttention : public Module {
 public:
  MultiheadAttention(Slot at, std::int64_t embed_dim, std::int64_t num_heads, MultiheadAttentionOptions options = {});
  MultiheadAttention(std::int64_t embed_dim, std::int64_t num_heads, MultiheadAttentionOptions options = {})
      : MultiheadAttention(Slot{}, embed_dim, num_heads, options) {}

  /// Self-attention.
  Tensor forward(const Tensor& x) const override { return forward(x, MultiheadAttentionCall{}); }
  Tensor forward(const Tensor& x, const MultiheadAttentionCall& call) const;
  Tensor forward(const Tensor& q, const Tensor& k, const Tensor& v, const MultiheadAttentionCall& call = {}) const;
  using Module::operator();
  Tensor operator()(const Tensor& x, const MultiheadAttentionCall& call) const {
    return observed(x, [&] { return forward(x, call); });
  }
  Tensor operator()(const Tensor& q, const Tensor& k, const Tensor& v, const MultiheadAttentionCall& call = {}) const {
    return observed(q, [&] { return forward(q, k, v, call); });
  }

  Parameter in_proj_weight;  ///< [3 embed_dim, embed_dim]: for queries, keys and values
  Parameter in_proj_bias;    ///< undefined without bias
  Linear out_proj;

 private:
  AttentionOptions options_for(const MultiheadAttentionCall& call) const;
  Tensor joined(const Tensor& heads) const;

  std::int64_t num_heads_;
  double dropout_;
};

}  // namespace nn
}  // namespace v0
}  // namespace anneal
