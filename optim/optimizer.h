// What all optimizers share: parameter groups over arenas, the step, and the state that checkpoints keep.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "anneal/core/named_tensor.h"
#include "anneal/kernels/kernels.h"
#include "anneal/optim/arena.h"

namespace anneal {
inline namespace v0 {
namespace optim {

/// Parameters that are updated with the same numbers. An optimizer is made from parameters and options, or from a list
/// of these: `AdamW({{decayed, {.weight_decay = 0.1}}, {others, {.weight_decay = 0}}})`.
template <class Options>
struct ParamGroup {
  std::vector<NamedTensor> parameters;
  Options options = {};
};

/// Updates parameters from their gradients, in one pass over an arena for each dtype. Parameters without a gradient are
/// left alone, as are those that were frozen when the optimizer was made.
class Optimizer {
 public:
  Optimizer(Optimizer&&) noexcept = default;
  Optimizer& operator=(Optimizer&&) noexcept = default;
  virtual ~Optimizer() = default;

  /// One update. Throws Error, before changing anything, when a parameter was unfrozen, moved or converted since: call
  /// `rebuild` then.
  void step();
  /// Forgets all gradients; nothing is written, the next backward overwrites.
  void zero_grad();

  /// The number of groups; their learning rates, which schedules change between steps.
  std::size_t groups() const { return numbers_.size(); }
  double lr(std::size_t group = 0) const { return numbers_.at(group).lr; }
  void set_lr(std::size_t group, double lr) { numbers_.at(group).lr = lr; }
  /// All numbers of a group.
  const kernels::OptimGroup& numbers(std::size_t group) const { return numbers_.at(group); }

  /// Moves the parameters as they are now into new arenas, by dtype; the state of each is kept.
  void rebuild();
  std::span<const Arena> arenas() const { return arenas_; }

  /// The type's name: "AdamW".
  virtual const char* name() const = 0;
  /// Tensors by name: "exp_avg.<parameter>", ..., and "step.<parameter>" (i64). Copies.
  StateDict state_dict() const;
  /// Throws Error, and changes nothing, if a name is missing, unexpected or of another shape.
  void load_state_dict(std::span<const NamedTensor> state);

 protected:
  // A group as the base keeps it.
  struct Group {
    std::vector<NamedTensor> parameters;
    kernels::OptimGroup numbers;
  };
  // `states` names the blocks that an update needs besides values and gradients.
  Optimizer(std::vector<Group> groups, std::vector<std::string> states);

  template <class Options, class Convert>
  static std::vector<Group> to_groups(std::vector<ParamGroup<Options>> groups, Convert numbers_of) {
    std::vector<Group> converted;
    for (auto& group : groups) converted.push_back({std::move(group.parameters), numbers_of(group.options)});
    return converted;
  }

  // What one arena's update works on.
  struct Update {
    DType dtype;
    Device device;
    std::span<const kernels::Block> blocks;
    const kernels::OptimGroup* groups;
    std::int64_t* steps;
    const void* gradients;
    void* values;
    std::span<const Tensor> states;
  };
  virtual void launch_step(const Update& update) const = 0;

 private:
  struct Work {
    std::vector<Tensor> states;
    std::vector<kernels::Block> blocks;
    std::vector<std::int64_t> steps;
  };

  std::vector<std::vector<NamedTensor>> parameters_;  // by group
  std::vector<kernels::OptimGroup> numbers_;
  std::vector<std::string> state_names_;
  std::vector<Arena> arenas_;
  std::vector<Work> work_;  // of each arena
};

}  // namespace optim
}  // namespace v0
}  // namespace anneal
