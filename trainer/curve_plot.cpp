#include "anneal/trainer/curve_plot.h"

#include <limits>
#include <numeric>

#include "anneal/trainer/curve_svg.h"
#include "anneal/trainer/log_format.h"
#include "anneal/trainer/trainer.h"

namespace anneal {
inline namespace v0 {

void CurvePlot::setup(Trainer&, TrainingModule&, Stage stage) {
  if (stage == Stage::fit) curves_.clear();
}

void CurvePlot::on_train_epoch_end(Trainer& trainer, TrainingModule&) {
  const auto epoch = static_cast<std::size_t>(trainer.current_epoch());
  const MetricMap& metrics = trainer.callback_metrics();
  for (const auto& [name, value] : metrics) {
    // Of one metric's two names with suffix and the one without, the epoch's.
    const bool is_step = name.ends_with("_step");
    const bool has_epoch = metrics.contains(name + "_epoch");
    if (is_step || has_epoch) continue;
    std::vector<double>& curve = curves_[name];
    curve.resize(epoch + 1, std::numeric_limits<double>::quiet_NaN());
    curve[epoch] = value;
  }
  if (trainer.options().fast_dev_run > 0) return;
  replace_file(options_.path.empty() ? trainer.log_dir() / "curves.svg" : options_.path, svg());
}

std::string CurvePlot::svg() const {
  std::vector<Curve> curves;
  for (const auto& [name, values] : curves_) {
    Curve& curve = curves.emplace_back(Curve{name, std::vector<double>(values.size()), values});
    std::iota(curve.x.begin(), curve.x.end(), 0.0);
  }
  return curves_file(curves, {"epoch"});
}

StateMap CurvePlot::state() const {
  StateMap state;
  for (const auto& [name, values] : curves_) state[name] = values;
  return state;
}
void CurvePlot::load_state(const StateMap& state) {
  for (const auto& [name, values] : state) curves_[name] = std::get<std::vector<double>>(values);
}

}  // namespace v0
}  // namespace anneal
