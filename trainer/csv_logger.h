// Metrics as a table in a text file.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "anneal/trainer/logger.h"

namespace anneal {
inline namespace v0 {

struct CsvLoggerOptions {
  std::filesystem::path save_dir = ".";
  std::string name = "anneal_logs";  ///< empty: no such level
  LogVersion version = {};           ///< unset: one more than the greatest there is
  /// This folder and none below it, instead of the three above.
  std::filesystem::path dir = {};
  std::string prefix = {};                      ///< of the columns: "prefix-loss"
  std::int64_t flush_logs_every_n_steps = 100;  ///< rows that are held back at most
};

/// Writes `<save_dir>/<name>/version_<k>/metrics.csv`. Columns are all keys so far, sorted, with "step" and "epoch"
/// among them; a new key rewrites the file. Numbers are as short as reading them back exactly allows; missing ones are
/// empty. Hyper-parameters go to `hparams.json` beside it.
class CsvLogger final : public FolderLogger {
 public:
  explicit CsvLogger(CsvLoggerOptions options = {}) : CsvLogger(options, LogFolder::of(options)) {}
  /// In the folder of another logger.
  CsvLogger(CsvLoggerOptions options, std::shared_ptr<LogFolder> folder)
      : FolderLogger(std::move(folder)), options_(std::move(options)) {}

  void log_metrics(const MetricMap& metrics, std::int64_t step) override;
  void log_hyperparams(const HParams& hparams) override;
  void save() override;
  StateMap state() override;
  void load_state(const StateMap& state) override;

 private:
  std::filesystem::path file() const { return log_dir() / "metrics.csv"; }
  void rewrite(const std::vector<std::string>& columns, std::int64_t rows) const;

  CsvLoggerOptions options_;
  HParams hparams_;
  std::vector<std::string> columns_;  // sorted
  std::vector<std::string> held_;     // lines that are not yet in the file
  std::int64_t rows_ = 0;             // in the file
};

}  // namespace v0
}  // namespace anneal
