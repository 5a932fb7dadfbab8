#include "anneal/optim/optimizer.h"

#include <algorithm>
#include <map>
#include <set>

#include "anneal/core/autograd.h"

namespace anneal {
inline namespace v0 {
namespace optim {

Optimizer::Optimizer(std::vector<Group> groups, std::vector<std::string> states) : state_names_(std::move(states)) {
  check(!groups.empty(), "optimizer: no parameter groups");
  std::set<const TensorImpl*> seen;
  std::set<std::string> names;
  for (Group& group : groups) {
    for (const NamedTensor& p : group.parameters) {
      check(p.tensor.defined() && p.tensor.is_leaf(), "optimizer: parameter {} is not a leaf", p.name);
      check(p.tensor.dtype() == DType::f32 || p.tensor.dtype() == DType::f64,
            "optimizer: parameter {} is {}; f32 and f64 can be updated", p.name, name_of(p.tensor.dtype()));
      check(seen.insert(&p.tensor.impl()).second, "optimizer: parameter {} is given twice", p.name);
      check(names.insert(p.name).second, "optimizer: two parameters are named {}", p.name);
    }
    parameters_.push_back(std::move(group.parameters));
    numbers_.push_back(group.numbers);
  }
  rebuild();
}

void Optimizer::rebuild() {
  const StateDict old = state_dict();
  std::map<DType, std::vector<Arena::Slot>> units;
  for (std::size_t g = 0; g < parameters_.size(); ++g)
    for (const NamedTensor& p : parameters_[g])
      if (p.tensor.requires_grad()) units[p.tensor.dtype()].push_back({p.name, p.tensor, 0, 0, static_cast<int>(g)});
  arenas_.clear();
  work_.clear();
  for (auto& [dtype, slots] : units) {
    const Arena& arena = arenas_.emplace_back(std::move(slots));
    Work& work = work_.emplace_back();
    for (std::size_t s = 0; s < state_names_.size(); ++s)
      work.states.push_back(arena.new_block(static_cast<int>(s) + 2));
    for (const Arena::Slot& slot : arena.slots()) work.blocks.push_back({slot.begin, slot.end, slot.group, false});
    work.steps.assign(arena.slots().size(), 0);
  }
  StateDict kept = state_dict();
  for (NamedTensor& entry : kept)
    for (const NamedTensor& was : old)
      if (was.name == entry.name) entry.tensor = was.tensor;
  load_state_dict(kept);
}

void Optimizer::step() {
  std::size_t with_gradient = 0;
  for (const auto& group : parameters_)
    for (const NamedTensor& p : group)
      if (const Leaf* leaf = leaf_of(p.tensor)) with_gradient += leaf->touched;
  for (std::size_t a = 0; a < arenas_.size(); ++a) {
    for (std::size_t i = 0; i < work_[a].blocks.size(); ++i) {
      const Arena::Slot& slot = arenas_[a].slots()[i];
      check(arenas_[a].holds(slot),
            "{}: parameter {} was moved, converted or unfrozen since the optimizer was made; call rebuild()", name(),
            slot.name);
      const Leaf* leaf = leaf_of(slot.parameter);
      with_gradient -= work_[a].blocks[i].active = leaf && leaf->touched;
    }
  }
  check(with_gradient == 0, "{}: {} of its parameters, frozen when it was made, have gradients now; call rebuild()",
        name(), with_gradient);
  for (std::size_t a = 0; a < arenas_.size(); ++a) {
    const Arena& arena = arenas_[a];
    Work& work = work_[a];
    launch_step({arena.dtype(), arena.values().device(), work.blocks, numbers_.data(), work.steps.data(),
                 arena.gradients().raw(), arena.values().raw(), work.states});
    for (std::size_t i = 0; i < work.blocks.size(); ++i)
      if (work.blocks[i].active) arena.slots()[i].parameter.bump_version();
  }
}

void Optimizer::zero_grad() {
  for (const auto& group : parameters_)
    for (const NamedTensor& p : group) p.tensor.zero_grad();
}

StateDict Optimizer::state_dict() const {
  StateDict state;
  for (std::size_t a = 0; a < arenas_.size(); ++a) {
    const Arena& arena = arenas_[a];
    for (std::size_t i = 0; i < arena.slots().size(); ++i) {
      const Arena::Slot& slot = arena.slots()[i];
      for (std::size_t s = 0; s < state_names_.size(); ++s)
        state.push_back({state_names_[s] + "." + slot.name, arena.part(work_[a].states[s], slot).clone()});
      const Tensor step = empty({}, {.dtype = DType::i64});
      *step.data<std::int64_t>() = work_[a].steps[i];
      state.push_back({"step." + slot.name, step});
    }
  }
  return state;
}

void Optimizer::load_state_dict(std::span<const NamedTensor> state) {
  std::map<std::string, Tensor> given;
  for (const NamedTensor& entry : state) given.emplace(entry.name, entry.tensor);
  std::string problems;
  const StateDict own = state_dict();
  for (const NamedTensor& entry : own) {
    const auto it = given.find(entry.name);
    if (it == given.end()) problems += "\n  missing: " + entry.name;
    else if (it->second.shape() != entry.tensor.shape())
      problems +=
          format("\n  wrong shape: {} is {}, expected {}", entry.name, it->second.shape(), entry.tensor.shape());
  }
  for (const NamedTensor& entry : state)
    if (std::none_of(own.begin(), own.end(), [&](const NamedTensor& o) { return o.name == entry.name; }))
      problems += "\n  unexpected: " + entry.name;
  check(problems.empty(), "{}: the state does not fit:{}", problems.empty() ? "" : name(), problems);
  for (std::size_t a = 0; a < arenas_.size(); ++a) {
    const Arena& arena = arenas_[a];
    for (std::size_t i = 0; i < arena.slots().size(); ++i) {
      const Arena::Slot& slot = arena.slots()[i];
      for (std::size_t s = 0; s < state_names_.size(); ++s)
        arena.part(work_[a].states[s], slot).copy_(given.at(state_names_[s] + "." + slot.name));
      work_[a].steps[i] = static_cast<std::int64_t>(given.at("step." + slot.name).item());
    }
  }
}

}  // namespace optim
}  // namespace v0
}  // namespace anneal
