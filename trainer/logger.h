// Where a run's numbers are written.
#pragma once

#include <concepts>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <string_view>
#include <type_traits>
#include <vector>

#include "anneal/core/tensor.h"
#include "anneal/trainer/hparams.h"
#include "anneal/trainer/metric_map.h"
#include "anneal/trainer/shared.h"

namespace anneal {
inline namespace v0 {

/// Base of loggers. One that throws while it logs is switched off with a warning; the run goes on.
class Logger {
 public:
  virtual ~Logger() = default;
  /// One row: metrics, among them mostly "epoch", at an optimizer step.
  virtual void log_metrics(const MetricMap& metrics, std::int64_t step) = 0;
  /// What the run is made with; more than one call adds up. These four do nothing in a logger that has no place for
  /// them.
  virtual void log_hyperparams(const HParams&) {}
  virtual void log_text(std::string_view /*name*/, std::string_view /*text*/, std::int64_t /*step*/) {}
  /// How a tensor's elements are distributed: any shape, dtype and device.
  virtual void log_histogram(std::string_view /*name*/, const Tensor& /*values*/, std::int64_t /*step*/) {}
  /// [C, H, W] of 1 (grey), 3 (RGB) or 4 (RGBA) channels: u8, or floating from 0 to 1.
  virtual void log_image(std::string_view /*name*/, const Tensor& /*image*/, std::int64_t /*step*/) {}
  /// Rows that were held back are written.
  virtual void save() {}
  /// A ModelCheckpoint has written that file.
  virtual void after_save_checkpoint(const std::filesystem::path&) {}
  /// The end of a run: "success", "interrupted" (by a signal) or "failed".
  virtual void finalize(std::string_view /*status*/) { save(); }
  /// The folder of this run; other files of the run go there too.
  virtual std::filesystem::path log_dir() const = 0;
  /// The run's name in the progress bar: "3" for version_3. Empty: none.
  virtual std::string version_name() const { return {}; }

  /// For checkpoints: a resumed run goes on in the same place, and forgets the rows that came after the checkpoint.
  virtual StateMap state() { return {}; }
  virtual void load_state(const StateMap&) {}
};

/// `true`: a CsvLogger under default_root_dir. `false`: none. Or one logger, or a list of them.
class LoggerOption {
 public:
  template <std::same_as<bool> B>
  LoggerOption(B standard) : standard_(standard) {}
  template <std::derived_from<Logger> L>
  LoggerOption(L logger) : loggers_{Shared<Logger>(std::move(logger))} {}
  template <std::derived_from<Logger> L>
  LoggerOption(std::shared_ptr<L> logger) : loggers_{Shared<Logger>(std::move(logger))} {}
  LoggerOption(std::initializer_list<Shared<Logger>> loggers) : loggers_(loggers) {}

  bool standard() const { return standard_; }
  const std::vector<Shared<Logger>>& loggers() const { return loggers_; }

 private:
  bool standard_ = false;
  std::vector<Shared<Logger>> loggers_;
};

}  // namespace v0
}  // namespace anneal
