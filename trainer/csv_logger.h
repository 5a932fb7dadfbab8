// Metrics as a table in a text file.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "anneal/trainer/logger.h"

namespace anneal {
inline namespace v0 {

struct CsvLoggerOptions {
  std::filesystem::path save_dir = ".";
  std::string name = "anneal_logs";  ///< empty: no such level
  /// 3 is the folder version_3, a text is the folder's name. Unset: one more than the greatest there is.
  std::optional<std::variant<std::int64_t, std::string>> version = {};
  /// This folder and none below it, instead of the three above.
  std::filesystem::path dir = {};
  std::int64_t flush_logs_every_n_steps = 100;  ///< rows that are held back at most
};

/// Writes `<save_dir>/<name>/version_<k>/metrics.csv`. Columns are all keys so far, sorted, with "step" and "epoch"
/// among them; a new key rewrites the file. Numbers are as short as reading them back exactly allows; missing ones are
/// empty.
class CsvLogger final : public Logger {
 public:
  explicit CsvLogger(CsvLoggerOptions options = {}) : options_(std::move(options)) {}

  void log_metrics(const MetricMap& metrics, std::int64_t step) override;
  void save() override;
  std::filesystem::path log_dir() const override;
  std::string version_name() const override;
  StateMap state() override;
  void load_state(const StateMap& state) override;

 private:
  const std::string& folder() const;
  std::filesystem::path file() const { return log_dir() / "metrics.csv"; }
  void rewrite(const std::vector<std::string>& columns, std::int64_t rows) const;

  CsvLoggerOptions options_;
  mutable std::string folder_;        // version_<k>, once it is decided
  std::vector<std::string> columns_;  // sorted
  std::vector<std::string> held_;     // lines that are not yet in the file
  std::int64_t rows_ = 0;             // in the file
};

}  // namespace v0
}  // namespace anneal
