#include "anneal/trainer/batch_size_finder.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "anneal/trainer/evaluation_loop.h"
#include "anneal/trainer/fit_loop.h"
#include "anneal/trainer/run.h"
#include "anneal/trainer/run_loaders.h"
#include "anneal/trainer/trial.h"

namespace anneal {
inline namespace v0 {
namespace {

const DataLoader& loader_of(const TrainerState& s) { return s.train ? *s.train : s.own_run.loaders.front(); }

std::int64_t samples_of(const DataLoader& loader) {
  const auto& sampler = loader.options().sampler;
  return sampler ? sampler->size() : loader.dataset()->size();
}

void run_steps(TrainerState& s, const DataLoader& loader, std::int64_t steps) {
  if (s.train) {
    const Restored<std::optional<DataLoader>> train(s.train, loader);
    s.train_batches = loader.size();
    s.options.max_epochs = s.options.max_steps = steps;
    FitLoop(s).run();
    return;
  }
  const LimitedLoaders first{{loader}, {std::min(steps, loader.size())}};
  if (s.stage == Stage::predict) predict(s, first, {.return_predictions = false});
  else evaluate(s, s.stage == Stage::test ? Loop::test : Loop::validation, Purpose::sanity_check, first);
}

bool fits(TrainerState& s, std::int64_t size, std::int64_t steps) {
  try {
    try_out(s, [&] { run_steps(s, loader_of(s).with_batch_size(size), steps); });
    return true;
  } catch (const OutOfMemory&) { return false; }
}

// Doubles or halves up to the first change, and then halves the interval.
std::int64_t search(const BatchSizeFinderOptions& o, std::int64_t largest,
                    const std::function<bool(std::int64_t)>& works) {
  std::int64_t low = 0, high = 0;  // the largest that works, and the smallest that does not
  std::int64_t size = std::min(o.init_val, largest);
  for (std::int64_t trial = 0; trial < o.max_trials && low < largest; ++trial) {
    (works(size) ? low : high) = size;
    if (high == 0) size = std::min(2 * low, largest);
    else if (high - low <= 1 || (o.mode == "power" && low > 0)) break;
    else size = (low + high) / 2;
  }
  check(low > 0, "scale_batch_size: not even batches of {} fit into memory", high);
  if (o.mode == "power" || high == 0) return low;
  const double kept = static_cast<double>(low) * (1 - o.margin) * (1 + 1e-12);
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(kept));
}

}  // namespace

BatchSizeFinder::BatchSizeFinder(BatchSizeFinderOptions options) : options_(std::move(options)) {
  const BatchSizeFinderOptions& o = options_;
  const auto check_least = [](const char* name, std::int64_t value) {
    check<ConfigError>(value >= 1, "{}: expected at least 1, got {}", name, value);
  };
  check<ConfigError>(o.mode == "power" || o.mode == "binsearch", "mode: expected power or binsearch, got \"{}\"",
                     o.mode);
  check_least("steps_per_trial", o.steps_per_trial);
  check_least("init_val", o.init_val);
  check_least("max_trials", o.max_trials);
  check_least("max_val", o.max_val);
  check<ConfigError>(o.margin >= 0 && o.margin < 1, "margin: expected from 0 to below 1, got {}", o.margin);
}

void BatchSizeFinder::scale_batch_size(Trainer& trainer, TrainingModule&) {
  TrainerState& s = TrainerState::of(trainer);
  check_before_batches(s, "scale_batch_size");
  check<ConfigError>(s.ranks() == 1, "scale_batch_size: expected one rank, got {}", s.ranks());
  check<ConfigError>(s.train || s.own_run.loaders.size() == 1, "scale_batch_size: expected one loader, got {}",
                     s.own_run.loaders.size());
  check<ConfigError>(loader_of(s).dataset() != nullptr,
                     "scale_batch_size: expected a loader of a dataset, got a stream or combined loaders");
  const std::int64_t largest = std::min(options_.max_val, samples_of(loader_of(s)));
  if (largest == 0 || skips_search(s, "scale_batch_size")) return;
  found_ = search(options_, largest, [&](std::int64_t size) { return fits(s, size, options_.steps_per_trial); });
  s.console.print(format("scale_batch_size: the batch size is {}", found_));
  use(s);
}

// The run goes on with batches of the size that was found.
void BatchSizeFinder::use(TrainerState& s) const {
  if (options_.attr) *options_.attr = found_;
  else if (s.parts.set_batch_size) s.parts.set_batch_size(found_);
  DataLoader loader = loader_of(s).with_batch_size(found_);
  if (!s.train) return set_evaluation_loaders(s, loader);
  set_train_loader(s, std::move(loader));
  for (ActiveOptimizer& active : s.optimizers) active.set_run(run_numbers(s));
}

void BatchSizeFinder::setup(Trainer&, TrainingModule&, Stage) { found_ = 0; }

void BatchSizeFinder::on_fit_start(Trainer& trainer, TrainingModule& module) {
  if (trainer.resumed_from().empty()) scale_batch_size(trainer, module);
  else if (found_ > 0) use(TrainerState::of(trainer));
}
void BatchSizeFinder::on_validation_start(Trainer& trainer, TrainingModule& module) {
  if (trainer.stage() == Stage::validate) scale_batch_size(trainer, module);
}
void BatchSizeFinder::on_test_start(Trainer& trainer, TrainingModule& module) { scale_batch_size(trainer, module); }
void BatchSizeFinder::on_predict_start(Trainer& trainer, TrainingModule& module) { scale_batch_size(trainer, module); }

StateMap BatchSizeFinder::state() const { return found_ > 0 ? StateMap{{"batch_size", found_}} : StateMap{}; }
void BatchSizeFinder::load_state(const StateMap& state) { found_ = std::get<std::int64_t>(state.at("batch_size")); }

}  // namespace v0
}  // namespace anneal
