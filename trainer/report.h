// A run on one page.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "anneal/trainer/logger.h"

namespace anneal {
inline namespace v0 {

struct ReportOptions {
  std::filesystem::path save_dir = ".";
  std::string name = "anneal_logs";  ///< empty: no such level
  LogVersion version = {};           ///< unset: one more than the greatest there is
  /// This folder and none below it, instead of the three above.
  std::filesystem::path dir = {};
  std::string title = {};         ///< default: the folder's last two names
  std::int64_t max_points = 500;  ///< of a curve; of a longer one every 2nd, 4th, ... row is drawn
};

/// Writes `<save_dir>/<name>/version_<k>/report.html` when a run ends, also by an exception: the curves, each metric's
/// last, lowest and highest value, the hyper-parameters, and the system. The page needs no other file, no script and no
/// network. A resumed run's report shows all of it.
///
/// (It is a logger, not a callback: loggers get every row, the hyper-parameters and the way a run ended, on rank 0.)
class Report final : public FolderLogger {
 public:
  explicit Report(ReportOptions options = {}) : Report(options, LogFolder::of(options)) {}
  /// In the folder of another logger.
  Report(ReportOptions options, std::shared_ptr<LogFolder> folder);

  void log_metrics(const MetricMap& metrics, std::int64_t step) override;
  void log_hyperparams(const HParams& hparams) override { merge(hparams_, hparams); }
  void save() override {}  // the page is written at the end
  void finalize(std::string_view status) override;
  StateMap state() override;
  void load_state(const StateMap& state) override;

  /// The page.
  std::string html(std::string_view status) const;

 private:
  struct Point {
    double x, y;
  };
  struct Series {
    std::int64_t rows = 0, stride = 1;  // every stride-th row is among the points
    Point last{}, lowest{}, highest{};  // y is NaN as long as there was no other value
    std::vector<Point> points;
  };
  std::string summary() const;
  std::string curves() const;

  ReportOptions options_;
  HParams hparams_;
  std::map<std::string, Series> series_;
  double start_;
};

}  // namespace v0
}  // namespace anneal
