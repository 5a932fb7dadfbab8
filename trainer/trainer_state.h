// What the parts of a Trainer share. Not for users.
#pragma once

#include <atomic>
#include <filesystem>
#include <optional>
#include <utility>
#include <vector>

#include "anneal/optim/schedule.h"
#include "anneal/trainer/console.h"
#include "anneal/trainer/counters.h"
#include "anneal/trainer/metric_log.h"
#include "anneal/trainer/trainer.h"

namespace anneal {
inline namespace v0 {

struct TrainerState {
  TrainerState(Trainer& trainer, TrainerOptions options);

  Trainer& trainer;
  const TrainerOptions options;
  Console console;
  std::vector<Shared<Callback>> callbacks;
  std::vector<Shared<Logger>> loggers;
  std::uint64_t seed;

  MetricLog log;
  Counters counters;
  Generator generator;
  std::atomic<bool> stop_requested = false;
  Stage stage = Stage::fit;

  // Of the run.
  TrainingModule* module = nullptr;
  OptimizerConfig optimizer;
  std::vector<double> base_lr;
  std::optional<optim::LRScheduler> scheduler;
  const DataLoader* train = nullptr;
  const DataLoader* val = nullptr;
  std::int64_t train_batches = 0, val_batches = 0, test_batches = 0;
  std::filesystem::path resumed_from;

  /// While it lives, a hook is running.
  class At {
   public:
    At(TrainerState& state, HookPoint point) : state_(state), before_(state.log.enter(point)) {}
    ~At() { state_.log.enter(before_); }
    At(const At&) = delete;
    At& operator=(const At&) = delete;

   private:
    TrainerState& state_;
    HookPoint before_;
  };

  /// One hook: of the callbacks, then of the module.
  template <class... P, class... A>
  void call(HookPoint point, void (Callback::*of_callback)(Trainer&, TrainingModule&, P...),
            void (TrainingModule::*of_module)(P...), A&&... args) {
    call_callbacks(point, of_callback, args...);
    call_module(point, of_module, args...);
  }
  template <class... P, class... A>
  void call_callbacks(HookPoint point, void (Callback::*hook)(Trainer&, TrainingModule&, P...), A&&... args) {
    const At at(*this, point);
    for (const Shared<Callback>& callback : callbacks) ((*callback).*hook)(trainer, *module, args...);
  }
  template <class R, class... P, class... A>
  R call_module(HookPoint point, R (TrainingModule::*hook)(P...), A&&... args) {
    const At at(*this, point);
    return (module->*hook)(std::forward<A>(args)...);
  }

  /// Makes the module part of the run, or of none.
  void attach(TrainingModule* to);
  /// Hands a row to the loggers; an empty one is none.
  void write_row(MetricMap row, std::int64_t x, bool with_epoch = true);
  void save_loggers();
};

}  // namespace v0
}  // namespace anneal
