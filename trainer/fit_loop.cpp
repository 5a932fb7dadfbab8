#include "anneal/trainer/fit_loop.h"

#include <algorithm>

#include "anneal/core/ops.h"
#include "anneal/trainer/evaluation_loop.h"

namespace anneal {
inline namespace v0 {

using C = Callback;
using M = TrainingModule;

void FitLoop::sanity_check() {
  const std::int64_t batches = s_.trainer.num_sanity_val_batches();
  if (batches == 0) return;
  s_.stage = Stage::sanity_check;
  s_.call_callbacks(HookPoint::on_sanity_check_start, &C::on_sanity_check_start);
  evaluate(s_, Loop::validation, Purpose::sanity_check, *s_.val, batches);
  s_.call_callbacks(HookPoint::on_sanity_check_end, &C::on_sanity_check_end);
  s_.log.clear();
  s_.stage = Stage::fit;
}

StopReason FitLoop::run() {
  // A checkpoint from on_train_epoch_end: the rest of that epoch comes first.
  if (c_.epoch.processed > c_.epoch.completed) finish_epoch();
  if (const auto reason = done()) return *reason;
  if (!s_.module->training())
    s_.console.warn("the module is in eval mode and is trained so; call module.train() before fit");
  s_.call(HookPoint::on_train_start, &C::on_train_start, &M::on_train_start);
  s_.agree_on_stop();
  std::optional<StopReason> reason;
  while (!(reason = done())) run_epoch();
  s_.call(HookPoint::on_train_end, &C::on_train_end, &M::on_train_end);
  return *reason;
}

std::optional<StopReason> FitLoop::done() const {
  if (s_.train_batches == 0) return StopReason::no_data;
  if (*s_.options.max_epochs >= 0 && c_.epoch.completed >= *s_.options.max_epochs) return StopReason::max_epochs;
  if (steps_are_done()) return StopReason::max_steps;
  if (stop_is_due()) return StopReason::stopped;
  return std::nullopt;
}

bool FitLoop::stop_is_due() const {
  return s_.should_stop() && c_.epoch.completed >= *s_.options.min_epochs && c_.global_step >= *s_.options.min_steps;
}

// Whether the micro-batch begun last is its window's last one.
bool FitLoop::window_is_complete() const {
  return c_.batch.ready % s_.options.accumulate_grad_batches == 0 || c_.batch.ready == s_.train_batches;
}

bool FitLoop::check_is_due() const {
  const std::int64_t done = c_.batch.completed;
  if (s_.val_batches == 0 || done == 0 || c_.checked_at == c_.total_batches) return false;
  const auto every_epoch = s_.options.check_val_every_n_epoch;
  const Amount& interval = s_.options.val_check_interval;
  if (every_epoch && (c_.epoch.completed + 1) % *every_epoch != 0) return false;
  if (stop_is_due() && window_is_complete()) return true;
  if (!every_epoch && interval.is_count()) return c_.total_batches % static_cast<std::int64_t>(interval.value()) == 0;
  const std::int64_t batches = interval.is_count() ? static_cast<std::int64_t>(interval.value())
                                                   : std::max<std::int64_t>(1, interval.of(s_.train_batches));
  return done % batches == 0;
}

void FitLoop::run_epoch() {
  bool resumed = c_.epoch.started > c_.epoch.processed;
  if (!resumed) {
    c_.batch = {};
    c_.window = 0;
    ++c_.epoch.ready;
    s_.call(HookPoint::on_train_epoch_start, &C::on_train_epoch_start, &M::on_train_epoch_start);
    ++c_.epoch.started;
  }
  if (c_.batch.processed > c_.batch.completed) finish_batch();
  else if (check_is_due()) run_check();

  std::optional<BatchIterator> it;
  const auto cut = [&] {
    return steps_are_done() || (stop_is_due() && window_is_complete() && c_.batch.processed > 0);
  };
  while (c_.batch.processed < s_.train_batches && !cut()) {
    if (it) ++*it;
    else it.emplace(s_.train->begin(c_.epoch.completed, c_.batch.processed));
    run_batch(**it);
  }
  end_epoch();
}

void FitLoop::end_epoch() {
  ++c_.epoch.processed;
  // Those that read metrics come last, when the metrics of the others are there.
  const auto call_callbacks = [&](bool monitoring) {
    const TrainerState::At at(s_, HookPoint::on_train_epoch_end);
    for (const Shared<Callback>& callback : s_.callbacks)
      if (callback->monitors() == monitoring) callback->on_train_epoch_end(s_.trainer, *s_.module);
  };
  call_callbacks(false);
  s_.call_module(HookPoint::on_train_epoch_end, &M::on_train_epoch_end);
  s_.log.publish_epoch(Loop::train);
  call_callbacks(true);
  s_.agree_on_stop();
  finish_epoch();
}

void FitLoop::finish_epoch() {
  s_.log.publish_epoch(Loop::train);
  s_.write_row(s_.log.epoch_row(Loop::train), c_.global_step);
  s_.save_loggers();
  s_.log.end_epoch(Loop::train);
  ++c_.epoch.completed;
}

void FitLoop::run_batch(const Batch& given) {
  // A rank whose share of the last batch is empty takes part in the sums, and in nothing else.
  const double weight = s_.weight_of(given);
  Batch placed;
  const Batch& batch = s_.place(given, placed);
  StepContext context(s_.trainer, c_.batch.ready++);
  s_.seed_batch();
  if (weight > 0) {
    s_.log.begin_batch(batch);
    s_.call(HookPoint::on_train_batch_start, &C::on_train_batch_start, &M::on_train_batch_start, batch, context);
  }
  ++c_.batch.started;
  Tensor loss;
  if (weight > 0) {
    const Autocast autocast = s_.autocast();
    loss = s_.call_module(HookPoint::training_step, &M::training_step, batch, context);
  }
  if (loss.defined())
    check(loss.numel() == 1 && loss.requires_grad(),
          "training_step: expected a loss with one element that depends on a parameter, got {}{}", loss.shape(),
          loss.requires_grad() ? "" : " without gradient");
  if (loss.defined() && c_.window == 0) zero_grad();
  const bool complete = window_is_complete();
  if (complete && s_.reducer) {
    optim::Optimizer& optimizer = *s_.optimizer.optimizer;
    if (!loss.defined() && c_.window == 0) optimizer.zero_grad();    // those of the window before
    if (!s_.reducer->serves(optimizer.arenas())) s_.make_reducer();  // after a rebuild
    s_.reducer->prepare();
  }
  if (loss.defined()) {
    backward(loss, weight);
    c_.window += weight;
  }
  c_.stepped = false;
  if (complete) {
    if (reduce()) step();
    c_.window = 0;
  }
  ++c_.batch.processed;
  ++c_.total_batches;
  if (c_.batch.processed == s_.train_batches) step_schedule(Interval::epoch, c_.epoch.completed + 1);
  if (weight > 0)
    s_.call(HookPoint::on_train_batch_end, &C::on_train_batch_end, &M::on_train_batch_end, loss, batch, context);
  finish_batch();
}

void FitLoop::finish_batch() {
  ++c_.batch.completed;
  s_.log.end_train_batch();
  const std::int64_t every = s_.options.log_every_n_steps;
  if (c_.stepped && every > 0 && (c_.global_step % every == 0 || s_.should_stop()))
    s_.write_row(s_.log.step_row(), c_.global_step);
  if (window_is_complete()) s_.log.end_window();
  if (check_is_due()) run_check();
}

void FitLoop::run_check() {
  if (window_is_complete()) s_.call_module(HookPoint::on_validation_model_zero_grad, &M::on_validation_model_zero_grad);
  evaluate(s_, Loop::validation, Purpose::check, *s_.val, s_.val_batches);
  s_.agree_on_stop();
}

void FitLoop::zero_grad() {
  if (!s_.optimizer.optimizer) {
    s_.module->zero_grad();
    return;
  }
  optim::Optimizer& optimizer = *s_.optimizer.optimizer;
  s_.call(HookPoint::on_before_zero_grad, &C::on_before_zero_grad, &M::on_before_zero_grad, optimizer);
  s_.call_module(HookPoint::optimizer_zero_grad, &M::optimizer_zero_grad, optimizer);
}

void FitLoop::backward(const Tensor& loss, double weight) {
  Tensor scaled = weight == 1 ? loss : loss * weight;
  if (s_.scaler) scaled = s_.scaler->scale(scaled);
  s_.call(HookPoint::on_before_backward, &C::on_before_backward, &M::on_before_backward, scaled);
  s_.call_module(HookPoint::backward, &M::backward, scaled);
  s_.call(HookPoint::on_after_backward, &C::on_after_backward, &M::on_after_backward);
}

// Whether the window has a loss, on any rank; its gradients and its weight are then sums over all ranks.
bool FitLoop::reduce() {
  if (!s_.reducer) {
    s_.agree_on_stop();
    return c_.window > 0;
  }
  double tail[] = {c_.window, s_.stop_requested ? 1.0 : 0.0};
  s_.reducer->finish(tail);
  c_.window = tail[0];
  if (tail[1] > 0) s_.set_stop_agreed();
  return c_.window > 0;
}

void FitLoop::step() {
  if (!s_.optimizer.optimizer) return;
  optim::Optimizer& optimizer = *s_.optimizer.optimizer;
  const bool by_norm = s_.options.gradient_clip_algorithm == "norm";
  optimizer.defer({.average = 1 / c_.window,
                   .clip_norm = by_norm ? s_.options.gradient_clip_val : 0,
                   .clip_value = by_norm ? 0 : s_.options.gradient_clip_val,
                   .scaler = s_.scaler ? &*s_.scaler : nullptr});
  s_.call(HookPoint::on_before_optimizer_step, &C::on_before_optimizer_step, &M::on_before_optimizer_step, optimizer);
  s_.call_module(HookPoint::optimizer_step, &M::optimizer_step, optimizer);
  if (s_.scaler && s_.scaler->found_inf()) return skip_step();
  s_.skips_in_a_row = 0;
  ++c_.global_step;
  c_.stepped = true;
  step_schedule(Interval::step, c_.global_step);
}

// A skipped step moves nothing but the scale.
void FitLoop::skip_step() {
  if (++s_.skips_in_a_row < 100) return;
  const double scale = s_.scaler->scale_value();
  check(
      scale >= 1,
      "loss scale collapsed: {} after {} steps in a row whose gradients were not finite; the model diverged, or has a "
      "layer that leaves the range of f16 (detect_anomaly names the op)",
      scale, s_.skips_in_a_row);
}

void FitLoop::step_schedule(Interval interval, std::int64_t count) {
  if (s_.scheduler && s_.optimizer.interval == interval && count % s_.optimizer.frequency == 0) s_.scheduler->step();
}

}  // namespace v0
}  // namespace anneal
