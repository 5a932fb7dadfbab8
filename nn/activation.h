// Activations as modules, for Sequential. In other places call the functions.
#pragma once

#include "anneal/core/ops.h"
#include "anneal/nn/module.h"

namespace anneal {
inline namespace v0 {
namespace nn {

/// A pointwise op as a module.
template <Tensor (*Op)(const Tensor&)>
class Activation : public Module {
 public:
  using Module::Module;
  Tensor forward(const Tensor& x) const override { return Op(x); }
};

class ReLU : public Activation<relu> {
  using Activation::Activation;
};
class SiLU : public Activation<silu> {
  using Activation::Activation;
};
class Tanh : public Activation<tanh> {
  using Activation::Activation;
};
class Sigmoid : public Activation<sigmoid> {
  using Activation::Activation;
};
/// x Phi(x), exactly or by GPT-2's tanh.
class GELU : public Module {
 public:
  enum class Approximate { none, tanh };
  explicit GELU(Slot at, Approximate approximate = Approximate::none) : Module(at), approximate_(approximate) {}
  explicit GELU(Approximate approximate = Approximate::none) : GELU(Slot{}, approximate) {}
  Tensor forward(const Tensor& x) const override { return approximate_ == Approximate::tanh ? gelu_tanh(x) : gelu(x); }

 private:
  Approximate approximate_;
};

}  // namespace nn
}  // namespace v0
}  // namespace anneal
