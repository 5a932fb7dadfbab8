#include "anneal/trainer/spike_detection.h"

#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "anneal/trainer/trainer.h"

namespace anneal {
inline namespace v0 {

SpikeDetection::SpikeDetection(SpikeDetectionOptions options) : options_(std::move(options)) {
  const auto& o = options_;
  check<ConfigError>(o.mode == "min" || o.mode == "max", "mode: expected \"min\" or \"max\", got \"{}\"", o.mode);
  check<ConfigError>(o.window >= 1, "window: expected at least 1, got {}", o.window);
  check<ConfigError>(o.warmup >= 0, "warmup: expected at least 0, got {}", o.warmup);
  check<ConfigError>(o.action == "raise" || o.action == "stop", "action: expected \"raise\" or \"stop\", got \"{}\"",
                     o.action);
}

void SpikeDetection::setup(Trainer&, TrainingModule&, Stage stage) {
  if (stage != Stage::fit) return;
  losses_.clear();
  spikes_ = 0;
}

bool SpikeDetection::is_spike(double loss) const {
  const auto& o = options_;
  if (!std::isfinite(loss)) return o.finite_only;
  if (losses_.empty()) return false;
  const bool worse = o.mode == "min" ? loss > losses_.back() : loss < losses_.back();
  const double mean = std::accumulate(losses_.begin(), losses_.end(), 0.0) / static_cast<double>(losses_.size());
  const double distance = std::abs(loss - mean);
  return worse && distance >= std::abs(o.atol.value_or(0)) && distance >= o.rtol * std::abs(mean);
}

void SpikeDetection::on_train_batch_end(Trainer& trainer, TrainingModule&, const Tensor& loss, const Batch&,
                                        StepContext& step) {
  if (!loss.defined()) return;
  const double value = loss.item();
  if (step.batch_idx() >= options_.warmup && is_spike(value)) {
    ++spikes_;
    const std::string text =
        format("the loss of batch {} in epoch {} is {}", step.batch_idx(), trainer.current_epoch(), value);
    if (options_.action == "raise") throw TrainingSpikeError(text, step.batch_idx());
    trainer.print("training ends: " + text);
    trainer.stop();
  } else if (std::isfinite(value)) {
    losses_.push_back(value);
    while (static_cast<std::int64_t>(losses_.size()) > options_.window) losses_.pop_front();
  }
}

StateMap SpikeDetection::state() const {
  return {{"losses", std::vector<double>(losses_.begin(), losses_.end())}, {"spikes", spikes_}};
}
void SpikeDetection::load_state(const StateMap& state) {
  const auto& losses = std::get<std::vector<double>>(state.at("losses"));
  losses_.assign(losses.begin(), losses.end());
  spikes_ = std::get<std::int64_t>(state.at("spikes"));
}

}  // namespace v0
}  // namespace anneal
