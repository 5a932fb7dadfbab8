#include "anneal/optim/adam.h"

#include "anneal/core/dispatch.h"

namespace anneal {
inline namespace v0 {
namespace optim {
namespace {

template <class Options>
kernels::OptimGroup numbers_of(const Options& o) {
  check<ConfigError>(o.lr >= 0, "lr: expected at least 0, got {}", o.lr);
  check<ConfigError>(o.beta1 >= 0 && o.beta1 < 1, "beta1: expected a number in [0, 1), got {}", o.beta1);
  check<ConfigError>(o.beta2 >= 0 && o.beta2 < 1, "beta2: expected a number in [0, 1), got {}", o.beta2);
  check<ConfigError>(o.eps >= 0, "eps: expected at least 0, got {}", o.eps);
  check<ConfigError>(o.weight_decay >= 0, "weight_decay: expected at least 0, got {}", o.weight_decay);
  kernels::OptimGroup g{};
  g.lr = o.lr;
  g.beta1 = o.beta1;
  g.beta2 = o.beta2;
  g.eps = o.eps;
  g.weight_decay = o.weight_decay;
  g.maximize = o.maximize;
  g.decoupled = std::is_same_v<Options, AdamWOptions>;
  return g;
}

}  // namespace

Adam::Adam(std::vector<NamedTensor> parameters, AdamOptions options)
    : Adam(std::vector<ParamGroup<AdamOptions>>{{std::move(parameters), options}}) {}
Adam::Adam(std::vector<ParamGroup<AdamOptions>> groups) : Adam(to_groups(std::move(groups), numbers_of<AdamOptions>)) {}
AdamW::AdamW(std::vector<NamedTensor> parameters, AdamWOptions options)
    : AdamW(std::vector<ParamGroup<AdamWOptions>>{{std::move(parameters), options}}) {}
AdamW::AdamW(std::vector<ParamGroup<AdamWOptions>> groups)
    : Adam(to_groups(std::move(groups), numbers_of<AdamWOptions>)) {}

void Adam::launch_step(Device device, const kernels::OptimStep& step, std::span<const Tensor> states) const {
  launch(device, kernels::AdamStep{step, states[0].raw(), states[1].raw()});
}

}  // namespace optim
}  // namespace v0
}  // namespace anneal
