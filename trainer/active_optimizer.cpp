#include "anneal/trainer/active_optimizer.h"

#include "anneal/core/autograd.h"

namespace anneal {
inline namespace v0 {
namespace {

bool differ_but_lr(kernels::OptimGroup a, const kernels::OptimGroup& b) {
  a.lr = b.lr;
  return a != b;
}

void check_parameters(std::size_t group, const std::vector<NamedTensor>& own, const std::vector<std::string>& saved) {
  check(own.size() == saved.size(), "resume: group {} of the checkpoint's optimizer has {} parameters, the module's {}",
        group, saved.size(), own.size());
  for (std::size_t i = 0; i < own.size(); ++i)
    check(own[i].name == saved[i], "resume: group {} of the checkpoint's optimizer has {} where the module's has {}",
          group, saved[i], own[i].name);
}

}  // namespace

ActiveOptimizer::ActiveOptimizer(OptimizerEntry entry, const optim::RunNumbers& run)
    : entry_(std::move(entry)), run_(run) {
  check<ConfigError>(static_cast<bool>(entry_.optimizer),
                     "configure_optimizers: one of several optimizers is null, or a schedule has none");
  check<ConfigError>(entry_.frequency >= 1, "frequency: expected at least 1, got {}", entry_.frequency);
  for (std::size_t g = 0; g < optimizer().groups(); ++g) base_lr_.push_back(optimizer().lr(g));
  check<ConfigError>(!entry_.schedule || !entry_.plateau, "plateau: expected that or a schedule, got both");
  check<ConfigError>(!entry_.plateau || !entry_.monitor.empty(), "monitor: expected the name of a metric, got none");
  if (entry_.schedule) scheduler_.emplace(optimizer(), entry_.schedule, run_);
  if (entry_.plateau) plateau_.emplace(optimizer(), *entry_.plateau);
}

void ActiveOptimizer::set_schedule(optim::Schedule schedule, Interval interval) {
  entry_.schedule = std::move(schedule);
  entry_.interval = interval;
  entry_.frequency = 1;
  entry_.plateau.reset();
  plateau_.reset();
  scheduler_.emplace(optimizer(), entry_.schedule, run_);
  base_lr_ = scheduler_->base();
}

// From the base rates, at that step.
void ActiveOptimizer::restart_schedule(std::int64_t at) {
  for (std::size_t g = 0; g < base_lr_.size(); ++g) optimizer().set_lr(g, base_lr_[g]);
  if (!scheduler_) return;
  scheduler_.emplace(optimizer(), entry_.schedule, base_lr_, run_);
  scheduler_->set_steps(at);
}

void ActiveOptimizer::set_base_lr(double lr) {
  base_lr_.assign(base_lr_.size(), lr);
  restart_schedule(scheduler_ ? scheduler_->steps() : 0);
}

void ActiveOptimizer::set_run(const optim::RunNumbers& run) {
  run_ = run;
  if (scheduler_) restart_schedule(scheduler_->steps());
}

dist::Reducer& ActiveOptimizer::reducer(dist::ProcessGroup& group) {
  const std::span<const optim::Arena> arenas = optimizer().arenas();
  if (!reducer_ || !reducer_->serves(arenas)) {
    reducer_.emplace(group, arenas, buckets);
    dist::check_same(group, arenas, reducer_->buckets());
  }
  return *reducer_;
}

void ActiveOptimizer::check_graph() {
  std::set<std::string> graph;
  for (std::size_t g = 0; g < optimizer().groups(); ++g)
    for (const NamedTensor& p : optimizer().parameters(g))
      if (const Leaf* leaf = leaf_of(p.tensor); leaf && leaf->touched) graph.insert(p.name);
  if (!graph_) graph_ = graph;
  for (const std::string& name : graph)
    check(graph_->contains(name), "static_graph: {} has a gradient, and had none in the first step", name);
  for (const std::string& name : *graph_)
    check(graph.contains(name), "static_graph: {} has no gradient, and had one in the first step", name);
}

Checkpoint::Optimizer ActiveOptimizer::state() const {
  Checkpoint::Optimizer saved{.type = optimizer().name(),
                              .state = optimizer().state_dict(),
                              .groups = {},
                              .parameters = {},
                              .base_lr = base_lr_,
                              .schedule_steps = scheduler_ ? scheduler_->steps() : 0,
                              .steps = steps,
                              .plateau = {}};
  if (plateau_) {
    const auto& look = plateau_->state();
    saved.plateau = {look.best, static_cast<double>(look.num_bad_epochs), static_cast<double>(look.cooldown_counter),
                     static_cast<double>(look.steps), static_cast<double>(checks_at_look)};
  }
  for (std::size_t g = 0; g < optimizer().groups(); ++g) {
    saved.groups.push_back(optimizer().numbers(g));
    std::vector<std::string>& names = saved.parameters.emplace_back();
    for (const NamedTensor& p : optimizer().parameters(g)) names.push_back(p.name);
  }
  return saved;
}

void ActiveOptimizer::restore(const Checkpoint::Optimizer& saved, Console& console, bool override_lr) {
  optim::Optimizer& own = optimizer();
  check(saved.type == own.name() && saved.groups.size() == own.groups() && saved.base_lr.size() <= own.groups(),
        "resume: the checkpoint's optimizer is {} with {} groups, the module's is {} with {}", saved.type,
        saved.groups.size(), own.name(), own.groups());
  for (std::size_t g = 0; g < saved.parameters.size(); ++g) check_parameters(g, own.parameters(g), saved.parameters[g]);
  own.load_state_dict(saved.state);
  for (std::size_t g = 0; g < own.groups(); ++g) {
    if (differ_but_lr(own.numbers(g), saved.groups[g]))
      console.warn(
          "resume: the optimizer's options other than lr differ from the checkpoint's; those of the code are used");
  }
  if (!override_lr && base_lr_ != saved.base_lr)
    console.warn("resume: the learning rate in the code differs from the checkpoint's, which is used");
  if (!override_lr) base_lr_ = saved.base_lr;
  restart_schedule(saved.schedule_steps);
  for (std::size_t g = 0; g < own.groups() && !override_lr; ++g) own.set_lr(g, saved.groups[g].lr);
  steps = saved.steps;
  if (plateau_ && saved.plateau.size() == 5) {
    const auto whole = [&](std::size_t i) { return static_cast<std::int64_t>(saved.plateau[i]); };
    plateau_->set_state({saved.plateau[0], whole(1), whole(2), whole(3)});
    checks_at_look = whole(4);
  }
}

}  // namespace v0
}  // namespace anneal
