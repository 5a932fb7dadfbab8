#include "anneal/trainer/curve_plot.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <limits>

#include "anneal/core/error.h"
#include "anneal/trainer/trainer.h"

namespace anneal {
inline namespace v0 {
namespace {

namespace fs = std::filesystem;

// A panel's plot area lies within these, in pixels.
constexpr double panel_width = 460, panel_height = 320, left = 64, right = 16, top = 40, bottom = 48;
constexpr const char* colours[] = {"#1f6fb4", "#d9541e", "#2b8a3e", "#8a3fa0", "#a06a00", "#007f7f"};

struct Curve {
  std::string name;
  const std::vector<double>* values;
};

std::string number(double value, const char* pattern = "%.1f") {
  char text[32];
  std::snprintf(text, sizeof text, pattern, value);
  return text;
}

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '<') out += "&lt;";
    else if (c == '>') out += "&gt;";
    else if (c == '&') out += "&amp;";
    else if (c == '"') out += "&quot;";
    else out += c;
  }
  return out;
}

// "train_loss", "val_loss" and "loss_epoch" are curves of "loss".
std::string quantity(std::string name) {
  for (const std::string_view prefix : {"train_", "val_", "train/", "val/"})
    if (name.starts_with(prefix) && name.size() > prefix.size()) {
      name.erase(0, prefix.size());
      break;
    }
  if (name.ends_with("_epoch") && name.size() > 6) name.resize(name.size() - 6);
  return name;
}

// Round numbers that divide a range into about `parts`.
struct Ticks {
  double first, step;
  int count;
};
Ticks ticks(double low, double high, int parts, double least_step) {
  const double rough = std::max((high - low) / parts, least_step);
  const double power = std::pow(10, std::floor(std::log10(rough)));
  double step = 10 * power;
  for (const double factor : {5.0, 2.0, 1.0})
    if (factor * power >= rough * (1 - 1e-9)) step = factor * power;
  step = std::max(step, least_step);
  const double first = std::ceil(low / step - 1e-9) * step;
  return {first, step, static_cast<int>(std::floor((high - first) / step + 1e-9)) + 1};
}

std::string text(double x, double y, const std::string& anchor, const std::string& content,
                 const std::string& more = "") {
  return "<text x=\"" + number(x) + "\" y=\"" + number(y) + "\" text-anchor=\"" + anchor + "\"" + more + ">" +
         escaped(content) + "</text>\n";
}
std::string line(double x1, double y1, double x2, double y2, const char* colour, int width = 1) {
  return "<line x1=\"" + number(x1) + "\" y1=\"" + number(y1) + "\" x2=\"" + number(x2) + "\" y2=\"" + number(y2) +
         "\" stroke=\"" + colour + "\" stroke-width=\"" + std::to_string(width) + "\"/>\n";
}

std::string panel(const std::string& title, const std::vector<Curve>& curves) {
  double low = std::numeric_limits<double>::infinity(), high = -low;
  std::size_t epochs = 1;
  for (const Curve& curve : curves)
    for (std::size_t e = 0; e < curve.values->size(); ++e) {
      const double value = (*curve.values)[e];
      if (!std::isfinite(value)) continue;
      low = std::min(low, value);
      high = std::max(high, value);
      epochs = std::max(epochs, e + 1);
    }
  if (!(low <= high)) low = 0, high = 1;
  const double margin = high > low ? (high - low) * 0.05 : std::max(std::abs(high) * 0.05, 1e-6);
  low -= margin;
  high += margin;
  const double last = std::max<double>(1, static_cast<double>(epochs) - 1);
  const double x0 = left, x1 = panel_width - right, y0 = panel_height - bottom, y1 = top;
  const auto x_of = [&](double epoch) { return x0 + (x1 - x0) * epoch / last; };
  const auto y_of = [&](double value) { return y0 + (y1 - y0) * (value - low) / (high - low); };

  std::string s = text((x0 + x1) / 2, 24, "middle", title, " font-size=\"15\" font-weight=\"bold\"");
  const Ticks ys = ticks(low, high, 5, 1e-12);
  for (int i = 0; i < ys.count; ++i) {
    // A tick next to zero is zero.
    const double value = std::abs(ys.first + i * ys.step) < ys.step / 2 ? 0 : ys.first + i * ys.step;
    s +=
        line(x0, y_of(value), x1, y_of(value), "#e3e3e3") + text(x0 - 6, y_of(value) + 4, "end", number(value, "%.6g"));
  }
  const Ticks xs = ticks(0, last, 8, 1);
  for (int i = 0; i < xs.count; ++i) {
    const double epoch = xs.first + i * xs.step;
    s += line(x_of(epoch), y0, x_of(epoch), y0 + 5, "#444444") +
         text(x_of(epoch), y0 + 18, "middle", number(epoch, "%.0f"));
  }
  s += line(x0, y0, x1, y0, "#444444") + line(x0, y0, x0, y1, "#444444");
  s += text((x0 + x1) / 2, panel_height - 10, "middle", "epoch");

  for (std::size_t c = 0; c < curves.size(); ++c) {
    const std::string colour = colours[c % std::size(colours)];
    const std::vector<double>& values = *curves[c].values;
    std::string path, dots;
    bool connected = false;
    for (std::size_t e = 0; e < values.size(); ++e) {
      if (!std::isfinite(values[e])) {
        connected = false;
        continue;
      }
      const std::string x = number(x_of(static_cast<double>(e))), y = number(y_of(values[e]));
      path += (connected ? " L" : " M") + x + "," + y;
      if (epochs <= 40) dots += "<circle cx=\"" + x + "\" cy=\"" + y + "\" r=\"2.5\" fill=\"" + colour + "\"/>\n";
      connected = true;
    }
    s += "<g>\n<title>" + escaped(curves[c].name) + "</title>\n<path d=\"" + (path.empty() ? "M0,0" : path.substr(1)) +
         "\" fill=\"none\" stroke=\"" + colour + "\" stroke-width=\"2\"/>\n" + dots + "</g>\n";
  }
  // The legend stands at the side where the curves end away from it: high for losses that fall.
  std::size_t longest = 0;
  for (const Curve& curve : curves) longest = std::max(longest, curve.name.size());
  const double width = 40 + 7.2 * static_cast<double>(longest), height = 8 + 18 * static_cast<double>(curves.size());
  double end_sum = 0;
  for (const Curve& curve : curves)
    if (!curve.values->empty() && std::isfinite(curve.values->back()))
      end_sum += (curve.values->back() - low) / (high - low) - 0.5;
  const double lx = x1 - width - 6, ly = end_sum > 0 ? y0 - height - 8 : y1 + 6;
  s += "<rect x=\"" + number(lx) + "\" y=\"" + number(ly) + "\" width=\"" + number(width) + "\" height=\"" +
       number(height) + "\" fill=\"#ffffff\" fill-opacity=\"0.85\" stroke=\"#cccccc\"/>\n";
  for (std::size_t c = 0; c < curves.size(); ++c) {
    const double y = ly + 16 + 18 * static_cast<double>(c);
    s += line(lx + 8, y - 4, lx + 28, y - 4, colours[c % std::size(colours)], 2) +
         text(lx + 34, y, "start", curves[c].name);
  }
  return s;
}

}  // namespace

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
  const fs::path path = options_.path.empty() ? trainer.log_dir() / "curves.svg" : options_.path;
  if (path.has_parent_path()) fs::create_directories(path.parent_path());
  // Viewers never see half a picture.
  const fs::path aside = path.string() + ".tmp";
  std::ofstream out(aside);
  out << svg();
  out.close();
  check(!out.fail(), "{}: cannot be written", aside.string());
  fs::rename(aside, path);
}

std::string CurvePlot::svg() const {
  std::map<std::string, std::vector<Curve>> panels;
  for (const auto& [name, values] : curves_) panels[quantity(name)].push_back({name, &values});
  const std::size_t columns = std::max<std::size_t>(1, std::min<std::size_t>(2, panels.size()));
  const std::size_t rows = std::max<std::size_t>(1, (panels.size() + columns - 1) / columns);
  const std::string width = number(panel_width * static_cast<double>(columns), "%.0f");
  const std::string height = number(panel_height * static_cast<double>(rows), "%.0f");
  std::string s = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" +
                  width + "\" height=\"" + height + "\" viewBox=\"0 0 " + width + " " + height +
                  "\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#222222\">\n<rect width=\"" + width +
                  "\" height=\"" + height + "\" fill=\"#ffffff\"/>\n";
  std::size_t i = 0;
  for (const auto& [title, curves] : panels) {
    s += "<g transform=\"translate(" + number(panel_width * static_cast<double>(i % columns), "%.0f") + "," +
         number(panel_height * static_cast<double>(i / columns), "%.0f") + ")\">\n" + panel(title, curves) + "</g>\n";
    ++i;
  }
  return s + "</svg>\n";
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
