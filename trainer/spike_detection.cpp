#include "anneal/trainer/spike_detection.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>
#include <vector>

#include "anneal/trainer/log_format.h"
#include "anneal/trainer/trainer_state.h"

namespace anneal {
inline namespace v0 {

namespace fs = std::filesystem;

SpikeDetection::SpikeDetection(SpikeDetectionOptions options) : options_(std::move(options)) {
  const auto& o = options_;
  check<ConfigError>(o.mode == "min" || o.mode == "max", "mode: expected \"min\" or \"max\", got \"{}\"", o.mode);
  check<ConfigError>(o.window >= 1, "window: expected at least 1, got {}", o.window);
  check<ConfigError>(o.warmup >= 0, "warmup: expected at least 0, got {}", o.warmup);
  check<ConfigError>(o.zscore.value_or(1) > 0, "zscore: expected more than 0, got {}", o.zscore.value_or(1));
  check<ConfigError>(o.action == "raise" || o.action == "stop" || o.action == "skip" || o.action == "rollback",
                     "action: expected \"raise\", \"stop\", \"skip\" or \"rollback\", got \"{}\"", o.action);
}

fs::path SpikeDetection::file(const Trainer& trainer) const {
  return options_.exclude_batches_path.empty() ? trainer.options().default_root_dir / "skip_batches.json"
                                               : options_.exclude_batches_path;
}

void SpikeDetection::setup(Trainer& trainer, TrainingModule&, Stage stage) {
  if (stage != Stage::fit) return;
  check<ConfigError>(trainer.world_size() == 1 || options_.action == "raise" || options_.action == "stop",
                     "action: expected \"raise\" or \"stop\" with several ranks, got \"{}\"", options_.action);
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
  if (o.zscore) {
    double squares = 0;
    for (const double each : losses_) squares += (each - mean) * (each - mean);
    return worse && static_cast<std::int64_t>(losses_.size()) == o.window &&
           distance >= *o.zscore * std::sqrt(squares / static_cast<double>(losses_.size()));
  }
  return worse && distance >= std::abs(o.atol.value_or(0)) && distance >= o.rtol * std::abs(mean);
}

// A run goes on: it, or one before it, may have met spikes. Rank 0 reads.
void SpikeDetection::on_load_checkpoint(Trainer& trainer, TrainingModule&, Checkpoint&) {
  TrainerState& s = TrainerState::of(trainer);
  std::ifstream in(file(trainer), std::ios::binary);
  const std::string text = s.from_rank_zero("trainer/skip_batches", {std::istreambuf_iterator<char>(in), {}});
  if (text.empty()) return;
  try {
    s.dropped.merge(nlohmann::json::parse(text).get<std::set<std::int64_t>>());
  } catch (const nlohmann::json::exception& error) {
    throw Error(format("{}: expected a list of batches: {}", file(trainer).string(), error.what()));
  }
}

void SpikeDetection::exclude(Trainer& trainer, std::int64_t batch) const {
  std::set<std::int64_t>& all = TrainerState::of(trainer).dropped;
  all.insert({std::max<std::int64_t>(batch - 1, 0), batch});
  if (trainer.options().fast_dev_run == 0)
    replace_file(file(trainer), to_json(HParam(std::vector<std::int64_t>(all.begin(), all.end()))));
}

void SpikeDetection::on_train_batch_end(Trainer& trainer, TrainingModule&, const Tensor& loss, const Batch&,
                                        StepContext& step) {
  if (!loss.defined()) return;
  const double value = loss.item();
  if (step.batch_idx() >= options_.warmup && is_spike(value)) {
    ++spikes_;
    const std::string text =
        format("the loss of batch {} in epoch {} is {}", step.batch_idx(), trainer.current_epoch(), value);
    const std::int64_t batch = trainer.total_batch_idx();
    exclude(trainer, batch);
    if (options_.action == "raise") throw TrainingSpikeError(text, step.batch_idx());
    if (options_.action == "stop") trainer.stop();
    if (options_.action == "rollback") TrainerState::of(trainer).return_before = std::max<std::int64_t>(batch - 1, 0);
    trainer.print(text + (options_.action == "stop"   ? "; training ends"
                          : options_.action == "skip" ? "; training goes on"
                                                      : "; training goes back to a checkpoint"));
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
  spikes_ = std::max(spikes_, std::get<std::int64_t>(state.at("spikes")));  // more, where training goes back
}

}  // namespace v0
}  // namespace anneal
