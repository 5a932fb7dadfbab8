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
#include "anneal/trainer/log_folder.h"
#include "anneal/trainer/metric_map.h"
#include "anneal/trainer/or_default.h"
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
  /// What that is made of: the folder of all runs, the name of these, and this one's version, "3" for version_3, which
  /// the progress bar shows. Empty: none.
  virtual std::filesystem::path save_dir() const { return {}; }
  virtual std::string name() const { return {}; }
  virtual std::string version() const { return {}; }

  /// For checkpoints: a resumed run goes on in the same place, and forgets the rows that came after the checkpoint.
  virtual StateMap state() { return {}; }
  virtual void load_state(const StateMap&) {}
};

/// Base of those that write to a LogFolder.
class FolderLogger : public Logger {
 public:
  explicit FolderLogger(std::shared_ptr<LogFolder> folder) : folder_(std::move(folder)) {}
  /// For other loggers, which then write there too.
  const std::shared_ptr<LogFolder>& folder() const { return folder_; }
  std::filesystem::path log_dir() const override { return folder_->path(); }
  std::filesystem::path save_dir() const override { return folder_->save_dir(); }
  std::string name() const override { return folder_->name(); }
  std::string version() const override { return folder_->version(); }

 protected:
  std::shared_ptr<LogFolder> folder_;
};

/// `true`: a TensorBoardLogger and a CsvLogger in one folder under default_root_dir. `false`: none. Or one logger, or a
/// list of them.
class LoggerOption {
 public:
  template <std::same_as<bool> B>
  LoggerOption(B standard) : standard_(standard) {}
  LoggerOption(ByDefault, bool standard) : standard_(standard), given_(false) {}
  template <std::derived_from<Logger> L>
  LoggerOption(L logger) : loggers_{Shared<Logger>(std::move(logger))} {}
  template <std::derived_from<Logger> L>
  LoggerOption(std::shared_ptr<L> logger) : loggers_{Shared<Logger>(std::move(logger))} {}
  LoggerOption(std::initializer_list<Shared<Logger>> loggers) : loggers_(loggers) {}

  bool standard() const { return standard_; }
  bool given() const { return given_; }
  const std::vector<Shared<Logger>>& loggers() const { return loggers_; }

 private:
  bool standard_ = false, given_ = true;
  std::vector<Shared<Logger>> loggers_;
};

}  // namespace v0
}  // namespace anneal
