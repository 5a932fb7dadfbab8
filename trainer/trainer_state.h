// What the parts of a Trainer share. Not for users.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <functional>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "anneal/dist/world.h"
#include "anneal/trainer/action_names.h"
#include "anneal/trainer/active_optimizer.h"
#include "anneal/trainer/console.h"
#include "anneal/trainer/counters.h"
#include "anneal/trainer/metric_log.h"
#include "anneal/trainer/module_parts.h"
#include "anneal/trainer/precision.h"
#include "anneal/trainer/signals.h"
#include "anneal/trainer/slurm_job.h"
#include "anneal/trainer/trainer.h"

namespace anneal {
inline namespace v0 {

struct TrainerState {
  TrainerState(Trainer& trainer, TrainerOptions options);
  static TrainerState& of(Trainer& trainer) { return *trainer.state_; }

  Trainer& trainer;
  TrainerOptions options;
  const Precision precision;
  const std::shared_ptr<CheckpointIO> checkpoint_io;
  const std::shared_ptr<dist::World> world;  ///< null: this process is alone
  const Device device;
  const std::optional<SlurmJob> job;  ///< that is run again when it is preempted
  Console console;
  std::vector<Shared<Callback>> callbacks;
  std::vector<Shared<Callback>> quiet_callbacks;  ///< those that only rank 0 calls, on other ranks
  std::vector<Shared<Logger>> loggers;
  std::shared_ptr<Profiler> profiler;  ///< null: none
  ActionNames action_names;
  std::uint64_t seed;

  MetricLog log;
  Counters counters;
  Generator generator;
  std::atomic<bool> stop_requested = false;
  Stage stage = Stage::fit;
  RunStatus status = RunStatus::none;

  // Of the run.
  TrainingModule* module = nullptr;
  DataModule* data = nullptr;
  ModuleParts parts;
  std::int64_t loaded_at = 0;  ///< the epoch in which the loaders were asked for
  bool automatic = true;       ///< the module's automatic_optimization()
  std::vector<ActiveOptimizer> optimizers;
  std::optional<optim::GradScaler> scaler;
  std::optional<optim::GradScaler> guard;  ///< scales by 1, to skip steps with gradients that are not finite
  int skips_in_a_row = 0;                  ///< of steps, by the scaler
  std::int64_t bad_windows = 0, bad_in_a_row = 0;
  bool ends_on_bad_number = false;
  /// Batches to pass over, counted from the beginning of training; and one before which training shall be again, by way
  /// of a checkpoint, once the running batch ends.
  std::set<std::int64_t> dropped;
  std::optional<std::int64_t> return_before;
  std::string message;                            ///< of why training ends
  double batch_share = 1;                         ///< of the running batch: this rank's
  bool manual_step = false, manual_skip = false;  ///< what the running training_step's optimizers did
  bool toggled = false;
  bool check_follows = false;    ///< after this batch
  bool check_broke_off = false;  ///< the latest one
  bool stop_agreed = false;      ///< by all ranks
  const SignalScope* signals = nullptr;
  int signal = 0;                    ///< that ends the run, by all ranks' agreement
  TrainingModule* fitted = nullptr;  ///< by the last fit
  ModuleParts fitted_parts;
  std::unique_ptr<DataModule> fitted_data;      ///< what is left of its data, if it ended without an error
  std::chrono::steady_clock::time_point began;  ///< the fit, as if it had never been broken off
  std::optional<double> lasted;                 ///< its time(), once it has ended
  std::optional<DataLoader> train;
  std::optional<BatchIterator> batches;  ///< the pass over it in the running epoch
  StateMap stream;                       ///< from which the pass of an epoch that was broken off goes on
  LimitedLoaders val;
  std::int64_t intermediate_batches = unknown_size;  ///< of these, at most, in checks that do not end an epoch
  LimitedLoaders own_run;                            ///< of validate, test or predict
  std::int64_t train_batches = 0;
  std::filesystem::path resumed_from;

  /// Seconds of the fit, with what it was resumed from.
  double time() const;
  int rank() const { return world ? world->rank() : 0; }
  int ranks() const { return world ? world->size() : 1; }
  /// Whether training is to end: with several ranks only what all of them know of.
  bool should_stop() const { return world ? stop_agreed : stop_requested.load(); }
  /// Whether it is so on any rank; they all call it.
  bool any_rank(bool here) const;
  /// Numbers that are to be rank 0's; all ranks call it.
  void take_from_rank_zero(std::span<double> numbers) const;
  /// What this rank wants: a stop, an end by SIGINT, by SIGTERM, its job run again; 1 for each.
  std::array<double, 4> end_requests() const;
  /// Takes note of the sums of these over the ranks.
  void take_end_requests(std::span<const double, 4> requests);
  /// Makes what one rank asked for known to all; they all call it.
  void agree_on_end();

  /// The text of each rank, or that of rank 0, on all ranks; they all call it. Without other ranks, the text.
  std::vector<std::string> from_all_ranks(const std::string& name, const std::string& text) const;
  std::string from_rank_zero(const std::string& name, const std::string& text) const {
    return from_all_ranks(name, text)[0];
  }

  /// This rank's share of a loader, or all of it.
  DataLoader share_of(const DataLoader& loader) const;
  /// How many of its batches are used. Combined loaders are limited one by one, before they are combined.
  std::int64_t limit(DataLoader& loader, std::string_view option, const Amount& amount) const;
  /// Those shares, and how many batches of each are used.
  LimitedLoaders limited(const LoaderSet& set, std::string_view option, const Amount& limit) const;
  /// Seconds of the clock that checks go by.
  double now() const { return options.clock(); }
  /// Of the validation loaders, what the sanity check takes.
  LimitedLoaders sanity_loaders() const;
  /// What a batch of the train loader counts for in the gradients of all ranks: 1 on one rank, 0 if it is empty, which
  /// is worth a warning if no other rank has a part of it.
  double weight_of(const Batch& batch) const;
  /// What sums the gradients of automatic optimization over the ranks; null on one rank. They all call it.
  dist::Reducer* reducer() {
    return world && automatic && !optimizers.empty() ? &optimizers[0].reducer(world->group()) : nullptr;
  }
  /// The loss times a factor, and times the loss scale, run backward with its hooks.
  void backward(const Tensor& loss, double factor);
  /// Training ends after this batch or check; the first reason counts.
  void end_on_bad_number(const std::string& why);
  /// A step whose gradients were not finite moves nothing but the scale; a hundred in a row are an Error.
  void count_skipped_step();
  /// A training step's or an evaluation's ops are cast while it lives.
  Autocast autocast() const { return Autocast(precision.autocast ? precision.autocast : autocast_dtype()); }
  /// Of several ranks, each draws its own random numbers, in each batch from a stream of its own: a checkpoint needs to
  /// know of none of them.
  void seed_batch();
  /// Puts the module where it is trained, in the precision's dtype.
  void place_module();
  /// Brings a batch there, with the module's hooks.
  void transfer(Batch& batch);

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

  /// A hook of a callback, or of the module, as an action of the profiler.
  template <class Owner, class R, class Base, class... P, class... A>
  R call_one(Owner& owner, HookPoint point, R (Base::*hook)(P...), A&&... args) {
    const ProfiledAction action(profiler.get(), profiler ? action_names.of(owner, point) : std::string_view());
    return (owner.*hook)(std::forward<A>(args)...);
  }

  /// One hook: of the callbacks, then of the module.
  template <class... P, class... A>
  void call(HookPoint point, void (Callback::*of_callback)(Trainer&, TrainingModule&, P...),
            void (TrainingModule::*of_module)(P...), A&&... args) {
    const At at(*this, point);
    for (const Shared<Callback>& callback : callbacks)
      call_one(*callback, point, of_callback, trainer, *module, args...);
    call_one(*module, point, of_module, args...);
  }
  template <class... P, class... A>
  void call_callbacks(HookPoint point, void (Callback::*hook)(Trainer&, TrainingModule&, P...), A&&... args) {
    const At at(*this, point);
    for (const Shared<Callback>& callback : callbacks) call_one(*callback, point, hook, trainer, *module, args...);
  }
  template <class R, class... P, class... A>
  R call_module(HookPoint point, R (TrainingModule::*hook)(P...), A&&... args) {
    const At at(*this, point);
    return call_one(*module, point, hook, std::forward<A>(args)...);
  }

  /// Makes the module and the DataModule part of the run, or of none.
  void attach(TrainingModule* to, DataModule* with);
  /// Their hooks, on one rank of each machine, while the others wait.
  void prepare_data();
  /// Hands a row to the loggers; an empty one is none.
  void write_row(MetricMap row, std::int64_t x, bool with_epoch = true);
  void save_loggers();
  /// One that throws is switched off.
  void call_loggers(const std::function<void(Logger&)>& call);
};

}  // namespace v0
}  // namespace anneal
