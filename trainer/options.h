// How a Trainer runs.
#pragma once

#include <concepts>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "anneal/optim/grad_scaler.h"
#include "anneal/trainer/callback.h"
#include "anneal/trainer/devices.h"
#include "anneal/trainer/duration.h"
#include "anneal/trainer/logger.h"
#include "anneal/trainer/or_default.h"
#include "anneal/trainer/plugin.h"
#include "anneal/trainer/precision_name.h"
#include "anneal/trainer/profiler.h"
#include "anneal/trainer/strategy.h"

namespace anneal {
inline namespace v0 {

/// A number of batches, or a share of them, by the type it is made from: `1` is one batch, `1.0` is all of them.
class Amount {
 public:
  template <std::integral T>
  requires(!std::same_as<T, bool>) Amount(T count) : value_(static_cast<std::int64_t>(count)) {}
  Amount(double fraction) : value_(fraction) {}

  bool is_count() const { return std::holds_alternative<std::int64_t>(value_); }
  /// As a number, whichever it is.
  double value() const {
    return is_count() ? static_cast<double>(std::get<std::int64_t>(value_)) : std::get<double>(value_);
  }
  bool is_all() const { return !is_count() && value() == 1; }
  /// What it comes to of `n` batches, never more than n: a share is rounded down.
  std::int64_t of(std::int64_t n) const;

  friend std::ostream& operator<<(std::ostream& out, const Amount& amount);

 private:
  std::variant<std::int64_t, double> value_;
};

/// When checks are due: after an Amount of an epoch's batches, or after the first batch that ends a time after the last
/// check: `10min`, "00:00:10:00".
class CheckInterval : public Amount {
 public:
  using Amount::Amount;
  explicit CheckInterval(Amount amount) : Amount(amount) {}
  CheckInterval(Duration time) : Amount(1.0), time_(time) {}
  template <class Rep, class Period>
  CheckInterval(std::chrono::duration<Rep, Period> time) : CheckInterval(Duration(time)) {}
  template <std::convertible_to<std::string_view> Text>
  CheckInterval(const Text& text) : CheckInterval(Duration(text)) {}

  const std::optional<Duration>& time() const { return time_; }
  bool is_all() const { return !time_ && Amount::is_all(); }
  /// A share of an epoch that is not all of it.
  bool is_part() const { return !time_ && !is_count() && !is_all(); }

 private:
  std::optional<Duration> time_;
};

/// `Trainer trainer({.max_epochs = 5, .log_every_n_steps = 10});` From outside of the program: option_table.h.
struct TrainerOptions {
  std::string accelerator = "auto";  ///< cpu; gpu or cuda; auto: a GPU if there is one, else the CPU
  Devices devices = "auto";  ///< ranks on this machine, one for each GPU; auto: those that a launcher started, else 1
  OrDefault<std::int64_t> num_nodes{by_default, 1};  ///< machines, on each of which a launcher has started that many
  /// auto; single_device; ddp, which on one rank is the same; ddp_spawn, ddp_fork and ddp_find_unused_parameters_true
  /// are ddp, which needs no word for unused parameters.
  StrategyOption strategy = "auto";
  /// 32-true (tensors as they are), 64-true, 16-true, bf16-true (tensors converted), 16-mixed, bf16-mixed (autocast.h).
  /// 64, 32, 16 and bf16 are short for 64-true, 32-true, 16-mixed and bf16-mixed.
  PrecisionName precision{by_default, "32-true"};
  std::optional<optim::GradScalerOptions> grad_scaler = {};  ///< of 16-mixed, which scales the loss in any case
  bool use_distributed_sampler = true;  ///< each rank gets its share of a loader (DataLoader::shard)
  bool sync_batchnorm = false;          ///< refused with several ranks: each has its own batch's statistics
  double failure_timeout = 10;          ///< seconds after which a silent rank ends the job; 0: never

  std::optional<std::int64_t> max_epochs = {};  ///< -1: no limit. Unset: 1000, or no limit with max_steps or a Timer
  std::optional<std::int64_t> min_epochs = {};  ///< a request to stop waits for them
  std::int64_t max_steps = -1;                  ///< optimizer steps; -1: no limit
  std::optional<std::int64_t> min_steps = {};
  std::optional<Duration> max_time = {};  ///< of training: adds a Timer, unless there is one among the callbacks

  Amount limit_train_batches = 1.0;
  Amount limit_val_batches = 1.0;  ///< 0: no validation at all
  Amount limit_test_batches = 1.0;
  Amount limit_predict_batches = 1.0;
  Amount overfit_batches = 0.0;   ///< above 0: trains and validates on the first so many batches, in the same order
  std::int64_t fast_dev_run = 0;  ///< k (or true for 1): k batches of everything, and nothing is written

  CheckInterval val_check_interval = 1.0;                       ///< in batches, as a share of an epoch, or a time
  std::optional<std::int64_t> check_val_every_n_epoch = 1;      ///< nullopt: val_check_interval counts across epochs
  std::int64_t reload_dataloaders_every_n_epochs = 0;           ///< n: a DataModule gives new ones; 0: one set a run
  OrDefault<std::int64_t> num_sanity_val_steps{by_default, 2};  ///< validation batches before training; -1: all
  OrDefault<std::int64_t> log_every_n_steps{by_default, 50};    ///< rows of step metrics; 0: none
  std::int64_t accumulate_grad_batches = 1;                     ///< batches whose gradients make one optimizer step
  std::optional<double> gradient_clip_val = {};  ///< largest norm of all gradients, or magnitude. Unset or 0: no limit
  /// norm or value, in any case; or adaptive: a norm for each row of a weight, as a share of its own (optim/clip.h).
  std::string gradient_clip_algorithm = "norm";
  double gradient_clip_norm_type = 2;                 ///< p of the norm; infinity: the largest magnitude
  std::vector<double> gradient_clip_group_vals = {};  ///< a limit for the norm of each parameter group, and none of all
  /// Of all gradients, before clipping, but after what is adaptive or by group, as "grad_norm".
  bool log_grad_norm = false;
  bool detect_anomaly = false;  ///< the first NaN or infinity throws with its op. Slow
  /// Of a loss, or of gradients, that are not finite; each batch's are waited for, unless it is "ignore".
  /// "error": an Error names the batch before they change a weight. "stop": training ends there. "skip": their
  /// accumulation window is dropped, at most ten in a row. "rollback": the same, and all goes on from the newest
  /// checkpoint, from each one once.
  std::string on_bad_number = "ignore";
  /// SIGINT and SIGTERM end a fit after the batch that runs, with `last` written if there is a ModelCheckpoint; a
  /// second one has its usual effect. Of several ranks any one's counts. False: signals do what they do.
  bool handle_signals = false;
  /// In a batch job of Slurm a signal (`sbatch --signal`) writes preempt-<job>.safetensors to default_root_dir and has
  /// Slurm run the job again; its next fit without `resume` goes on from there. A handler of one's own is left alone.
  bool requeue = true;
  std::string requeue_signal = "SIGUSR1";  ///< or SIGUSR2, SIGHUP, SIGTERM
  /// true or "warn" change nothing: every kernel has a fixed order, so that a run repeats to the bit on its device.
  std::variant<bool, std::string> deterministic = false;
  bool inference_mode = true;          ///< validate, test and predict record no op even where a GradMode asks for it
  std::optional<bool> benchmark = {};  ///< true, trials of algorithms, is refused on a GPU; a CPU has none to choose
  ProfilerOption profiler = {};        ///< simple, ops, trace, or an object: where the time goes

  LoggerOption logger{by_default, true};
  bool enable_autolog_hparams = true;  ///< beside the seed, loggers get the hparams() of module and DataModule
  std::vector<Shared<Callback>> callbacks = {};
  std::vector<Shared<Plugin>> plugins = {};                ///< at most one of each kind: plugin.h
  OrDefault<bool> enable_checkpointing{by_default, true};  ///< adds a ModelCheckpoint if none is given
  std::string on_save_error = "throw";  ///< "warn": a ModelCheckpoint that cannot write does not end the run
  OrDefault<bool> enable_progress_bar{by_default, true};   ///< adds a ProgressBar if none is given
  OrDefault<bool> enable_model_summary{by_default, true};  ///< adds a ModelSummary if none is given
  /// For measuring the loop alone: all of these, the sanity check and rows are off, and `log` does nothing.
  bool barebones = false;
  std::filesystem::path default_root_dir = ".";  ///< where logs and checkpoints go when nothing else says it
  std::optional<std::uint64_t> seed = {};  ///< of all random numbers of the run. Unset: a random one, which is printed
  std::function<void(std::string_view)> sink = {};  ///< takes all text output; default: stderr
  std::function<double()> clock = {};  ///< seconds, for val_check_interval as a time and Timer; default: steady

  /// From `{"max_epochs": 5}`, or from `--trainer.max_epochs 5` (or `=5`) among a program's arguments. What these leave
  /// open is that of variables such as ANNEAL_TRAINER_MAX_EPOCHS, else that of `defaults`. Throws ConfigError for a
  /// name that there is not, with the nearest one, and for a value of another type.
  static TrainerOptions from_json(std::string_view json, TrainerOptions defaults);
  static TrainerOptions from_json(std::string_view json);
  static TrainerOptions from_args(int argc, const char* const* argv, TrainerOptions defaults);
  static TrainerOptions from_args(int argc, const char* const* argv);
  /// All that a text can say, for from_json.
  std::string to_json() const;
  /// The options of the command line: a list for --help.
  static std::string help();
};

/// Throws ConfigError for a value that is not permitted; fills in what is unset or follows from others.
TrainerOptions resolve(TrainerOptions options);
/// The plugin of a kind, or null.
template <class Kind>
std::shared_ptr<Kind> plugin_of(const TrainerOptions& options) {
  for (const Shared<Plugin>& plugin : options.plugins)
    if (auto found = std::dynamic_pointer_cast<Kind>(plugin)) return found;
  return nullptr;
}
/// What a user should be told of options that change others.
std::vector<std::string> notices_of(const TrainerOptions& options);
/// `limit.of(n)`. Throws ConfigError when a share that is not 0 comes to no batch, or is a part of unknown_size.
std::int64_t limited_batches(std::string_view option, const Amount& limit, std::int64_t n);

}  // namespace v0
}  // namespace anneal
