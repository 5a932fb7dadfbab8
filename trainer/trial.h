// Parts of a run that leave no trace. Not for users.
#pragma once

#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "anneal/trainer/trainer_state.h"

namespace anneal {
inline namespace v0 {

/// Gives a variable its value back when it goes.
template <class T, class Value = T>
class Restored {
 public:
  explicit Restored(T& variable) : variable_(variable), before_(variable) {}
  // Moved, not copied: who goes through a list while it is away finds its elements where they were.
  Restored(T& variable, Value meanwhile) : variable_(variable), before_(std::move(variable)) {
    variable_ = std::move(meanwhile);
  }
  ~Restored() { variable_ = std::move(before_); }
  Restored(const Restored&) = delete;
  Restored& operator=(const Restored&) = delete;

 private:
  T& variable_;
  Value before_;
};

/// While it lives, the Trainer has no callbacks, loggers and checks, its counts begin anew, and it stops by max_epochs
/// and max_steps alone. All that is the Trainer's own is then as before: optimizers and the module are not.
class Aside {
 public:
  explicit Aside(TrainerState& state);
  ~Aside() { state_.log.load_state(metrics_); }
  Aside(const Aside&) = delete;
  Aside& operator=(const Aside&) = delete;

 private:
  TrainerState& state_;
  MetricLog::State metrics_;
  Restored<TrainerOptions> options_;
  Restored<Counters> counters_;
  Restored<Generator> generator_;
  Restored<Stage> stage_;
  Restored<std::vector<Shared<Callback>>> callbacks_, quiet_callbacks_;
  Restored<std::vector<Shared<Logger>>> loggers_;
  Restored<std::shared_ptr<Profiler>> profiler_;
  Restored<LimitedLoaders> val_;
  Restored<std::optional<BatchIterator>> batches_;
  Restored<StateMap> stream_;
  Restored<std::int64_t> train_batches_;
  Restored<std::filesystem::path> resumed_from_;
  Restored<std::atomic<bool>, bool> stop_requested_;
  Restored<bool> stop_agreed_;
  Restored<int> skips_in_a_row_;
};

/// Calls f within a run and undoes it: the module's weights, gradients and modes, optimizers, and what Aside keeps are
/// then as before to the bit, also if f throws. Schedules do not move meanwhile. Free memory of the device is given
/// back to the system.
void try_out(TrainerState& state, const std::function<void()>& f);

/// Throws Error where the run has begun with the batches of an epoch.
void check_before_batches(const TrainerState& state, const char* what);
/// Whether fast_dev_run makes a search superfluous, which it then says.
bool skips_search(TrainerState& state, const char* what);

}  // namespace v0
}  // namespace anneal
