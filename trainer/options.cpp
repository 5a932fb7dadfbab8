#include "anneal/trainer/options.h"

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <initializer_list>

#include "anneal/core/device.h"
#include "anneal/core/error.h"
#include "anneal/core/gpu.h"
#include "anneal/data/data_loader.h"
#include "anneal/trainer/batch_limits.h"
#include "anneal/trainer/model_summary.h"
#include "anneal/trainer/precision.h"
#include "anneal/trainer/slurm_job.h"
#include "anneal/trainer/timer.h"

namespace anneal {
inline namespace v0 {
namespace {

void check_least(std::string_view option, std::int64_t value, std::int64_t least, std::string_view note = "") {
  check<ConfigError>(value >= least, "{}: expected at least {}{}, got {}", option, least, note, value);
}

void check_amount(std::string_view option, Amount& amount) {
  const double value = amount.value();
  check<ConfigError>(value >= 0 && (amount.is_count() || value <= 1 || value == std::floor(value)),
                     "{}: expected a number of batches (an integer from 0 on) or a share (from 0.0 to 1.0), got {}",
                     option, amount);
  if (!amount.is_count() && value > 1) amount = static_cast<std::int64_t>(value);
}

template <class T>
bool has(const TrainerOptions& o) {
  return std::any_of(o.callbacks.begin(), o.callbacks.end(),
                     [](const auto& callback) { return dynamic_cast<const T*>(callback.get()) != nullptr; });
}

void resolve_devices(TrainerOptions& o) {
  const int gpus = device_count(DeviceKind::cuda);
  const std::string_view known = has_gpu ? "auto, cpu, gpu or cuda" : "auto or cpu (this build has no CUDA)";
  const std::string given = o.accelerator;
  if (given == "gpu") o.accelerator = "cuda";
  if (given == "auto") o.accelerator = gpus > 0 ? "cuda" : "cpu";
  check<ConfigError>(o.accelerator == "cpu" || o.accelerator == "cuda", "accelerator: expected {}, got \"{}\"", known,
                     given);
  if (o.accelerator == "cpu") {
    check<ConfigError>(!o.devices.is_all() && o.devices.indices().empty(),
                       "devices: expected auto or a number of ranks on the CPU, got {}", o.devices);
  } else {
    try {
      Device::parse(o.accelerator);
    } catch (const Error& error) {
      throw ConfigError(format("accelerator: expected {}, got {}: {}", known, given, error.what()));
    }
    if (o.devices.is_all()) o.devices = gpus;
    const auto absent = [&](int index) { return index >= gpus; };
    check<ConfigError>(
        o.devices.count() <= gpus && std::none_of(o.devices.indices().begin(), o.devices.indices().end(), absent),
        "devices: this machine has {} GPUs, got {}", gpus, o.devices);
  }
  check_least("num_nodes", o.num_nodes, 1);
}

void resolve_strategy(TrainerOptions& o) {
  const std::string name = o.strategy.name();
  const auto is_one_of = [&](std::initializer_list<std::string_view> names) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  check<ConfigError>(
      !is_one_of({"zero1", "zero2", "fsdp", "deepspeed_stage_1", "deepspeed_stage_2", "deepspeed_stage_3"}),
      "strategy: {} shards over the ranks, which is not in this build; expected auto, single_device or ddp", name);
  check<ConfigError>(
      is_one_of({"auto", "single_device", "ddp", "ddp_spawn", "ddp_fork", "ddp_find_unused_parameters_true"}),
      "strategy: expected one of auto, single_device, ddp, ddp_find_unused_parameters_true, ddp_spawn, "
      "ddp_fork; got \"{}\"",
      name);
  check<ConfigError>(name != "single_device" || (o.devices.count() <= 1 && o.num_nodes == 1),
                     "strategy: expected ddp for {} devices on {} machines, got single_device", o.devices, o.num_nodes);
  if (name.starts_with("ddp_")) o.strategy = "ddp";
}

template <class Kind>
void check_plugins(const TrainerOptions& o, std::string_view kind) {
  const auto count = std::count_if(o.plugins.begin(), o.plugins.end(), [](const auto& plugin) {
    return dynamic_cast<const Kind*>(plugin.get()) != nullptr;
  });
  check<ConfigError>(count <= 1, "plugins: expected at most one {}, got {}", kind, count);
}

void resolve_precision(TrainerOptions& o) {
  for (const Shared<Plugin>& plugin : o.plugins)
    check<ConfigError>(static_cast<bool>(plugin), "plugins: one of them is null");
  check_plugins<PrecisionPlugin>(o, "PrecisionPlugin");
  check_plugins<CheckpointIO>(o, "CheckpointIO");
  check_plugins<ClusterEnvironment>(o, "ClusterEnvironment");
  const std::shared_ptr<PrecisionPlugin> own = plugin_of<PrecisionPlugin>(o);
  check<ConfigError>(!own || !o.precision.given(), "precision: expected none beside a PrecisionPlugin, got {}",
                     o.precision);
  const Precision precision = Precision::parse(o.precision);
  check<ConfigError>((own ? own->scaled() : precision.scaled) || !o.grad_scaler,
                     "grad_scaler: expected with precision 16-mixed alone, got it with {}", o.precision);
  if (o.precision.given()) o.precision = std::string(precision.name);
}

void resolve_repeatability(TrainerOptions& o) {
  const auto* text = std::get_if<std::string>(&o.deterministic);
  check<ConfigError>(!text || *text == "warn", "deterministic: expected true, false or warn, got \"{}\"",
                     text ? *text : "");
  if (text || std::get<bool>(o.deterministic)) o.benchmark = false;
  check<ConfigError>(!o.benchmark.value_or(false) || o.accelerator == "cpu",
                     "benchmark: trials of algorithms are not in this build, which takes the first that gives the same "
                     "bits every time; expected false, got true");
  o.benchmark = false;
}

void resolve_barebones(TrainerOptions& o) {
  if (!o.barebones) return;
  const auto refuse = [](bool contrary, std::string_view option) {
    check<ConfigError>(!contrary, "barebones: not possible with {}", option);
  };
  refuse(o.enable_checkpointing.given() && o.enable_checkpointing, "enable_checkpointing");
  refuse(o.logger.given() && (o.logger.standard() || !o.logger.loggers().empty()), "logger");
  refuse(o.enable_progress_bar.given() && o.enable_progress_bar, "enable_progress_bar");
  refuse(o.enable_model_summary.given() && o.enable_model_summary, "enable_model_summary");
  refuse(o.log_every_n_steps.given() && o.log_every_n_steps != 0, "log_every_n_steps");
  refuse(o.num_sanity_val_steps.given() && o.num_sanity_val_steps != 0, "num_sanity_val_steps");
  refuse(o.fast_dev_run != 0, "fast_dev_run");
  refuse(o.detect_anomaly, "detect_anomaly");
  refuse(o.profiler.given(), "profiler");
  o.enable_checkpointing = o.enable_progress_bar = o.enable_model_summary = false;
  o.logger = false;
  o.log_every_n_steps = o.num_sanity_val_steps = 0;
}

}  // namespace

std::int64_t Amount::of(std::int64_t n) const {
  if (is_count()) return std::min(n, std::get<std::int64_t>(value_));
  if (is_all()) return n;
  // 0.57 of 100 is 57 although the product is a little less.
  return static_cast<std::int64_t>(static_cast<double>(n) * value() * (1 + 1e-9));
}

std::ostream& operator<<(std::ostream& out, const Amount& amount) {
  return out << amount.value() << (amount.is_all() ? ".0" : "");
}

std::int64_t limited_batches(std::string_view option, const Amount& limit, std::int64_t n) {
  check<ConfigError>(n != unknown_size || limit.is_count() || limit.is_all() || limit.value() == 0,
                     "{}: expected a number of batches or 1.0 with a stream, whose size is not known, got {}", option,
                     limit);
  const std::int64_t batches = limit.of(n);
  check<ConfigError>(batches > 0 || limit.value() == 0 || n == 0,
                     "{}: {} of {} batches is less than one; expected 0 or at least {}", option, limit, n,
                     1 / static_cast<double>(n));
  return batches;
}

TrainerOptions resolve(TrainerOptions o) {
  const std::vector<Shared<Callback>> callbacks = o.callbacks;
  for (const Shared<Callback>& callback : callbacks)
    if (callback) callback->configure(o);
  if (const char* text = std::getenv("ANNEAL_LIMIT_BATCHES")) {
    char* end = nullptr;
    const std::int64_t batches = std::strtoll(text, &end, 10);
    check<ConfigError>(end != text && *end == '\0', "ANNEAL_LIMIT_BATCHES: expected a number of batches, got \"{}\"",
                       text);
    LimitBatches(batches).configure(o);
  }
  resolve_devices(o);
  resolve_strategy(o);
  resolve_repeatability(o);
  resolve_barebones(o);
  resolve_precision(o);
  check<ConfigError>(o.failure_timeout >= 0, "failure_timeout: expected at least 0 seconds, got {}", o.failure_timeout);
  if (!o.clock)
    o.clock = [] { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); };
  if (!o.gradient_clip_val) o.gradient_clip_val = 0;
  check<ConfigError>(*o.gradient_clip_val >= 0, "gradient_clip_val: expected at least 0, got {}", *o.gradient_clip_val);
  const std::string algorithm = o.gradient_clip_algorithm;
  for (char& c : o.gradient_clip_algorithm) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  const bool by_norm = o.gradient_clip_algorithm == "norm";
  check<ConfigError>(by_norm || o.gradient_clip_algorithm == "value" || o.gradient_clip_algorithm == "adaptive",
                     "gradient_clip_algorithm: expected norm, value or adaptive, got \"{}\"", algorithm);
  check<ConfigError>(o.gradient_clip_norm_type > 0, "gradient_clip_norm_type: expected above 0, got {}",
                     o.gradient_clip_norm_type);
  for (const double limit : o.gradient_clip_group_vals)
    check<ConfigError>(limit >= 0, "gradient_clip_group_vals: expected at least 0, got {}", limit);
  check<ConfigError>(o.gradient_clip_group_vals.empty() || (by_norm && *o.gradient_clip_val == 0),
                     "gradient_clip_group_vals: expected none beside gradient_clip_val, or with {}",
                     by_norm ? "a limit of all gradients" : o.gradient_clip_algorithm);
  check<ConfigError>(o.default_root_dir.string().find("://") == std::string::npos,
                     "default_root_dir: expected a folder of this machine, got {}", o.default_root_dir.string());
  o.profiler = o.profiler.profiler();
  if (o.max_epochs) check_least("max_epochs", *o.max_epochs, -1, " (-1: no limit)");
  check_least("max_steps", o.max_steps, -1, " (-1: no limit)");
  if (o.min_epochs) check_least("min_epochs", *o.min_epochs, 0);
  if (o.min_steps) check_least("min_steps", *o.min_steps, 0);
  check_least("fast_dev_run", o.fast_dev_run, 0);
  check_amount("limit_train_batches", o.limit_train_batches);
  check_amount("limit_val_batches", o.limit_val_batches);
  check_amount("limit_test_batches", o.limit_test_batches);
  check_amount("limit_predict_batches", o.limit_predict_batches);
  check_amount("overfit_batches", o.overfit_batches);
  check_amount("val_check_interval", o.val_check_interval);
  check<ConfigError>(!o.val_check_interval.time() || o.val_check_interval.time()->seconds() > 0,
                     "val_check_interval: expected a time above 0");
  check<ConfigError>(
      o.val_check_interval.value() > 0,
      "val_check_interval: expected a number of batches from 1 on or a share of an epoch above 0, got {}",
      o.val_check_interval);
  if (o.check_val_every_n_epoch) check_least("check_val_every_n_epoch", *o.check_val_every_n_epoch, 1);
  check<ConfigError>(o.check_val_every_n_epoch || !o.val_check_interval.is_part(),
                     "val_check_interval: expected a number of batches when check_val_every_n_epoch is nullopt, got {}",
                     o.val_check_interval);
  check_least("num_sanity_val_steps", o.num_sanity_val_steps, -1, " (-1: all)");
  check_least("reload_dataloaders_every_n_epochs", o.reload_dataloaders_every_n_epochs, 0, " (0: never)");
  check_least("log_every_n_steps", o.log_every_n_steps, 0);
  check_least("accumulate_grad_batches", o.accumulate_grad_batches, 1);

  requeue_signal_named(o.requeue_signal);
  check<ConfigError>(o.on_save_error == "throw" || o.on_save_error == "warn",
                     "on_save_error: expected throw or warn, got \"{}\"", o.on_save_error);
  constexpr std::string_view policies[] = {"ignore", "error", "stop", "skip", "rollback"};
  check<ConfigError>(std::ranges::find(policies, o.on_bad_number) != std::end(policies),
                     "on_bad_number: expected ignore, error, stop, skip or rollback, got \"{}\"", o.on_bad_number);

  const bool has_time = o.max_time || has<Timer>(o);
  if (!o.max_epochs) o.max_epochs = o.max_steps == -1 && !has_time ? 1000 : -1;
  if (!o.min_epochs) o.min_epochs = o.min_steps ? 1 : 0;
  check<ConfigError>(*o.max_epochs < 0 || *o.min_epochs <= *o.max_epochs,
                     "min_epochs: expected at most max_epochs ({}), got {}", *o.max_epochs, *o.min_epochs);
  if (!o.min_steps) o.min_steps = 0;
  check<ConfigError>(o.max_steps < 0 || *o.min_steps <= o.max_steps,
                     "min_steps: expected at most max_steps ({}), got {}", o.max_steps, *o.min_steps);
  if (const std::int64_t k = o.fast_dev_run) {
    o.limit_train_batches = o.limit_val_batches = o.limit_test_batches = o.limit_predict_batches = k;
    o.max_steps = k;
    o.max_epochs = 1;
    o.min_epochs = o.min_steps = 0;
    o.num_sanity_val_steps = 0;
    o.val_check_interval = 1.0;
    o.check_val_every_n_epoch = 1;
    o.log_every_n_steps = 1;
    o.logger = false;
  }
  if (o.overfit_batches.value() > 0) o.limit_train_batches = o.limit_val_batches = o.overfit_batches;
  return o;
}

std::vector<std::string> notices_of(const TrainerOptions& o) {
  std::vector<std::string> notices;
  if (o.fast_dev_run > 0)
    notices.push_back(
        format("fast_dev_run: {} batches of train, val, test and predict in one epoch with one check; no sanity check, "
               "loggers, checkpoints and early stopping",
               o.fast_dev_run));
  const bool* deterministic = std::get_if<bool>(&o.deterministic);
  if ((!deterministic || *deterministic) && o.benchmark.value_or(false))
    notices.push_back("benchmark: off, as deterministic is on");
  if (o.detect_anomaly) notices.push_back("detect_anomaly: every op's output and gradient is looked at, which is slow");
  if (o.enable_model_summary && has<ModelSummary>(o) && !o.barebones)
    notices.push_back("enable_model_summary: the ModelSummary among the callbacks is used");
  return notices;
}

}  // namespace v0
}  // namespace anneal
