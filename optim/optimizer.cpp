#include "anneal/optim/optimizer.h"

#include <algorithm>
#include <map>
#include <set>

#include "anneal/core/autocast.h"
#include "anneal/core/autograd.h"
#include "anneal/core/dispatch.h"
#include "anneal/core/ops.h"
#include "anneal/optim/device_table.h"
#include "anneal/optim/step_state.h"

namespace anneal {
inline namespace v0 {
namespace optim {

// What `defer` left. The leaves point here.
class Optimizer::Deferral final : public DeferredGradients {
 public:
  void apply() override { optimizer->apply_deferred(); }
  Optimizer* optimizer = nullptr;
  std::optional<StepOptions> options;     // what is left for the step
  kernels::StepState* applied = nullptr;  // of gradients that were averaged and unscaled: whether to skip the step
};

struct Optimizer::Work::Tables {
  DeviceTable<kernels::Block> blocks;
  DeviceTable<kernels::OptimGroup> groups;
};

Optimizer::Optimizer(std::vector<Group> groups, std::vector<std::string> states) : state_names_(std::move(states)) {
  check(!groups.empty(), "optimizer: no parameter groups");
  for (Group& group : groups) add_group(std::move(group));
  rebuild();
}

Optimizer::Optimizer(Optimizer&&) noexcept = default;
Optimizer& Optimizer::operator=(Optimizer&&) noexcept = default;
// The leaves, which outlive it, must not ask it for anything any more. (Where it was moved from there is no deferral.)
Optimizer::~Optimizer() {
  if (deferral_) deferral_->pending = false;
}

void Optimizer::add_group(Group group) {
  check<ConfigError>(group.name.empty() || std::ranges::find(names_, group.name) == names_.end(),
                     "optimizer: two groups are named {}", group.name);
  std::set<const TensorImpl*> seen;
  std::set<std::string> names;
  for (const auto& earlier : parameters_)
    for (const NamedTensor& p : earlier) {
      seen.insert(&p.tensor.impl());
      names.insert(p.name);
    }
  for (const NamedTensor& p : group.parameters) {
    check(p.tensor.defined() && p.tensor.is_leaf(), "optimizer: parameter {} is not a leaf", p.name);
    check(is_floating(p.tensor.dtype()), "optimizer: parameter {} is {}; expected a floating dtype", p.name,
          name_of(p.tensor.dtype()));
    check(seen.insert(&p.tensor.impl()).second, "optimizer: parameter {} is given twice", p.name);
    check(names.insert(p.name).second, "optimizer: two parameters are named {}", p.name);
  }
  parameters_.push_back(std::move(group.parameters));
  numbers_.push_back(group.numbers);
  names_.push_back(std::move(group.name));
}

void Optimizer::add_param_group(std::vector<NamedTensor> parameters, const kernels::OptimGroup& numbers,
                                std::string name) {
  add_group({std::move(name), std::move(parameters), numbers});
  rebuild();
}

void Optimizer::rebuild() {
  const StateDict old = Optimizer::state_dict();
  if (!deferral_) deferral_ = make_ref<Deferral>();
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
      work.states.push_back(arena.new_block(static_cast<int>(s) + 2, dtype == DType::f64 ? DType::f64 : DType::f32));
    for (const Arena::Slot& slot : arena.slots()) work.blocks.push_back({slot.begin, slot.end, slot.group, false});
    const auto count = static_cast<std::int64_t>(arena.slots().size());
    work.steps = zeros({count}, {.dtype = DType::i64, .device = arena.values().device()});
    work.tables = std::make_shared<Work::Tables>();
    for (const Arena::Slot& slot : arena.slots()) leaf_of(slot.parameter)->deferred = deferral_;
  }
  make_twins();
  if (old.empty()) return;
  StateDict kept = Optimizer::state_dict();
  for (NamedTensor& entry : kept)
    for (const NamedTensor& was : old)
      if (was.name == entry.name) entry.tensor = was.tensor;
  Optimizer::load_state_dict(kept);
}

void Optimizer::keep_twins(DType dtype) {
  check(dtype == DType::f16 || dtype == DType::bf16, "keep_twins: expected f16 or bf16, got {}", name_of(dtype));
  twin_dtype_ = dtype;
  make_twins();
}

void Optimizer::make_twins() {
  if (!twin_dtype_) return;
  for (std::size_t a = 0; a < arenas_.size(); ++a) {
    const Arena& arena = arenas_[a];
    if (arena.dtype() != DType::f32) continue;
    work_[a].twins = arena.new_block(static_cast<int>(state_names_.size()) + 2, *twin_dtype_);
    for (const Arena::Slot& slot : arena.slots()) set_twin(slot.parameter, arena.part(work_[a].twins, slot));
  }
}

// Which slots have gradients, after checking that all are where they should be.
void Optimizer::find_active() {
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
}

// What gradients are multiplied by, worked out on the device; null where that is 1 and no step can be skipped.
// `earlier`: what is known already of gradients that were multiplied before.
kernels::StepState* Optimizer::prepare(const StepOptions& options, kernels::StepState* earlier) {
  check(options.clip_norm >= 0 && options.clip_value >= 0 && options.norm_type > 0,
        "{}: clip_norm, clip_value and norm_type must not be negative, got {}, {} and {}", name(), options.clip_norm,
        options.clip_value, options.norm_type);
  const bool needs_norm = options.scaler || options.clip_norm > 0;
  if (arenas_.empty() || (!needs_norm && options.average == 1)) return earlier;
  const Device device = arenas_[0].values().device();
  for (const Arena& arena : arenas_)
    check(arena.values().device() == device, "{}: parameters on {} and {} cannot be scaled or clipped together", name(),
          device, arena.values().device());
  kernels::StepState* state = earlier;
  if (!state && options.scaler) {
    state = options.scaler->state_on(device);
    last_state_ = options.scaler->state();
  } else if (!state) {
    if (!own_state_.defined() || own_state_.device() != device) own_state_ = make_state({}, device);
    state = static_cast<kernels::StepState*>(own_state_.raw());
    last_state_ = own_state_;
  }
  for (std::size_t a = 0; needs_norm && a < arenas_.size(); ++a) {
    const Work& work = work_[a];
    launch(device, kernels::GradientSum{arenas_[a].dtype(), work.tables->blocks.on(device, work.blocks),
                                        static_cast<std::int64_t>(work.blocks.size()), arenas_[a].gradients().raw(),
                                        options.norm_type, state});
  }
  const GradScalerOptions scaling = options.scaler ? options.scaler->options() : GradScalerOptions{};
  launch(device, kernels::StepFactor{state, options.norm_type, options.average, options.clip_norm,
                                     options.scaler != nullptr, scaling.growth_factor, scaling.backoff_factor,
                                     options.update_scale ? scaling.growth_interval : -1});
  return state;
}

void Optimizer::defer(const StepOptions& options) {
  deferral_->optimizer = this;
  deferral_->options = options;
  deferral_->applied = nullptr;
  deferral_->pending = true;
  averages_.clear();  // those left to a step that was not made
}

void Optimizer::defer_clipping(double clip_norm, double clip_value, double norm_type) {
  if (!deferral_->options) defer({});
  deferral_->options->clip_norm = clip_norm;
  deferral_->options->clip_value = clip_value;
  deferral_->options->norm_type = norm_type;
}

void Optimizer::defer_averages(std::vector<Tensor> averages, double share) {
  check(averages.size() == arenas_.size(), "{}: expected an average for each of {} arenas, got {}", name(),
        arenas_.size(), averages.size());
  averages_ = std::move(averages);
  averages_share_ = share;
}

StepOptions Optimizer::deferred() const { return deferral_->options.value_or(StepOptions{}); }

// Does to the gradients in memory what the next step would do to them on the way, but for clipping.
void Optimizer::apply_deferred() {
  deferral_->pending = false;
  StepOptions& options = *deferral_->options;
  find_active();
  deferral_->applied =
      prepare({.average = options.average, .scaler = options.scaler, .update_scale = options.update_scale}, nullptr);
  options.average = 1;
  options.scaler = nullptr;
  if (!deferral_->applied) return;
  const NoGrad no_grad;
  const Tensor factor = field(last_state_, offsetof(kernels::StepState, factor));
  for (const Arena& arena : arenas_) arena.gradients().mul_(factor.to(arena.dtype()));
  factor.fill_(1);
}

void Optimizer::step(const StepOptions& given) {
  deferral_->pending = false;
  take_step(std::exchange(deferral_->options, std::nullopt).value_or(given));
}

void Optimizer::take_step(const StepOptions& options) {
  if (options.closure) options.closure();
  const std::vector<Tensor> averages = std::exchange(averages_, {});
  averaged_.assign(arenas_.size(), false);
  find_active();
  const kernels::StepState* state = prepare(options, std::exchange(deferral_->applied, nullptr));
  for (std::size_t a = 0; a < arenas_.size(); ++a) {
    const Arena& arena = arenas_[a];
    Work& work = work_[a];
    const Device device = arena.values().device();
    const Tensor& twins = work.twins;
    averaged_[a] = a < averages.size() && averages[a].defined() &&
                   std::ranges::all_of(work.blocks, [](const kernels::Block& block) { return block.active; });
    launch_step(device,
                {.dtype = arena.dtype(),
                 .twin_dtype = twins.defined() ? twins.dtype() : arena.dtype(),
                 .blocks = work.tables->blocks.on(device, work.blocks),
                 .n_blocks = static_cast<std::int64_t>(work.blocks.size()),
                 .groups = work.tables->groups.on(device, numbers_),
                 .steps = static_cast<std::int64_t*>(work.steps.raw()),
                 .state = state,
                 .clip_value = options.clip_value,
                 .gradients = arena.gradients().raw(),
                 .values = arena.values().raw(),
                 .twin = twins.defined() ? twins.raw() : nullptr,
                 .average = averaged_[a] ? averages[a].raw() : nullptr,
                 .decay = 1 - averages_share_},
                work.states);
    for (std::size_t i = 0; i < work.blocks.size(); ++i) {
      if (!work.blocks[i].active) continue;
      const Tensor& parameter = arena.slots()[i].parameter;
      // A twin that was stale stays so: a skipped step has not written it.
      const bool fresh = twins.defined() && has_fresh_twin(parameter);
      parameter.bump_version();
      if (fresh) mark_twin_fresh(parameter);
    }
  }
}

Tensor Optimizer::grad_norm() const {
  check(last_state_.defined(), "{}: grad_norm is known after a step with a scaler or clip_norm", name());
  return field(last_state_, offsetof(kernels::StepState, norm)).clone();
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
      state.push_back({"step." + slot.name, work_[a].steps.select(0, static_cast<std::int64_t>(i)).clone()});
    }
  }
  return state;
}

void Optimizer::load_state_dict(std::span<const NamedTensor> state) {
  std::map<std::string, Tensor> given;
  for (const NamedTensor& entry : state) given.emplace(entry.name, entry.tensor);
  std::string problems;
  const StateDict own = Optimizer::state_dict();
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
      work_[a].steps.select(0, static_cast<std::int64_t>(i)).copy_(given.at("step." + slot.name));
    }
  }
}

}  // namespace optim
}  // namespace v0
}  // namespace anneal
