#include "anneal/trainer/fit_loop.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "anneal/core/ops.h"
#include "anneal/trainer/layer_trace.h"
#include "anneal/trainer/module_modes.h"
#include "anneal/trainer/run_loaders.h"

namespace anneal {
inline namespace v0 {

using C = Callback;
using M = TrainingModule;

StopReason FitLoop::run() {
  // A checkpoint from on_train_epoch_end: the rest of that epoch comes first.
  if (c_.epoch.processed > c_.epoch.completed) finish_epoch();
  if (const auto reason = done()) return *reason;
  if (const std::int64_t modules = count_in_eval(*s_.module); modules > 0)
    s_.console.warn(
        format("modules in eval mode, which are trained so: {}; for none call module.train() before fit", modules));
  s_.call(HookPoint::on_train_start, &C::on_train_start, &M::on_train_start);
  begin_check_interval();
  s_.agree_on_end();
  std::optional<StopReason> reason;
  while (!(reason = done())) {
    run_epoch();
    if (s_.return_before) roll_back();
  }
  if (*reason == StopReason::signal) s_.call(HookPoint::on_signal, &C::on_signal, &M::on_signal, s_.signal);
  else s_.call(HookPoint::on_train_end, &C::on_train_end, &M::on_train_end);
  return *reason;
}

std::optional<StopReason> FitLoop::done() {
  if (s_.train_batches == 0 || (c_.epoch.completed > 0 && c_.epoch_batches == 0)) return StopReason::no_data;
  if (s_.signal != 0) return StopReason::signal;
  if (s_.ends_on_bad_number) return StopReason::bad_number;
  if (*s_.options.max_epochs >= 0 && c_.epoch.completed >= *s_.options.max_epochs) return StopReason::max_epochs;
  if (steps_are_done()) return StopReason::max_steps;
  if (stop_is_due()) return StopReason::stopped;
  return std::nullopt;
}

bool FitLoop::stop_is_due() {
  if (s_.ends_on_bad_number || !s_.should_stop()) return s_.ends_on_bad_number;
  const std::int64_t epochs = *s_.options.min_epochs, steps = *s_.options.min_steps;
  if (c_.epoch.completed >= epochs && c_.global_step >= steps) return true;
  if (!std::exchange(told_to_wait_, true))
    s_.console.print(format("a request to stop waits for min_epochs ({}) and min_steps ({})", epochs, steps));
  return false;
}

// Whether the micro-batch begun last is its window's last one.
bool FitLoop::window_is_complete() const {
  return c_.batch.ready % c_.accumulate == 0 || c_.batch.ready == c_.epoch_batches;
}

void FitLoop::run_epoch() {
  Profiler* const profiler = s_.profiler.get();
  const ProfiledAction epoch(profiler, "run_training_epoch");
  bool resumed = c_.epoch.started > c_.epoch.processed;
  if (!resumed) {
    reload_fit_loaders(s_);
    c_.batch = {};
    c_.epoch_batches = s_.train_batches;
    c_.losses = 0;
    c_.window = 0;
    ++c_.epoch.ready;
    c_.accumulate = s_.options.accumulate_grad_batches;
    s_.call(HookPoint::on_train_epoch_start, &C::on_train_epoch_start, &M::on_train_epoch_start);
    ++c_.epoch.started;
  }
  if (c_.batch.processed > c_.batch.completed) finish_batch();
  else if (check_is_due()) run_check();

  const auto cut = [&] {
    return steps_are_done() || (stop_is_due() && window_is_complete() && c_.batch.processed > 0);
  };
  const auto breaks_off = [&] { return s_.signal != 0 || s_.return_before; };
  const auto layers = anomaly_enabled() ? std::make_unique<LayerTrace>(*s_.module) : nullptr;
  while (c_.batch.processed < c_.epoch_batches && !cut() && !breaks_off() && next_batch()) {
    try {
      if (!run_batch(**s_.batches, s_.batches->samples())) break;
      finish_batch();
      if (profiler) profiler->end_batch();
    } catch (const AnomalyError& error) {
      throw AnomalyError(format("{} ({}batch {} of epoch {})", error.what(), layers ? layers->where() : "",
                                s_.trainer.batch_idx(), c_.epoch.completed));
    }
  }
  if (!breaks_off()) s_.stream.clear();
  else if (s_.batches) s_.stream = s_.batches->state(c_.batch.processed);
  s_.batches.reset();
  if (!breaks_off()) end_epoch();
}

// Whether the epoch has another batch, on which the pass then stands.
bool FitLoop::next_batch() {
  const ProfiledAction action(s_.profiler.get(), "train_dataloader_next");
  const std::int64_t i = c_.batch.processed;
  const bool begins = !s_.batches;
  if (begins) s_.batches.emplace(s_.train->begin(c_.epoch.completed, i, std::exchange(s_.stream, {})));
  else ++*s_.batches;
  if (!s_.train->is_stream()) return true;
  // Before a stream's last batch is trained on, all ranks know that it is the last. The shortest stream ends the epoch.
  if (begins && s_.any_rank(*s_.batches == std::default_sentinel)) c_.epoch_batches = i;
  else if (i + 1 < c_.epoch_batches && s_.any_rank(s_.batches->last())) c_.epoch_batches = i + 1;
  if (c_.epoch_batches == 0) s_.console.warn("the train loader's stream gave no batch; training ends");
  return i < c_.epoch_batches;
}

void FitLoop::end_epoch() {
  ++c_.epoch.processed;
  // Those that read metrics come last, when the metrics of the others are there.
  const auto call_callbacks = [&](bool monitoring) {
    const TrainerState::At at(s_, HookPoint::on_train_epoch_end);
    for (const Shared<Callback>& callback : s_.callbacks)
      if (callback->monitors() == monitoring)
        s_.call_one(*callback, HookPoint::on_train_epoch_end, &C::on_train_epoch_end, s_.trainer, *s_.module);
  };
  call_callbacks(false);
  s_.call_module(HookPoint::on_train_epoch_end, &M::on_train_epoch_end);
  s_.log.publish_epoch(Loop::train);
  call_callbacks(true);
  s_.agree_on_end();
  finish_epoch();
}

void FitLoop::finish_epoch() {
  synchronize(s_.device);  // throws for bad indices that a GPU has met
  s_.log.publish_epoch(Loop::train);
  if (c_.batch.processed == c_.epoch_batches) look_at_plateaus(Interval::epoch, c_.epoch.completed + 1);
  s_.write_row(s_.log.epoch_row(Loop::train), c_.global_step);
  s_.save_loggers();
  s_.log.end_epoch(Loop::train);
  ++c_.epoch.completed;
}

// Whether the epoch goes on.
bool FitLoop::run_batch(Batch& batch, std::span<const std::int64_t> samples) {
  const ProfiledAction action(s_.profiler.get(), "run_training_batch");
  // A rank whose share of the last batch is empty takes part in the sums, and in nothing else.
  const bool dropped = s_.dropped.contains(c_.total_batches);
  const double share = s_.batch_share = dropped ? 0 : s_.weight_of(batch);
  if (share > 0) s_.transfer(batch);
  else if (!s_.world && !dropped) s_.console.warn("the train loader gave an empty batch; it is skipped");
  StepContext context(s_.trainer, c_.batch.ready++, 0, samples);
  s_.seed_batch();
  if (share > 0) {
    s_.log.begin_batch(Loop::train, batch);
    s_.call(HookPoint::on_train_batch_start, &C::on_train_batch_start, &M::on_train_batch_start, batch, context);
  }
  if (context.skips_epoch()) {
    --c_.batch.ready;
    c_.stepped = false;
    if (c_.losses + c_.bad > 0) end_window();
    write_step_row();
    step_schedules(Interval::epoch, c_.epoch.completed + 1);
    return false;
  }
  ++c_.batch.started;
  c_.stepped = false;
  Tensor loss;
  if (s_.automatic) {
    if (share > 0) loss = automatic_step(batch, context, share);
    if (window_is_complete()) end_window();
  } else {
    check(share > 0 || !s_.world,
          "manual optimization: rank {} has no sample of batch {}, of which others have some; use drop_last", s_.rank(),
          context.batch_idx());
    if (share > 0) loss = call_training_step(batch, context);
    end_manual_step(context.counts_step());
  }
  ++c_.batch.processed;
  ++c_.total_batches;
  if (c_.batch.processed == c_.epoch_batches) step_schedules(Interval::epoch, c_.epoch.completed + 1);
  look_at_clock();
  s_.check_follows = check_is_due();
  if (share > 0)
    s_.call(HookPoint::on_train_batch_end, &C::on_train_batch_end, &M::on_train_batch_end, loss, batch, context);
  return true;
}

Tensor FitLoop::call_training_step(const Batch& batch, StepContext& context) {
  const Autocast autocast = s_.autocast();
  return s_.call_module(HookPoint::training_step, &M::training_step, batch, context);
}

// The same loss and gradients anew, with the same random numbers; nothing is logged.
Tensor FitLoop::repeat(const Batch& batch, StepContext& context, Generator generator) {
  const GeneratorScope scope(generator);
  const MetricLog::Mute mute(s_.log);
  s_.optimizers[0].optimizer().zero_grad();
  Tensor loss = call_training_step(batch, context);
  if (context.weight()) loss = loss * (1 / *context.weight());
  s_.backward(loss, 1);
  return loss;
}

// The step and its backward; `share` is this rank's of the batch.
Tensor FitLoop::automatic_step(const Batch& batch, StepContext& context, double share) {
  const Generator generator = s_.generator;
  const Tensor loss = call_training_step(batch, context);
  if (!loss.defined()) return loss;
  check(loss.numel() == 1 && loss.requires_grad(),
        "training_step: expected a loss with one element that depends on a parameter, got {}{}", loss.shape(),
        loss.requires_grad() ? "" : " without gradient");
  const bool weighted = context.weight().has_value();
  check(c_.losses == 0 || weighted == c_.weighted,
        "set_weight: expected in all steps of an accumulation window or in none, got both in the window of batch {}",
        context.batch_idx());
  if (s_.options.on_bad_number != "ignore" && !std::isfinite(loss.item())) {
    ++c_.bad;
    return loss;
  }
  if (c_.losses == 0) zero_grad();
  if (window_is_complete()) prepare_reducer();
  s_.backward(loss, weighted ? 1 : share);
  c_.weighted = weighted;
  c_.window += context.weight().value_or(share);
  ++c_.losses;
  if (!s_.optimizers.empty() && s_.optimizers[0].optimizer().needs_closure())
    repeat_ = [this, &batch, &context, generator] { return repeat(batch, context, generator); };
  return loss;
}

void FitLoop::finish_batch() {
  ++c_.batch.completed;
  s_.log.end_train_batch();
  if (window_is_complete()) write_step_row();
  if (check_is_due()) run_check();
  if (c_.stepped) look_at_plateaus(Interval::step, c_.global_step);
  if (!s_.world) s_.agree_on_end();  // ranks do so when a window ends
}

// Of the window that ends, if a row is due.
void FitLoop::write_step_row() {
  const std::int64_t every = s_.options.log_every_n_steps;
  if (c_.stepped && every > 0 && (c_.global_step % every == 0 || s_.should_stop())) {
    s_.log.publish_window();
    s_.log.write_row([&s = s_, x = c_.global_step] { s.write_row(s.log.step_row(), x); });
  }
  s_.log.end_window();
}

void FitLoop::zero_grad() {
  if (s_.optimizers.empty()) return s_.module->zero_grad();
  optim::Optimizer& optimizer = s_.optimizers[0].optimizer();
  s_.call(HookPoint::on_before_zero_grad, &C::on_before_zero_grad, &M::on_before_zero_grad, optimizer);
  s_.call_module(HookPoint::optimizer_zero_grad, &M::optimizer_zero_grad, optimizer);
}

// Before the window's last backward, or where there was none.
void FitLoop::prepare_reducer() {
  if (dist::Reducer* reducer = s_.reducer(); reducer && !prepared_) {
    reducer->prepare();
    prepared_ = true;
  }
}

void FitLoop::end_window() {
  if (s_.reducer() && c_.losses == 0) s_.optimizers[0].optimizer().zero_grad();  // those of the window before
  prepare_reducer();
  const bool has_loss = reduce();
  if (c_.bad > 0) drop_window("a loss is not finite");
  else if (has_loss) step();
  prepared_ = false;
  c_.losses = c_.bad = 0;
  c_.window = 0;
}

// Whether the window has a loss, on any rank; its gradients, its weight and its bad losses are then sums over all
// ranks.
bool FitLoop::reduce() {
  if (dist::Reducer* reducer = s_.reducer()) {
    const auto [stop, interrupt, terminate, again] = s_.end_requests();
    double tail[] = {stop,
                     interrupt,
                     terminate,
                     again,
                     c_.weighted ? 0 : c_.window,
                     c_.weighted ? c_.window : 0,
                     static_cast<double>(c_.bad)};
    reducer->finish(tail);
    s_.take_end_requests(std::span(tail).first<4>());
    check(tail[4] == 0 || tail[5] == 0, "set_weight: expected on all ranks or on none, got both");
    c_.window = tail[4] + tail[5];
    c_.bad = static_cast<std::int64_t>(tail[6]);
  } else {
    s_.agree_on_end();
  }
  return c_.window > 0;
}

void FitLoop::step() {
  if (s_.optimizers.empty()) return;
  const ProfiledAction action(s_.profiler.get(), "optimizer_step");
  if (const auto& strategy = s_.options.strategy.object(); strategy && strategy->static_graph())
    s_.optimizers[0].check_graph();
  optim::Optimizer& optimizer = s_.optimizers[0].optimizer();
  const TrainerOptions& o = s_.options;
  optim::GradScaler* const scaler = s_.scaler                                 ? &*s_.scaler
                                    : s_.guard && o.on_bad_number != "ignore" ? &*s_.guard
                                                                              : nullptr;
  optimizer.defer({.average = 1 / c_.window, .scaler = scaler, .closure = std::exchange(repeat_, {})});
  s_.call(HookPoint::on_before_optimizer_step, &C::on_before_optimizer_step, &M::on_before_optimizer_step, optimizer);
  s_.call_module(HookPoint::configure_gradient_clipping, &M::configure_gradient_clipping, optimizer,
                 *o.gradient_clip_val, std::string_view(o.gradient_clip_algorithm));
  // A norm is worked out where something needs it, such as a limit that it does not reach.
  if (const optim::StepOptions step = optimizer.deferred(); o.log_grad_norm && step.clip_norm == 0)
    optimizer.defer_clipping(std::numeric_limits<double>::infinity(), step.clip_value, step.norm_type);
  s_.call_module(HookPoint::optimizer_step, &M::optimizer_step, optimizer);
  if (scaler && scaler->found_inf())
    return s_.scaler ? s_.count_skipped_step() : drop_window("gradients are not finite");
  if (o.log_grad_norm) {
    const TrainerState::At at(s_, HookPoint::optimizer_step);
    s_.log.log("grad_norm", HostValue(optimizer.grad_norm()), {});
  }
  ++s_.optimizers[0].steps;
  count_step();
  step_schedules(Interval::step, c_.global_step);
}

void FitLoop::count_step() {
  s_.bad_in_a_row = s_.skips_in_a_row = 0;
  ++c_.global_step;
  c_.stepped = true;
}

// What training_step did by itself.
void FitLoop::end_manual_step(bool counted) {
  if (s_.scaler && (s_.manual_step || s_.manual_skip)) s_.scaler->update(s_.manual_skip);
  if (s_.manual_step || counted) count_step();
  else if (s_.manual_skip) s_.count_skipped_step();
  batches_without_step_ = c_.stepped || s_.manual_skip ? 0 : batches_without_step_ + 1;
  if (batches_without_step_ == 10)
    s_.console.warn(
        "manual optimization: ten batches without a step of an optimizer; where weights change by other means, "
        "count_step says so");
  s_.manual_step = s_.manual_skip = false;
  s_.agree_on_end();
}

}  // namespace v0
}  // namespace anneal
