// Adam and AdamW.
#pragma once

#include "anneal/optim/optimizer.h"

namespace anneal {
inline namespace v0 {
namespace optim {

struct AdamOptions {
  double lr = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;  ///< added to the gradient, times the value
  bool maximize = false;
};
struct AdamWOptions {
  double lr = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 1e-2;  ///< the value shrinks by lr * weight_decay
  bool maximize = false;
};

/// Kingma & Ba 2015.
class Adam : public Optimizer {
 public:
  explicit Adam(std::vector<NamedTensor> parameters, AdamOptions options = {});
  explicit Adam(std::vector<ParamGroup<AdamOptions>> groups);
  const char* name() const override { return "Adam"; }

 protected:
  explicit Adam(std::vector<Group> groups) : Optimizer(std::move(groups), {"exp_avg", "exp_avg_sq"}) {}

 private:
  double kernels::OptimGroup::*momentum_number() const override { return &kernels::OptimGroup::beta1; }
  void launch_step(Device device, const kernels::OptimStep& step, std::span<const Tensor> states) const override;
};

/// Adam with decoupled weight decay: Loshchilov & Hutter 2019.
class AdamW final : public Adam {
 public:
  explicit AdamW(std::vector<NamedTensor> parameters, AdamWOptions options = {});
  explicit AdamW(std::vector<ParamGroup<AdamWOptions>> groups);
  const char* name() const override { return "AdamW"; }
};

}  // namespace optim
}  // namespace v0
}  // namespace anneal
