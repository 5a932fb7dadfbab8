#include "anneal/trainer/options.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "anneal/core/device.h"
#include "anneal/core/error.h"
#include "anneal/data/data_loader.h"
#include "anneal/trainer/batch_limits.h"
#include "anneal/trainer/precision.h"
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
  check<ConfigError>(
      o.accelerator == "auto" || o.accelerator == "cpu" || o.accelerator == "gpu" || o.accelerator == "cuda",
      "accelerator: expected auto, cpu, gpu or cuda, got \"{}\"", o.accelerator);
  if (o.accelerator == "gpu") o.accelerator = "cuda";
  if (o.accelerator == "auto") o.accelerator = device_count(DeviceKind::cuda) > 0 ? "cuda" : "cpu";
  Device::parse(o.accelerator);
  check_least("devices", o.devices, 0, " (0: what a launcher says, else 1)");
  if (o.accelerator == "cuda")
    check<ConfigError>(o.devices <= device_count(DeviceKind::cuda), "devices: this machine has {} GPUs, got {}",
                       device_count(DeviceKind::cuda), o.devices);
  check<ConfigError>(Precision::parse(o.precision).scaled || !o.grad_scaler,
                     "grad_scaler: expected with precision 16-mixed alone, got it with {}", o.precision);
  check<ConfigError>(o.failure_timeout >= 0, "failure_timeout: expected at least 0 seconds, got {}", o.failure_timeout);
  check<ConfigError>(o.gradient_clip_val >= 0, "gradient_clip_val: expected at least 0, got {}", o.gradient_clip_val);
  check<ConfigError>(o.gradient_clip_algorithm == "norm" || o.gradient_clip_algorithm == "value",
                     "gradient_clip_algorithm: expected norm or value, got \"{}\"", o.gradient_clip_algorithm);
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

  check<ConfigError>(o.on_save_error == "throw" || o.on_save_error == "warn",
                     "on_save_error: expected throw or warn, got \"{}\"", o.on_save_error);
  constexpr std::string_view policies[] = {"ignore", "stop", "skip", "rollback"};
  check<ConfigError>(std::ranges::find(policies, o.on_bad_number) != std::end(policies),
                     "on_bad_number: expected ignore, stop, skip or rollback, got \"{}\"", o.on_bad_number);

  const bool has_time = o.max_time || std::any_of(o.callbacks.begin(), o.callbacks.end(), [](const auto& callback) {
                          return dynamic_cast<const Timer*>(callback.get()) != nullptr;
                        });
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

}  // namespace v0
}  // namespace anneal
