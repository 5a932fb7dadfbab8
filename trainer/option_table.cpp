#include "anneal/trainer/option_table.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "anneal/core/format.h"

namespace anneal {
inline namespace v0 {
namespace {

// How many letters must be put in, taken out or replaced.
std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i + 1);
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, diagonal + 1, row[j] + 1});
    }
  }
  return row.back();
}

}  // namespace

OptionTable table_of(TrainerOptions& o) {
  return {
      {"accelerator", &o.accelerator, "cpu; gpu or cuda; auto: a GPU if there is one, else the CPU"},
      {"devices", &o.devices, "auto, a number, -1 for all GPUs, or a list of GPUs such as 0,2"},
      {"num_nodes", &o.num_nodes, "machines of the job, from 1 on; a launcher starts their ranks"},
      {"strategy", &o.strategy, "auto, single_device, ddp, ddp_spawn, ddp_fork, ddp_find_unused_parameters_true"},
      {"precision", &o.precision, "64-true, 32-true, 16-true, bf16-true, 16-mixed, bf16-mixed, or 64, 32, 16, bf16"},
      {"grad_scaler", &o.grad_scaler,
       "of 16-mixed: {init_scale, growth_factor, backoff_factor, growth_interval}; null: its defaults"},
      {"use_distributed_sampler", &o.use_distributed_sampler, "each rank gets its share of a loader"},
      {"sync_batchnorm", &o.sync_batchnorm, "refused with several ranks: each has its own batch's statistics"},
      {"failure_timeout", &o.failure_timeout, "seconds after which a silent rank ends the job; 0: never"},
      {"max_epochs", &o.max_epochs, "-1: no limit; null: 1000, or no limit with max_steps or max_time"},
      {"min_epochs", &o.min_epochs, "a request to stop waits for them"},
      {"max_steps", &o.max_steps, "optimizer steps; -1: no limit"},
      {"min_steps", &o.min_steps, "a request to stop waits for them"},
      {"max_time", &o.max_time, "of training: DD:HH:MM:SS, or {days, hours, minutes, seconds}"},
      {"limit_train_batches", &o.limit_train_batches, "1: one batch, 1.0: all, 0.1: a tenth, 0: none"},
      {"limit_val_batches", &o.limit_val_batches, "the same of each validation loader"},
      {"limit_test_batches", &o.limit_test_batches, "the same of each test loader"},
      {"limit_predict_batches", &o.limit_predict_batches, "the same of each loader for predict"},
      {"overfit_batches", &o.overfit_batches, "above 0: trains and validates on the first so many, in the same order"},
      {"fast_dev_run", CountOrBool{&o.fast_dev_run}, "k, or true for 1: k batches of everything, nothing is written"},
      {"val_check_interval", &o.val_check_interval, "in batches, as a share of an epoch, or a time: DD:HH:MM:SS"},
      {"check_val_every_n_epoch", &o.check_val_every_n_epoch, "null: val_check_interval counts across epochs"},
      {"reload_dataloaders_every_n_epochs", &o.reload_dataloaders_every_n_epochs,
       "a DataModule gives new ones; 0: once a run"},
      {"num_sanity_val_steps", &o.num_sanity_val_steps, "validation batches before training; -1: all"},
      {"log_every_n_steps", &o.log_every_n_steps, "rows of step metrics; 0: none"},
      {"accumulate_grad_batches", &o.accumulate_grad_batches, "batches whose gradients make one optimizer step"},
      {"gradient_clip_val", &o.gradient_clip_val, "largest norm of all gradients, or magnitude; null or 0: no limit"},
      {"gradient_clip_algorithm", &o.gradient_clip_algorithm, "norm, value or adaptive"},
      {"gradient_clip_norm_type", &o.gradient_clip_norm_type, "p of the norm; inf: the largest magnitude"},
      {"gradient_clip_group_vals", &o.gradient_clip_group_vals, "a limit for the norm of each parameter group"},
      {"log_grad_norm", &o.log_grad_norm, "of all gradients, before clipping, as grad_norm"},
      {"on_bad_number", &o.on_bad_number,
       "of losses or gradients that are not finite: ignore, error, stop, skip or rollback"},
      {"handle_signals", &o.handle_signals, "SIGINT and SIGTERM end a fit after the batch that runs"},
      {"requeue", &o.requeue, "a Slurm job that gets requeue_signal is saved, run again, and goes on"},
      {"requeue_signal", &o.requeue_signal, "SIGUSR1, SIGUSR2, SIGHUP or SIGTERM"},
      {"detect_anomaly", &o.detect_anomaly, "the first NaN or infinity throws with its op; slow"},
      {"deterministic", &o.deterministic, "true, false or warn; kernels have a fixed order in any case"},
      {"inference_mode", &o.inference_mode, "validate, test and predict record no op, whatever they ask for"},
      {"benchmark", &o.benchmark, "false or null; true on a CPU alone, where there is nothing to try"},
      {"profiler", &o.profiler, "simple, ops or trace; null: none"},
      {"logger", &o.logger, "TensorBoard and CSV files"},
      {"enable_autolog_hparams", &o.enable_autolog_hparams, "loggers get the hparams of module and data"},
      {"enable_checkpointing", &o.enable_checkpointing, "adds a ModelCheckpoint if there is none"},
      {"on_save_error", &o.on_save_error, "of a ModelCheckpoint: throw or warn"},
      {"enable_progress_bar", &o.enable_progress_bar, "adds a ProgressBar if there is none"},
      {"enable_model_summary", &o.enable_model_summary, "adds a ModelSummary if there is none"},
      {"barebones", &o.barebones, "all of these off, for measuring the loop alone"},
      {"default_root_dir", &o.default_root_dir, "where logs and checkpoints go when nothing else says it"},
      {"seed", &o.seed, "of all random numbers of the run; null: a random one"},
  };
}

namespace {

constexpr std::string_view argument = "--trainer.", variable = "ANNEAL_TRAINER_";

TrainerOptions overlaid(TrainerOptions options, std::span<const Setting> settings) {
  const OptionTable table = table_of(options);
  set_options(table, environment_settings(table, variable));
  set_options(table, settings);
  return options;
}

}  // namespace

OptionTable in_section(std::string_view section, OptionTable table) {
  for (Option& option : table) option.name = format("{}.{}", section, option.name);
  return table;
}

Setting read_argument(int argc, const char* const* argv, int& i) {
  const std::string word = argv[i];
  const std::size_t equals = word.find('=');
  const std::string source = word.substr(0, equals), name = source.substr(2);
  if (equals != std::string::npos) return {name, word.substr(equals + 1), false, source};
  const bool has_value = i + 1 < argc && !std::string_view(argv[i + 1]).starts_with("--");
  return {name, has_value ? argv[++i] : "true", false, source};
}

std::string suggestion(std::string_view name, std::span<const std::string> names) {
  const auto near = [&](const std::string& a, const std::string& b) { return distance(name, a) < distance(name, b); };
  const auto best = std::min_element(names.begin(), names.end(), near);
  if (best == names.end() || 2 * distance(name, *best) > std::max(name.size(), best->size())) return {};
  return format("; did you mean {}?", *best);
}

TrainerOptions TrainerOptions::from_json(std::string_view json, TrainerOptions defaults) {
  return overlaid(std::move(defaults), read_settings(json));
}
TrainerOptions TrainerOptions::from_json(std::string_view json) { return from_json(json, {}); }

TrainerOptions TrainerOptions::from_args(int argc, const char* const* argv, TrainerOptions defaults) {
  std::vector<Setting> settings;
  for (int i = 1; i < argc; ++i) {
    if (!std::string_view(argv[i]).starts_with(argument)) continue;
    Setting setting = read_argument(argc, argv, i);
    setting.name.erase(0, argument.size() - 2);
    settings.push_back(std::move(setting));
  }
  return overlaid(std::move(defaults), settings);
}
TrainerOptions TrainerOptions::from_args(int argc, const char* const* argv) { return from_args(argc, argv, {}); }

std::string TrainerOptions::to_json() const {
  TrainerOptions copy = *this;
  return anneal::to_json(table_of(copy));
}

std::string TrainerOptions::help() {
  TrainerOptions defaults;
  return describe(table_of(defaults), argument.substr(2));
}

}  // namespace v0
}  // namespace anneal
