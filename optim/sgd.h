// Stochastic gradient descent.
#pragma once

#include "anneal/optim/optimizer.h"

namespace anneal {
inline namespace v0 {
namespace optim {

struct SGDOptions {
  double lr = 1e-3;
  double momentum = 0;
  double dampening = 0;
  double weight_decay = 0;  ///< added to the gradient, times the value
  bool nesterov = false;    ///< needs momentum > 0 and no dampening
  bool maximize = false;
};
/// SGD with momentum, as torch.optim.SGD defines it (Sutskever et al. 2013).
class SGD final : public Optimizer {
 public:
  explicit SGD(std::vector<NamedTensor> parameters, SGDOptions options = {});
  explicit SGD(std::vector<ParamGroup<SGDOptions>> groups);
  const char* name() const override { return "SGD"; }

 private:
  void launch_step(Device device, const kernels::OptimStep& step, std::span<const Tensor> states) const override;
};

}  // namespace optim
}  // namespace v0
}  // namespace anneal
