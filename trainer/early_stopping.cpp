#include "anneal/trainer/early_stopping.h"

#include <cmath>
#include <limits>
#include <utility>

#include "anneal/trainer/console.h"
#include "anneal/trainer/trainer.h"

namespace anneal {
inline namespace v0 {

EarlyStopping::EarlyStopping(EarlyStoppingOptions options) : options_(std::move(options)) {
  const auto& o = options_;
  check<ConfigError>(!o.monitor.empty(), "monitor: expected the name of a metric, got none");
  check<ConfigError>(o.patience >= 0, "patience: expected at least 0, got {}", o.patience);
  check<ConfigError>(o.mode == "min" || o.mode == "max", "mode: expected \"min\" or \"max\", got \"{}\"", o.mode);
  best_ = o.mode == "min" ? std::numeric_limits<double>::infinity() : -std::numeric_limits<double>::infinity();
}

void EarlyStopping::setup(Trainer&, TrainingModule&, Stage stage) {
  if (stage == Stage::fit) *this = EarlyStopping(options_);
}

bool EarlyStopping::looks_at_epoch_end(const Trainer& trainer) const {
  if (options_.check_on_train_epoch_end) return *options_.check_on_train_epoch_end;
  if (trainer.num_val_batches() == 0) return true;
  return trainer.options().check_val_every_n_epoch == 1 && trainer.options().val_check_interval.is_all();
}

// A run resumed from where it had ended is at its end, unless it is now given more patience.
void EarlyStopping::on_train_start(Trainer& trainer, TrainingModule&) {
  if (reason_ != StoppingReason::not_stopped)
    trainer.console().warn("EarlyStopping had asked the resumed run to end: " + message_);
  stop_if_due(trainer, trainer.current_epoch());
}
void EarlyStopping::on_train_batch_end(Trainer& trainer, TrainingModule&, const Tensor&, const Batch&, StepContext&) {
  stop_if_due(trainer, trainer.current_epoch());
}
void EarlyStopping::on_train_epoch_end(Trainer& trainer, TrainingModule&) {
  if (looks_at_epoch_end(trainer)) look(trainer);
  stop_if_due(trainer, trainer.current_epoch() + 1);
}
void EarlyStopping::on_validation_end(Trainer& trainer, TrainingModule&) {
  if (trainer.stage() != Stage::fit || looks_at_epoch_end(trainer) || trainer.check_broke_off()) return;
  look(trainer);
  stop_if_due(trainer, trainer.current_epoch());
}

// The Trainer never forgets a request, so that one which may be withdrawn is kept here until it counts.
void EarlyStopping::stop_if_due(Trainer& trainer, std::int64_t epochs) const {
  const TrainerOptions& o = trainer.options();
  if (reason_ != StoppingReason::not_stopped && epochs >= *o.min_epochs && trainer.global_step() >= *o.min_steps)
    trainer.stop();
}

void EarlyStopping::look(Trainer& trainer) {
  if (trainer.options().fast_dev_run > 0) return;
  const double* metric = trainer.monitored(options_.monitor);
  if (!metric) {
    check<ConfigError>(!options_.strict, "monitor: there is no metric {}; there are: {}", options_.monitor,
                       trainer.callback_metrics().names());
    if (options_.verbose) trainer.console().warn(format("EarlyStopping: there is no metric {}", options_.monitor));
    return;
  }
  const double before = best_;
  const StoppingReason reason = judge(*metric);
  const bool improved = reason == StoppingReason::not_stopped && wait_ == 0;
  if (reason != StoppingReason::not_stopped || improved) {
    reason_ = reason;
    message_ = explain(reason, *metric);
    stopped_epoch_ = improved ? 0 : trainer.current_epoch();
  }
  if (options_.verbose && improved)
    trainer.print(std::isfinite(before) ? format("{} improved from {} to {}", options_.monitor, before, best_)
                                        : format("{} is {} at first", options_.monitor, best_));
  if (options_.verbose && reason != StoppingReason::not_stopped) trainer.print("training ends: " + message_);
}

StoppingReason EarlyStopping::judge(double value) {
  const auto& o = options_;
  const bool falls = o.mode == "min";
  const auto better = [&](double a, double b) { return falls ? a < b : a > b; };
  if (o.check_finite && !std::isfinite(value)) return StoppingReason::non_finite_metric;
  if (o.stopping_threshold && better(value, *o.stopping_threshold)) return StoppingReason::stopping_threshold;
  if (o.divergence_threshold && better(*o.divergence_threshold, value)) return StoppingReason::divergence_threshold;
  const double delta = std::abs(o.min_delta);
  if (better(value, falls ? best_ - delta : best_ + delta)) {
    best_ = value;
    wait_ = 0;
    return StoppingReason::not_stopped;
  }
  return ++wait_ >= o.patience ? StoppingReason::patience_exhausted : StoppingReason::not_stopped;
}

std::string EarlyStopping::explain(StoppingReason reason, double value) const {
  const auto& o = options_;
  switch (reason) {
    case StoppingReason::not_stopped: break;
    case StoppingReason::patience_exhausted:
      return format("{} did not improve in {} looks; its best value is {}", o.monitor, wait_, best_);
    case StoppingReason::stopping_threshold:
      return format("{} is {}, better than the stopping_threshold {}", o.monitor, value, *o.stopping_threshold);
    case StoppingReason::divergence_threshold:
      return format("{} is {}, worse than the divergence_threshold {}", o.monitor, value, *o.divergence_threshold);
    case StoppingReason::non_finite_metric: return format("{} is {}", o.monitor, value);
  }
  return {};
}

std::string EarlyStopping::state_key() const {
  return format("EarlyStopping monitor={} mode={}", options_.monitor, options_.mode);
}

StateMap EarlyStopping::state() const {
  return {{"best_score", best_},
          {"wait_count", wait_},
          {"patience", options_.patience},
          {"stopped_epoch", stopped_epoch_},
          {"reason", static_cast<std::int64_t>(reason_)},
          {"message", message_}};
}

void EarlyStopping::load_state(const StateMap& state) {
  best_ = std::get<double>(state.at("best_score"));
  wait_ = std::get<std::int64_t>(state.at("wait_count"));
  const auto reason = static_cast<StoppingReason>(std::get<std::int64_t>(state.at("reason")));
  if (reason == StoppingReason::patience_exhausted && wait_ < options_.patience) return;
  reason_ = reason;
  message_ = std::get<std::string>(state.at("message"));
  stopped_epoch_ = std::get<std::int64_t>(state.at("stopped_epoch"));
}

}  // namespace v0
}  // namespace anneal
