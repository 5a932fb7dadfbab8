// Metrics as JSON lines.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "anneal/trainer/logger.h"

namespace anneal {
inline namespace v0 {

struct JsonLoggerOptions {
  std::filesystem::path save_dir = ".";
  std::string name = "anneal_logs";  ///< empty: no such level
  LogVersion version = {};           ///< unset: one more than the greatest there is
  /// This folder and none below it, instead of the three above.
  std::filesystem::path dir = {};
  std::string prefix = {};                      ///< of the metrics: "prefix-loss"
  std::int64_t flush_logs_every_n_steps = 100;  ///< rows that are held back at most
};

/// Writes `<save_dir>/<name>/version_<k>/metrics.jsonl`, one object a row:
///
///   {"step":50,"epoch":0,"wall_time":1753000000.123,"loss":0.1,"grad_norm":"nan"}
///
/// Numbers are as short as reading them back exactly allows. Rows are only ever added at the end: after a crash all but
/// the last line are whole, and a torn last line is cut off by the next run that writes there. Hyper-parameters go to
/// `hparams.json` beside it.
class JsonLogger final : public FolderLogger {
 public:
  explicit JsonLogger(JsonLoggerOptions options = {}) : JsonLogger(options, LogFolder::of(options)) {}
  /// In the folder of another logger.
  JsonLogger(JsonLoggerOptions options, std::shared_ptr<LogFolder> folder)
      : FolderLogger(std::move(folder)), options_(std::move(options)) {}

  void log_metrics(const MetricMap& metrics, std::int64_t step) override;
  void log_hyperparams(const HParams& hparams) override;
  void save() override;
  StateMap state() override;
  void load_state(const StateMap& state) override;

 private:
  std::filesystem::path file() const { return log_dir() / "metrics.jsonl"; }
  void find_end();

  JsonLoggerOptions options_;
  HParams hparams_;
  std::string held_;  // lines that are not yet in the file
  std::int64_t held_rows_ = 0;
  std::optional<std::uintmax_t> bytes_;  // of whole lines in the file, once that is known
};

}  // namespace v0
}  // namespace anneal
