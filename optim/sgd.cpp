#include "anneal/optim/sgd.h"

#include "anneal/core/dispatch.h"

namespace anneal {
inline namespace v0 {
namespace optim {
namespace {

kernels::OptimGroup numbers_of(const SGDOptions& o) {
  check<ConfigError>(o.lr >= 0, "lr: expected at least 0, got {}", o.lr);
  check<ConfigError>(o.momentum >= 0, "momentum: expected at least 0, got {}", o.momentum);
  check<ConfigError>(o.weight_decay >= 0, "weight_decay: expected at least 0, got {}", o.weight_decay);
  check<ConfigError>(!o.nesterov || (o.momentum > 0 && o.dampening == 0),
                     "nesterov: needs momentum and no dampening, got {} and {}", o.momentum, o.dampening);
  kernels::OptimGroup g{};
  g.lr = o.lr;
  g.momentum = o.momentum;
  g.dampening = o.dampening;
  g.weight_decay = o.weight_decay;
  g.nesterov = o.nesterov;
  g.maximize = o.maximize;
  return g;
}

}  // namespace

SGD::SGD(std::vector<NamedTensor> parameters, SGDOptions options)
    : SGD(std::vector<ParamGroup<SGDOptions>>{{std::move(parameters), options}}) {}
SGD::SGD(std::vector<ParamGroup<SGDOptions>> groups)
    : Optimizer(to_groups(std::move(groups), numbers_of), {"momentum"}) {}

void SGD::launch_step(Device device, const kernels::OptimStep& step, std::span<const Tensor> states) const {
  launch(device, kernels::SgdStep{step, states[0].raw()});
}

}  // namespace optim
}  // namespace v0
}  // namespace anneal
