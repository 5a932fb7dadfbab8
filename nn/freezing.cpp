#include "anneal/nn/freezing.h"

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "anneal/nn/norm.h"

namespace anneal {
inline namespace v0 {
namespace nn {
namespace {

std::set<const TensorImpl*> in_batch_norms(Module& module) {
  std::set<const TensorImpl*> found;
  for (const auto& [name, norm] : batch_norms(module))
    for (const NamedTensor& p : norm->parameters()) found.insert(&p.tensor.impl());
  return found;
}

// Parameters are trained or not; batch norms as well, or differently, or they stay as they are.
void set_trains(Module& module, bool on, std::optional<bool> norms) {
  const std::set<const TensorImpl*> of_norms = in_batch_norms(module);
  for (NamedTensor& p : module.parameters()) {
    const bool of_norm = of_norms.contains(&p.tensor.impl());
    if (is_floating(p.tensor.dtype()) && (!of_norm || norms)) p.tensor.set_requires_grad(of_norm ? *norms : on);
  }
  if (!norms) return;
  for (const auto& [name, norm] : batch_norms(module)) norm->set_track_running_stats(*norms);
}

}  // namespace

void freeze(Module& module, bool train_bn) { set_trains(module, false, train_bn); }
void make_trainable(Module& module, bool train_bn) {
  set_trains(module, true, train_bn ? std::optional(true) : std::nullopt);
}

std::vector<NamedTensor> filter_params(Module& module, bool train_bn, bool requires_grad) {
  const std::set<const TensorImpl*> of_norms = in_batch_norms(module);
  std::vector<NamedTensor> parameters = module.parameters();
  std::erase_if(parameters, [&](const NamedTensor& p) {
    return p.tensor.requires_grad() != requires_grad || (!train_bn && of_norms.contains(&p.tensor.impl()));
  });
  return parameters;
}

ModelFreezer::ModelFreezer(Module& model, bool freeze_batch_norms)
    : model_(model), freeze_batch_norms_(freeze_batch_norms) {
  make_trainable(model);
}

template <class F>
std::vector<ModelFreezer::Group> ModelFreezer::for_groups(int from, int to, F&& f) const {
  std::vector<std::pair<std::string, Module*>> children;
  model_.for_each_child([&](const std::string& name, Module& child) { children.emplace_back(name, &child); });
  const auto count = static_cast<int>(children.size());
  for (int* end : {&from, &to}) {
    check(*end >= -count && *end < count, "ModelFreezer: the model has {} children, there is no {}", count, *end);
    if (*end < 0) *end += count;
  }
  std::vector<Group> groups;
  for (int i = std::min(from, to); i <= std::max(from, to); ++i) {
    const auto& [name, child] = children[static_cast<std::size_t>(i)];
    f(*child);
    groups.push_back({name, child->parameters()});
    for (NamedTensor& p : groups.back().parameters) p.name = name + "." + p.name;
  }
  return groups;
}

std::vector<ModelFreezer::Group> ModelFreezer::freeze(int from, int to) {
  return for_groups(from, to, [&](Module& child) { nn::freeze(child, !freeze_batch_norms_); });
}
std::vector<ModelFreezer::Group> ModelFreezer::unfreeze(int from, int to) {
  return for_groups(from, to, [](Module& child) { make_trainable(child); });
}

}  // namespace nn
}  // namespace v0
}  // namespace anneal
