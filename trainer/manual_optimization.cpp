#include "anneal/trainer/manual_optimization.h"

#include <utility>

#include "anneal/trainer/trainer_state.h"

namespace anneal {
inline namespace v0 {
namespace {

void check_manual(const TrainerState& s, const char* what) {
  check(!s.automatic, "{}: the module's automatic_optimization is true; override it to return false", what);
  check(s.log.point() == HookPoint::training_step, "{}: expected in training_step, was called in {}", what,
        info(s.log.point()).name);
}

ActiveOptimizer& active(TrainerState& s, std::size_t i) {
  check(i < s.optimizers.size(), "optimizer: there is no number {}; configure_optimizers returned {}", i,
        s.optimizers.size());
  return s.optimizers[i];
}

}  // namespace

optim::Optimizer& ManualOptimizer::optimizer() const { return active(*state_, index_).optimizer(); }
std::int64_t ManualOptimizer::steps() const { return active(*state_, index_).steps; }

void ManualOptimizer::step(optim::Closure closure) {
  TrainerState& s = *state_;
  check_manual(s, "step");
  const ProfiledAction action(s.profiler.get(), "optimizer_step");
  ActiveOptimizer& own = active(s, index_);
  optim::Optimizer& optimizer = own.optimizer();
  check<ConfigError>(!closure || !s.world, "step: expected no closure on several ranks");
  if (s.world) {
    dist::Reducer& reducer = own.reducer(s.world->group());
    reducer.prepare();
    reducer.finish();
  }
  optim::StepOptions options = optimizer.deferred();
  if (s.scaler) {
    options.scaler = &*s.scaler;
    options.update_scale = false;
  }
  if (closure)
    options.closure = [&s, closure = std::move(closure)] {
      const TrainerState::At at(s, HookPoint::training_step);
      return closure();
    };
  optimizer.defer(options);
  s.call(HookPoint::on_before_optimizer_step, &Callback::on_before_optimizer_step,
         &TrainingModule::on_before_optimizer_step, optimizer);
  s.call_module(HookPoint::optimizer_step, &TrainingModule::optimizer_step, optimizer);
  if (s.scaler && s.scaler->found_inf()) {
    s.manual_skip = true;
  } else {
    ++own.steps;
    s.manual_step = true;
  }
}

void ManualOptimizer::zero_grad() { optimizer().zero_grad(); }

void ManualOptimizer::step_schedule() {
  check_manual(*state_, "step_schedule");
  if (optim::LRScheduler* scheduler = active(*state_, index_).scheduler())
    state_->call_module(HookPoint::lr_scheduler_step, &TrainingModule::lr_scheduler_step, *scheduler);
}

void ManualOptimizer::step_schedule(double metric) {
  check_manual(*state_, "step_schedule");
  if (optim::ReduceLROnPlateau* plateau = active(*state_, index_).plateau())
    state_->call_module(HookPoint::lr_scheduler_step, &TrainingModule::lr_plateau_step, *plateau, metric);
}

Toggled::Toggled(TrainerState& state, std::size_t index) : state_(state) {
  check_manual(state, "toggled");
  check(!state.toggled, "toggled: an optimizer is toggled already");
  active(state, index);
  state.toggled = true;
  for (std::size_t i = 0; i < state.optimizers.size(); ++i) {
    if (i == index) continue;
    for (const optim::Arena& arena : state.optimizers[i].optimizer().arenas())
      for (const optim::Arena::Slot& slot : arena.slots())
        leaves_.emplace_back(slot.parameter, std::exchange(slot.parameter.impl().grad_fn, {}));
  }
}

// The same leaves come back, with their places in the arena.
Toggled::~Toggled() {
  for (auto& [parameter, leaf] : leaves_) parameter.impl().grad_fn = std::move(leaf);
  state_.toggled = false;
}

TrainerState& TrainingModule::state() const { return *trainer().state_; }

void TrainingModule::manual_backward(const Tensor& loss) {
  TrainerState& s = state();
  check_manual(s, "manual_backward");
  s.backward(loss, s.batch_share);
}

ManualOptimizer TrainingModule::optimizer(std::size_t i) const {
  active(state(), i);
  return {state(), i};
}

Toggled TrainingModule::toggled(std::size_t i) { return {state(), i}; }

bool TrainingModule::is_last_of_window(std::int64_t batches) const {
  check(batches >= 1, "is_last_of_window: expected at least 1 batch, got {}", batches);
  return (trainer().batch_idx() + 1) % batches == 0 || trainer().is_last_batch();
}

}  // namespace v0
}  // namespace anneal
