// When training moves learning rates.
#include "anneal/trainer/fit_loop.h"

namespace anneal {
inline namespace v0 {

void FitLoop::step_schedules(Interval interval, std::int64_t count) {
  if (!s_.automatic) return;
  for (ActiveOptimizer& active : s_.optimizers)
    if (optim::LRScheduler* scheduler = active.scheduler();
        scheduler && active.entry().interval == interval && count % active.entry().frequency == 0)
      s_.call_module(HookPoint::lr_scheduler_step, &TrainingModule::lr_scheduler_step, *scheduler);
}

// A metric of validation is looked at once after each check, any other whenever it is time. What rank 0 sees counts.
void FitLoop::look_at_plateaus(Interval interval, std::int64_t count) {
  if (!s_.automatic) return;
  for (ActiveOptimizer& active : s_.optimizers) {
    const OptimizerEntry& entry = active.entry();
    if (!active.plateau() || entry.interval != interval || count % entry.frequency != 0) continue;
    const bool checked = c_.checks > active.checks_at_look;
    const Loop loop = s_.log.loop_of(entry.monitor);
    const bool waits = !checked && (loop == Loop::validation || (loop == Loop::none && s_.val.total() > 0));
    const double* const metric = waits ? nullptr : s_.log.monitored(entry.monitor);
    double look[] = {waits ? 1.0 : 0.0, metric ? 1.0 : 0.0, metric ? *metric : 0};
    s_.take_from_rank_zero(look);
    if (look[0] > 0) continue;
    active.checks_at_look = c_.checks;
    if (look[1] > 0) {
      s_.call_module(HookPoint::lr_scheduler_step, &TrainingModule::lr_plateau_step, *active.plateau(), look[2]);
      continue;
    }
    const std::string problem = format("monitor: the plateau waits for {}, but the metrics are {}", entry.monitor,
                                       s_.log.callback_metrics().names());
    check<ConfigError>(!entry.strict, "{}", problem);
    s_.console.warn(problem);
  }
}

}  // namespace v0
}  // namespace anneal
