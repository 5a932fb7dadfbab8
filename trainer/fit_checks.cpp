// When training validates.
#include <algorithm>

#include "anneal/trainer/evaluation_loop.h"
#include "anneal/trainer/fit_loop.h"

namespace anneal {
inline namespace v0 {

using C = Callback;
using M = TrainingModule;

void FitLoop::sanity_check() {
  const LimitedLoaders first = s_.sanity_loaders();
  if (first.total() == 0) return;
  s_.stage = Stage::sanity_check;
  s_.call_callbacks(HookPoint::on_sanity_check_start, &C::on_sanity_check_start);
  evaluate(s_, Loop::validation, Purpose::sanity_check, first);
  s_.call_callbacks(HookPoint::on_sanity_check_end, &C::on_sanity_check_end);
  s_.log.clear();
  s_.stage = Stage::fit;
}

bool FitLoop::check_is_due() {
  const std::int64_t done = c_.batch.processed;
  if (s_.val.total() == 0 || done == 0 || c_.checked_at == c_.total_batches) return false;
  const auto every_epoch = s_.options.check_val_every_n_epoch;
  const CheckInterval& interval = s_.options.val_check_interval;
  if (every_epoch && (c_.epoch.completed + 1) % *every_epoch != 0) return false;
  if (stop_is_due() && window_is_complete()) return true;
  if (interval.time()) return time_is_up_;
  if (!every_epoch && interval.is_count()) return c_.total_batches % static_cast<std::int64_t>(interval.value()) == 0;
  const std::int64_t batches = interval.is_count() ? static_cast<std::int64_t>(interval.value())
                                                   : std::max<std::int64_t>(1, interval.of(c_.epoch_batches));
  return done % batches == 0;
}

void FitLoop::begin_check_interval() {
  check_time_ = s_.now();
  time_is_up_ = false;
}

// Once a batch, as all ranks look together.
void FitLoop::look_at_clock() {
  if (const auto time = s_.options.val_check_interval.time(); time && s_.val.total() > 0)
    time_is_up_ = s_.any_rank(s_.now() - check_time_ >= time->seconds());
}

void FitLoop::run_check() {
  if (window_is_complete()) s_.call_module(HookPoint::on_validation_model_zero_grad, &M::on_validation_model_zero_grad);
  LimitedLoaders val = s_.val;
  if (c_.batch.processed < c_.epoch_batches)
    for (std::int64_t& batches : val.batches) batches = std::min(batches, s_.intermediate_batches);
  evaluate(s_, Loop::validation, Purpose::check, val);
  if (s_.any_rank(s_.ends_on_bad_number)) s_.end_on_bad_number("an evaluation's loss is not finite");
  begin_check_interval();
  s_.agree_on_end();
}

}  // namespace v0
}  // namespace anneal
