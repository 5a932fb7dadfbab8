// A picture of the metrics over the epochs.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "anneal/trainer/callback.h"

namespace anneal {
inline namespace v0 {

struct CurvePlotOptions {
  std::filesystem::path path = {};  ///< default: curves.svg in the Trainer's log_dir
};

/// Draws an SVG picture at the end of each epoch, one panel for each quantity: train_loss, val_loss, train_accuracy and
/// val_accuracy make a panel "loss" and one "accuracy" with two curves each. A metric's value is the newest one, so
/// training metrics are best logged with on_epoch.
class CurvePlot final : public Callback {
 public:
  explicit CurvePlot(CurvePlotOptions options = {}) : options_(std::move(options)) {}

  void setup(Trainer& trainer, TrainingModule& module, Stage stage) override;
  void on_train_epoch_end(Trainer& trainer, TrainingModule& module) override;
  bool monitors() const override { return true; }
  bool rank_zero_only() const override { return true; }
  std::string state_key() const override { return "CurvePlot " + options_.path.string(); }
  StateMap state() const override;
  void load_state(const StateMap& state) override;

  /// By metric, one value for each epoch (NaN: none).
  const std::map<std::string, std::vector<double>>& curves() const { return curves_; }
  /// The picture.
  std::string svg() const;

 private:
  CurvePlotOptions options_;
  std::map<std::string, std::vector<double>> curves_;
};

}  // namespace v0
}  // namespace anneal
