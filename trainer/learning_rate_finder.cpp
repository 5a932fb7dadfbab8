#include "anneal/trainer/learning_rate_finder.h"

#include <cmath>
#include <limits>
#include <memory>
#include <utility>

#include "anneal/trainer/fit_loop.h"
#include "anneal/trainer/log_format.h"
#include "anneal/trainer/trial.h"

namespace anneal {
inline namespace v0 {
namespace {

constexpr double smoothing = 0.98;

double rate(const LearningRateFinderOptions& o, std::int64_t step) {
  const double t = static_cast<double>(step) / static_cast<double>(o.num_training - 1);
  return o.mode == "linear" ? o.min_lr + (o.max_lr - o.min_lr) * t : o.min_lr * std::pow(o.max_lr / o.min_lr, t);
}

// Raises the rate from step to step, and keeps the losses.
class Sweep final : public Callback {
 public:
  Sweep(TrainerState& state, const LearningRateFinderOptions& options) : state_(state), options_(options) {
    curve.logarithmic = options.mode == "exponential";
  }

  // The one hook that ranks without a sample have, too.
  void on_before_optimizer_step(Trainer& trainer, TrainingModule&, optim::Optimizer& optimizer) override {
    for (std::size_t g = 0; g < optimizer.groups(); ++g) optimizer.set_lr(g, rate(options_, trainer.global_step()));
  }

  void on_train_batch_end(Trainer& trainer, TrainingModule&, const Tensor& loss, const Batch&,
                          StepContext& step) override {
    if (loss.defined()) {
      total_ += loss.item() * (step.weight() ? 1 : state_.batch_share);
      weight_ += step.weight().value_or(state_.batch_share);
    }
    if (!state_.counters.stepped) return;
    curve.lr.push_back(rate(options_, trainer.global_step() - 1));
    curve.loss.push_back(weight_ > 0 ? smooth(total_ / weight_) : std::numeric_limits<double>::quiet_NaN());
    total_ = weight_ = 0;
    const double last = curve.loss.back();
    const bool diverges = options_.early_stop_threshold && best_ > 0 && last > *options_.early_stop_threshold * best_;
    if (diverges && trainer.is_global_zero()) trainer.stop();
    if (last < best_) best_ = last;
  }

  LearningRateCurve curve;

 private:
  double smooth(double loss) {
    average_ = smoothing * average_ + (1 - smoothing) * loss;
    return average_ / (1 - std::pow(smoothing, ++losses_));
  }

  TrainerState& state_;
  const LearningRateFinderOptions& options_;
  double total_ = 0, weight_ = 0;  // of the losses since the last step
  double average_ = 0, best_ = std::numeric_limits<double>::infinity();
  int losses_ = 0;
};

LearningRateCurve sweep(TrainerState& s, const LearningRateFinderOptions& options) {
  const auto rising = std::make_shared<Sweep>(s, options);
  try_out(s, [&] {
    s.callbacks = {rising};
    s.options.max_epochs = s.options.max_steps = options.num_training;
    FitLoop(s).run();
  });
  return std::move(rising->curve);
}

}  // namespace

LearningRateFinder::LearningRateFinder(LearningRateFinderOptions options) : options_(std::move(options)) {
  const LearningRateFinderOptions& o = options_;
  check<ConfigError>(o.mode == "exponential" || o.mode == "linear", "mode: expected exponential or linear, got \"{}\"",
                     o.mode);
  check<ConfigError>(o.min_lr > 0, "min_lr: expected above 0, got {}", o.min_lr);
  check<ConfigError>(o.max_lr > o.min_lr && std::isfinite(o.max_lr), "max_lr: expected above min_lr ({}), got {}",
                     o.min_lr, o.max_lr);
  check<ConfigError>(o.num_training >= 2, "num_training: expected at least 2 steps, got {}", o.num_training);
  check<ConfigError>(!o.early_stop_threshold || *o.early_stop_threshold > 0,
                     "early_stop_threshold: expected above 0, got {}", o.early_stop_threshold.value_or(0));
}

void LearningRateFinder::lr_find(Trainer& trainer, TrainingModule& module) {
  TrainerState& s = TrainerState::of(trainer);
  check_before_batches(s, "lr_find");
  check(s.train.has_value(), "lr_find: expected in a fit");
  check<ConfigError>(s.optimizers.size() == 1, "lr_find: expected one optimizer, got {}", s.optimizers.size());
  check<ConfigError>(!options_.update_attr || options_.attr || s.parts.set_learning_rate,
                     "attr: the module ({}) has no public number learning_rate or lr; name another one, or set "
                     "update_attr to false",
                     module.type_name());
  if (skips_search(s, "lr_find")) return;
  curve_ = sweep(s, options_);
  const auto own = curve_.suggestion();
  const std::string found = s.from_rank_zero("trainer/lr_find", own ? shortest(*own) : "");
  if (found.empty())
    return s.console.warn("lr_find: no learning rate is suggested: the loss has too few points, or does not fall");
  s.console.print("lr_find: the suggested learning rate is " + found);
  if (!options_.update_attr) return;
  const double lr = std::stod(found);
  if (options_.attr) *options_.attr = lr;
  else s.parts.set_learning_rate(lr);
  s.optimizers[0].set_base_lr(lr);
}

void LearningRateFinder::on_fit_start(Trainer& trainer, TrainingModule& module) {
  if (trainer.resumed_from().empty()) lr_find(trainer, module);
}

}  // namespace v0
}  // namespace anneal
