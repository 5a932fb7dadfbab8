// Fully connected layers.
#pragma once

#include "anneal/nn/module.h"

namespace anneal {
inline namespace v0 {
namespace nn {

struct LinearOptions {
  bool bias = true;
};
/// x [..., in] -> x weight^T + bias [..., out]. Weight [out, in] and bias are drawn uniformly from +-1/sqrt(in).
class Linear : public Module {
 public:
  Linear(Slot at, std::int64_t in, std::int64_t out, LinearOptions options = {});
  Linear(std::int64_t in, std::int64_t out, LinearOptions options = {}) : Linear(Slot{}, in, out, options) {}
  Tensor forward(const Tensor& x) const override { return forward(x, kernels::Activation::none); }
  /// With an activation in the same pass.
  Tensor forward(const Tensor& x, kernels::Activation activation) const;

  Parameter weight;
  Parameter bias;  ///< undefined without bias
};

/// Dimensions `from` to `to` as one; the default keeps the batch.
class Flatten : public Module {
 public:
  explicit Flatten(Slot at, int from = 1, int to = -1) : Module(at), from_(from), to_(to) {}
  explicit Flatten(int from = 1, int to = -1) : Flatten(Slot{}, from, to) {}
  Tensor forward(const Tensor& x) const override { return x.flatten(from_, to_); }

 private:
  int from_, to_;
};

}  // namespace nn
}  // namespace v0
}  // namespace anneal
