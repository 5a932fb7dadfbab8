// What all optimizers share: parameter groups over arenas, the step, and the state that checkpoints keep.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "anneal/core/named_tensor.h"
#include "anneal/kernels/kernels.h"
#include "anneal/optim/arena.h"
#include "anneal/optim/grad_scaler.h"

namespace anneal {
inline namespace v0 {
namespace optim {

/// Parameters that are updated with the same numbers. An optimizer is made from parameters and options, or from a list
/// of these: `AdamW({{decayed, {.weight_decay = 0.1}}, {others, {.weight_decay = 0}}})`.
template <class Options>
struct ParamGroup {
  std::vector<NamedTensor> parameters;
  Options options = {};
  std::string name = {};  ///< in logs: "lr-AdamW/decayed"; no two groups have the same
};

/// Forgets the gradients, computes the loss and its gradients anew, and returns it.
using Closure = std::function<Tensor()>;

/// What one step does to gradients first, in the same pass as the update: they stay as they are in memory.
struct StepOptions {
  double average = 1;            ///< a factor: 1 / k after k backward passes
  double clip_norm = 0;          ///< largest norm of all gradients together (torch's clip_grad_norm_); 0: no limit
  double norm_type = 2;          ///< p of that norm; infinity: the largest magnitude
  double clip_value = 0;         ///< largest magnitude of an element (torch's clip_grad_value_); 0: no limit
  GradScaler* scaler = nullptr;  ///< that scaled the loss: gradients are divided by its scale
  bool update_scale = true;      ///< false: the scaler's `update` will, after the steps of several optimizers
  Closure closure = {};          ///< is called first, once, or as often as an optimizer that needs it likes
};

/// Updates parameters from their gradients, in one pass over an arena for each dtype. Parameters without a gradient are
/// left alone, as are those that were frozen when the optimizer was made. 16-bit parameters have state in f32.
class Optimizer {
 public:
  Optimizer(Optimizer&&) noexcept;
  Optimizer& operator=(Optimizer&&) noexcept;
  virtual ~Optimizer();

  /// One update; with a scaler none, if a gradient is not finite. Throws Error, before changing anything, when a
  /// parameter was unfrozen, moved or converted since: call `rebuild` then.
  void step(const StepOptions& options = {});
  /// Whether it looks at the loss more than once a step, so that StepOptions::closure must be there.
  virtual bool needs_closure() const { return false; }
  /// Leaves the options to the next `step()`. Who reads a gradient before gets it averaged and unscaled; it is clipped
  /// by the step.
  void defer(const StepOptions& options);
  /// Makes the next `step()` clip so, with what else `defer` left to it.
  void defer_clipping(double clip_norm, double clip_value, double norm_type = 2);
  /// Lets the next `step()` move averages of the values in its pass, average + share * (value - average): one for each
  /// arena in its layout and dtype, or undefined.
  void defer_averages(std::vector<Tensor> averages, double share);
  /// Whether the last step did so for an arena: not where a parameter had no gradient.
  bool has_averaged(std::size_t arena) const { return arena < averaged_.size() && averaged_[arena]; }
  /// What the next `step()` was left to do.
  StepOptions deferred() const;
  /// The norm of the last step's gradients, averaged and unscaled, before clipping; of steps with a scaler or
  /// `clip_norm`. One number (f64) on the device.
  Tensor grad_norm() const;
  /// Forgets all gradients; nothing is written, the next backward overwrites.
  void zero_grad();

  /// The number of groups; their learning rates, which schedules change between steps.
  std::size_t groups() const { return numbers_.size(); }
  double lr(std::size_t group = 0) const { return numbers_.at(group).lr; }
  void set_lr(std::size_t group, double lr) { numbers_.at(group).lr = lr; }
  /// Their momentum, of Adam the first beta.
  double momentum(std::size_t group = 0) const { return numbers_.at(group).*momentum_number(); }
  void set_momentum(std::size_t group, double momentum) { numbers_.at(group).*momentum_number() = momentum; }
  /// All numbers of a group.
  const kernels::OptimGroup& numbers(std::size_t group) const { return numbers_.at(group); }

  /// Empty: it has none.
  const std::string& group_name(std::size_t group) const { return names_.at(group); }

  /// A group's parameters, those that are frozen too.
  const std::vector<NamedTensor>& parameters(std::size_t group) const { return parameters_.at(group); }
  /// Adds a group, and rebuilds. Throws Error, and changes nothing, for a parameter or a name that it has already.
  void add_param_group(std::vector<NamedTensor> parameters, const kernels::OptimGroup& numbers, std::string name = {});

  /// Makes every step write the 16-bit copies of f32 parameters that ops read under Autocast (core/autocast.h), instead
  /// of converting a weight at its next use.
  void keep_twins(DType dtype);

  /// Moves the parameters as they are now into new arenas, by dtype; the state of each is kept.
  void rebuild();
  std::span<const Arena> arenas() const { return arenas_; }

  /// The type's name: "AdamW".
  virtual const char* name() const = 0;
  /// Tensors by name: "exp_avg.<parameter>", ..., and "step.<parameter>" (i64). Copies.
  virtual StateDict state_dict() const;
  /// Throws Error, and changes nothing, if a name is missing, unexpected or of another shape.
  virtual void load_state_dict(std::span<const NamedTensor> state);

 protected:
  // A group as the base keeps it. The name is first, so that nothing in braces is both this and a ParamGroup.
  struct Group {
    std::string name;
    std::vector<NamedTensor> parameters;
    kernels::OptimGroup numbers;
  };
  // `states` names the blocks that an update needs besides values and gradients.
  Optimizer(std::vector<Group> groups, std::vector<std::string> states);

  template <class Options, class Convert>
  static std::vector<Group> to_groups(std::vector<ParamGroup<Options>> groups, Convert numbers_of) {
    std::vector<Group> converted;
    for (auto& group : groups)
      converted.push_back({std::move(group.name), std::move(group.parameters), numbers_of(group.options)});
    return converted;
  }

  // Which of a group's numbers is its momentum.
  virtual double kernels::OptimGroup::*momentum_number() const { return &kernels::OptimGroup::momentum; }
  // A step, once it is known with what options. By default a launch_step for each arena.
  virtual void take_step(const StepOptions& options);
  // Updates one arena on its device; `states` are its blocks in the order of their names.
  virtual void launch_step(Device device, const kernels::OptimStep& step, std::span<const Tensor> states) const = 0;

 private:
  // What an arena's update works on besides the arena.
  struct Work {
    std::vector<Tensor> states;
    std::vector<kernels::Block> blocks;
    Tensor steps;  // i64, each block's own
    Tensor twins;  // undefined: none are kept
    struct Tables;
    std::shared_ptr<Tables> tables;
  };
  class Deferral;
  void add_group(Group group);
  void find_active();
  kernels::StepState* prepare(const StepOptions& options, kernels::StepState* earlier);
  void make_twins();
  void apply_deferred();

  std::vector<std::vector<NamedTensor>> parameters_;  // by group
  std::vector<kernels::OptimGroup> numbers_;
  std::vector<std::string> names_;
  std::vector<std::string> state_names_;
  std::vector<Arena> arenas_;
  std::vector<Work> work_;        // of each arena
  std::vector<Tensor> averages_;  // what `defer_averages` left
  double averages_share_ = 0;
  std::vector<bool> averaged_;
  std::optional<DType> twin_dtype_;
  Tensor own_state_;   // of steps without a scaler
  Tensor last_state_;  // of the last step: the scaler's, or the own one
  Ref<Deferral> deferral_;
};

}  // namespace optim
}  // namespace v0
}  // namespace anneal
