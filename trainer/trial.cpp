#include "anneal/trainer/trial.h"

#include "anneal/core/allocator.h"
#include "anneal/core/autograd.h"
#include "anneal/trainer/module_modes.h"
#include "anneal/trainer/snapshot.h"

namespace anneal {
inline namespace v0 {
namespace {

TrainerOptions without_checks(TrainerOptions options) {
  options.min_epochs = options.min_steps = 0;
  options.log_every_n_steps = 0;
  options.reload_dataloaders_every_n_epochs = 0;
  options.on_bad_number = "ignore";  // a rate that is too high may give them
  return options;
}

// A device has as much room as before.
Checkpoint take_copy(TrainerState& s) {
  Checkpoint c = take_snapshot(s);
  c.accumulation.clear();
  for (const NamedTensor& p : s.module->parameters())
    if (const Tensor gradient = p.tensor.grad(); gradient.defined()) c.accumulation.push_back({p.name, gradient});
  own_tensors(c);
  return c;
}

}  // namespace

Aside::Aside(TrainerState& s)
    : state_(s),
      metrics_(s.log.state()),
      options_(s.options, without_checks(s.options)),
      counters_(s.counters, {}),
      generator_(s.generator),
      stage_(s.stage),
      callbacks_(s.callbacks, {}),
      quiet_callbacks_(s.quiet_callbacks, {}),
      loggers_(s.loggers, {}),
      profiler_(s.profiler, nullptr),
      val_(s.val, {}),
      batches_(s.batches, {}),
      stream_(s.stream, {}),
      train_batches_(s.train_batches),
      resumed_from_(s.resumed_from),
      stop_requested_(s.stop_requested, false),
      stop_agreed_(s.stop_agreed, false),
      skips_in_a_row_(s.skips_in_a_row, 0) {}

void try_out(TrainerState& s, const std::function<void()>& f) {
  const Aside aside(s);
  const ModuleModes modes(*s.module);
  Checkpoint before = take_copy(s);
  const auto restore = [&] {
    allocator(s.device).empty_cache();
    s.log.end_evaluation_batch();
    s.manual_step = s.manual_skip = false;
    for (ActiveOptimizer& active : s.optimizers) active.scheduled = true;
    restore_model(s, before);
    s.module->zero_grad();
    restore_progress(s, before);
  };
  for (ActiveOptimizer& active : s.optimizers) active.scheduled = false;
  try {
    f();
  } catch (...) {
    restore();
    throw;
  }
  restore();
}

void check_before_batches(const TrainerState& s, const char* what) {
  const bool before = [&] {
    switch (s.log.point()) {
      case HookPoint::none: return s.module != nullptr;
      case HookPoint::on_fit_start:
      case HookPoint::on_train_start:
      case HookPoint::on_train_epoch_start: return true;
      case HookPoint::on_validation_start:
      case HookPoint::on_test_start:
      case HookPoint::on_predict_start: return s.stage != Stage::fit && s.stage != Stage::sanity_check;
      default: return false;
    }
  }();
  check(before, "{}: expected before the batches, as in on_fit_start and on_train_epoch_start, was called in {}", what,
        info(s.log.point()).name);
}

bool skips_search(TrainerState& s, const char* what) {
  if (s.options.fast_dev_run == 0) return false;
  s.console.warn(format("{}: skipped with fast_dev_run", what));
  return true;
}

}  // namespace v0
}  // namespace anneal
