// Which parts of a model train.
#pragma once

#include <string>
#include <vector>

#include "anneal/nn/module.h"

namespace anneal {
inline namespace v0 {
namespace nn {

/// Freezes a module and everything in it: parameters get no gradients, batch norms leave their running statistics as
/// they are. With `train_bn` batch norms train on.
void freeze(Module& module, bool train_bn = true);
/// Makes a module and everything in it train; batch norms only with `train_bn`.
void make_trainable(Module& module, bool train_bn = true);
/// The parameters that are trainable, or that are not; those of batch norms only with `train_bn`. For an optimizer of a
/// model that is partly frozen: `optim::SGD(nn::filter_params(*this))`.
std::vector<NamedTensor> filter_params(Module& module, bool train_bn = true, bool requires_grad = true);

/// Freezes and unfreezes a model's direct children by their numbers, in order of declaration; negative ones count from
/// the end. Both ends are included, in either order. pytorch-accelerated's.
class ModelFreezer {
 public:
  struct Group {
    std::string name;
    std::vector<NamedTensor> parameters;  ///< by the model's names
  };

  /// Unfreezes the whole model, which must outlive this. Batch norms are not frozen but with `freeze_batch_norms`.
  explicit ModelFreezer(Module& model, bool freeze_batch_norms = false);

  /// All but the last. Returns the groups that were frozen. Throws Error for a child that is not there.
  std::vector<Group> freeze(int from = 0, int to = -2);
  /// All. Returns the groups that were unfrozen: an optimizer may take them in one by one.
  std::vector<Group> unfreeze(int from = -1, int to = 0);

 private:
  template <class F>
  std::vector<Group> for_groups(int from, int to, F&& f) const;

  Module& model_;
  bool freeze_batch_norms_;
};

}  // namespace nn
}  // namespace v0
}  // namespace anneal
