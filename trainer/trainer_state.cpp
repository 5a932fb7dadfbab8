#include "anneal/trainer/trainer_state.h"

#include <random>

namespace anneal {
inline namespace v0 {
namespace {

std::uint64_t random_seed() {
  std::random_device device;
  return (std::uint64_t{device()} << 32) | device();
}

}  // namespace

TrainerState::TrainerState(Trainer& of, TrainerOptions given)
    : trainer(of),
      options(resolve(std::move(given))),
      console(options.sink),
      seed(options.seed ? *options.seed : random_seed()),
      log([this](const std::string& text) { console.warn(text); }),
      generator(seed) {}

void TrainerState::attach(TrainingModule* to) {
  if (module) module->trainer_ = nullptr;
  module = to;
  if (module) module->trainer_ = &trainer;
}

void TrainerState::write_row(MetricMap row, std::int64_t x, bool with_epoch) {
  if (row.empty()) return;
  if (const double* step = row.find("step")) x = static_cast<std::int64_t>(*step);
  if (with_epoch && !row.contains("epoch")) row.set("epoch", static_cast<double>(counters.epoch.completed));
  std::erase_if(loggers, [&](const Shared<Logger>& logger) {
    try {
      logger->log_metrics(row, x);
      return false;
    } catch (const std::exception& error) {
      console.warn(std::string("a logger failed and is switched off: ") + error.what());
      return true;
    }
  });
}

void TrainerState::save_loggers() {
  for (const Shared<Logger>& logger : loggers) try {
      logger->save();
    } catch (const std::exception& error) { console.warn(std::string("a logger failed: ") + error.what()); }
}

}  // namespace v0
}  // namespace anneal
