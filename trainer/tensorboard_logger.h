// Metrics, texts, histograms and images for TensorBoard.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "anneal/trainer/event_file.h"
#include "anneal/trainer/logger.h"

namespace anneal {
inline namespace v0 {

class ProtoMessage;

struct TensorBoardLoggerOptions {
  std::filesystem::path save_dir = ".";
  std::string name = "anneal_logs";  ///< empty: no such level
  LogVersion version = {};           ///< unset: one more than the greatest there is
  /// This folder instead of the three above.
  std::filesystem::path dir = {};
  std::string sub_dir = {};  ///< one more level below these
  std::string prefix = {};   ///< of the metrics: "prefix-loss"
  bool default_hp_metric =
      true;                     ///< hyper-parameters come with a metric "hp_metric" of -1, under which runs are listed
  std::int64_t max_queue = 10;  ///< events that are held back at most
  double flush_secs = 120;      ///< ... and for how long, when another one comes
};

/// Writes event files to `<save_dir>/<name>/version_<k>/<sub_dir>`; `tensorboard --logdir <save_dir>` shows them, also
/// while they are written. A resumed run adds another file, in whose light TensorBoard drops the events that came after
/// the checkpoint. Numbers are stored as float.
class TensorBoardLogger final : public FolderLogger {
 public:
  explicit TensorBoardLogger(TensorBoardLoggerOptions options = {})
      : TensorBoardLogger(options, LogFolder::of(options)) {}
  /// In the folder of another logger.
  TensorBoardLogger(TensorBoardLoggerOptions options, std::shared_ptr<LogFolder> folder)
      : FolderLogger(std::move(folder)), options_(std::move(options)) {}

  void log_metrics(const MetricMap& metrics, std::int64_t step) override;
  /// For the tab HPARAMS, which shows those that come before anything else; lists are shown as text.
  void log_hyperparams(const HParams& hparams) override;
  /// Markdown.
  void log_text(std::string_view name, std::string_view text, std::int64_t step) override;
  /// 64 bins of equal width; values that are not finite are left out.
  void log_histogram(std::string_view name, const Tensor& values, std::int64_t step) override;
  /// Throws Error for another shape or dtype.
  void log_image(std::string_view name, const Tensor& image, std::int64_t step) override;
  void save() override;
  void finalize(std::string_view status) override;
  std::filesystem::path log_dir() const override {
    return options_.sub_dir.empty() ? folder_->path() : folder_->path() / options_.sub_dir;
  }
  StateMap state() override;
  void load_state(const StateMap& state) override;

 private:
  void write(std::int64_t step, const ProtoMessage& summary);
  void write_event(std::int64_t step, int field, const ProtoMessage& content);
  void write_hparams();
  void open();

  TensorBoardLoggerOptions options_;
  std::optional<EventFile> file_;  // once there is something to write
  std::chrono::steady_clock::time_point flushed_;
  HParams hparams_;
  bool hparams_due_ = false;
  std::int64_t last_step_ = -1;  // the greatest
  bool resumed_ = false;
};

}  // namespace v0
}  // namespace anneal
