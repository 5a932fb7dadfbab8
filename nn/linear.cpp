#include "anneal/nn/linear.h"

#include <cmath>

#include "anneal/core/ops.h"
#include "anneal/nn/init.h"

namespace anneal {
inline namespace v0 {
namespace nn {

Linear::Linear(Slot at, std::int64_t in, std::int64_t out, LinearOptions options)
    : Module(at),
      weight({this, "weight"}, init::kaiming_uniform_(empty({out, in}), std::sqrt(5.0))),
      bias({this, "bias"}, options.bias ? init::bias_(empty({out}), in) : Tensor()) {}

Tensor Linear::forward(const Tensor& x, kernels::Activation activation) const {
  return linear(x, weight, bias, activation);
}

}  // namespace nn
}  // namespace v0
}  // namespace anneal
