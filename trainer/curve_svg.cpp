#include "anneal/trainer/curve_svg.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <map>

#include "anneal/trainer/log_format.h"

namespace anneal {
inline namespace v0 {
namespace {

// A panel's plot area lies within these, in pixels.
constexpr double panel_width = 460, panel_height = 320, left = 64, right = 16, top = 40, bottom = 48;
constexpr const char* colours[] = {"#1f6fb4", "#d9541e", "#2b8a3e", "#8a3fa0", "#a06a00", "#007f7f"};

std::string number(double value, const char* pattern = "%.1f") {
  char text[32];
  std::snprintf(text, sizeof text, pattern, value);
  return text;
}

// "train_loss", "val_loss", "loss_step" and "loss_epoch" are curves of "loss".
std::string quantity(std::string name) {
  for (const std::string_view prefix : {"train_", "val_", "train/", "val/"})
    if (name.starts_with(prefix) && name.size() > prefix.size()) {
      name.erase(0, prefix.size());
      break;
    }
  for (const std::string_view suffix : {"_step", "_epoch"})
    if (name.ends_with(suffix) && name.size() > suffix.size()) {
      name.resize(name.size() - suffix.size());
      break;
    }
  return name;
}

// Round numbers that divide a range into about `parts`.
struct Ticks {
  double first, step;
  int count;
  // One next to zero is zero.
  double at(int i) const { return std::abs(first + i * step) < step / 2 ? 0 : first + i * step; }
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
         markup_text(content) + "</text>\n";
}
std::string line(double x1, double y1, double x2, double y2, const char* colour, int width = 1) {
  return "<line x1=\"" + number(x1) + "\" y1=\"" + number(y1) + "\" x2=\"" + number(x2) + "\" y2=\"" + number(y2) +
         "\" stroke=\"" + colour + "\" stroke-width=\"" + std::to_string(width) + "\"/>\n";
}

std::string panel(const std::string& title, const std::vector<const Curve*>& curves, const Axis& axis) {
  const bool whole = axis.scale == Scale::whole, logarithmic = axis.scale == Scale::logarithmic;
  const auto scaled = [&](double x) { return logarithmic ? std::log10(x) : x; };
  double low = std::numeric_limits<double>::infinity(), high = -low;
  double first = whole ? 0 : low, last = whole ? 1 : high;
  for (const Curve* curve : curves)
    for (std::size_t i = 0; i < curve->y.size(); ++i) {
      if (!std::isfinite(curve->y[i])) continue;
      low = std::min(low, curve->y[i]);
      high = std::max(high, curve->y[i]);
      first = std::min(first, scaled(curve->x[i]));
      last = std::max(last, scaled(curve->x[i]));
    }
  if (!(low <= high)) low = 0, high = 1;
  if (!(first <= last)) first = 0;
  if (!(first < last)) last = first + 1;
  const double margin = high > low ? (high - low) * 0.05 : std::max(std::abs(high) * 0.05, 1e-6);
  low -= margin;
  high += margin;
  const double x0 = left, x1 = panel_width - right, y0 = panel_height - bottom, y1 = top;
  const auto x_of = [&](double x) { return x0 + (x1 - x0) * (x - first) / (last - first); };
  const auto y_of = [&](double value) { return y0 + (y1 - y0) * (value - low) / (high - low); };

  std::string s = text((x0 + x1) / 2, 24, "middle", title, " font-size=\"15\" font-weight=\"bold\"");
  const Ticks ys = ticks(low, high, 5, 1e-12);
  for (int i = 0; i < ys.count; ++i) {
    const double value = ys.at(i);
    s +=
        line(x0, y_of(value), x1, y_of(value), "#e3e3e3") + text(x0 - 6, y_of(value) + 4, "end", number(value, "%.6g"));
  }
  const Ticks xs = ticks(first, last, last < 1e5 ? 8 : 4, axis.scale == Scale::linear ? 1e-12 : 1);
  for (int i = 0; i < xs.count; ++i) {
    const double x = xs.at(i);
    const std::string label = logarithmic ? number(std::pow(10, x), "%.0e") : number(x, whole ? "%.0f" : "%.6g");
    s += line(x_of(x), y0, x_of(x), y0 + 5, "#444444") + text(x_of(x), y0 + 18, "middle", label);
  }
  s += line(x0, y0, x1, y0, "#444444") + line(x0, y0, x0, y1, "#444444");
  s += text((x0 + x1) / 2, panel_height - 10, "middle", axis.label);

  for (std::size_t c = 0; c < curves.size(); ++c) {
    const std::string colour = colours[c % std::size(colours)];
    const Curve& curve = *curves[c];
    std::string path, dots;
    bool connected = false;
    for (std::size_t i = 0; i < curve.y.size(); ++i) {
      if (!std::isfinite(curve.y[i])) {
        connected = false;
        continue;
      }
      const std::string x = number(x_of(scaled(curve.x[i]))), y = number(y_of(curve.y[i]));
      path += (connected ? " L" : " M") + x + "," + y;
      if (curve.y.size() <= 40)
        dots += "<circle cx=\"" + x + "\" cy=\"" + y + "\" r=\"2.5\" fill=\"" + colour + "\"/>\n";
      connected = true;
    }
    s += "<g>\n<title>" + markup_text(curve.name) + "</title>\n<path d=\"" + (path.empty() ? "M0,0" : path.substr(1)) +
         "\" fill=\"none\" stroke=\"" + colour + "\" stroke-width=\"2\"/>\n" + dots + "</g>\n";
  }
  // The legend stands at the side where the curves end away from it: high for losses that fall.
  std::size_t longest = 0;
  for (const Curve* curve : curves) longest = std::max(longest, curve->name.size());
  const double width = 40 + 7.2 * static_cast<double>(longest), height = 8 + 18 * static_cast<double>(curves.size());
  double end_sum = 0;
  for (const Curve* curve : curves)
    if (!curve->y.empty() && std::isfinite(curve->y.back())) end_sum += (curve->y.back() - low) / (high - low) - 0.5;
  const double lx = x1 - width - 6, ly = end_sum > 0 ? y0 - height - 8 : y1 + 6;
  s += "<rect x=\"" + number(lx) + "\" y=\"" + number(ly) + "\" width=\"" + number(width) + "\" height=\"" +
       number(height) + "\" fill=\"#ffffff\" fill-opacity=\"0.85\" stroke=\"#cccccc\"/>\n";
  for (std::size_t c = 0; c < curves.size(); ++c) {
    const double y = ly + 16 + 18 * static_cast<double>(c);
    s += line(lx + 8, y - 4, lx + 28, y - 4, colours[c % std::size(colours)], 2) +
         text(lx + 34, y, "start", curves[c]->name);
  }
  return s;
}

}  // namespace

std::string curves_svg(const std::vector<Curve>& curves, const Axis& x_axis) {
  std::map<std::string, std::vector<const Curve*>> panels;
  for (const Curve& curve : curves) panels[curve.panel.empty() ? quantity(curve.name) : curve.panel].push_back(&curve);
  const std::size_t columns = std::max<std::size_t>(1, std::min<std::size_t>(2, panels.size()));
  const std::size_t rows = std::max<std::size_t>(1, (panels.size() + columns - 1) / columns);
  const std::string width = number(panel_width * static_cast<double>(columns), "%.0f");
  const std::string height = number(panel_height * static_cast<double>(rows), "%.0f");
  std::string s = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + width + "\" height=\"" + height +
                  "\" viewBox=\"0 0 " + width + " " + height +
                  "\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#222222\">\n<rect width=\"" + width +
                  "\" height=\"" + height + "\" fill=\"#ffffff\"/>\n";
  std::size_t i = 0;
  for (const auto& [title, its_curves] : panels) {
    s += "<g transform=\"translate(" + number(panel_width * static_cast<double>(i % columns), "%.0f") + "," +
         number(panel_height * static_cast<double>(i / columns), "%.0f") + ")\">\n" + panel(title, its_curves, x_axis) +
         "</g>\n";
    ++i;
  }
  return s + "</svg>\n";
}

std::string curves_file(const std::vector<Curve>& curves, const Axis& x_axis) {
  return "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n" + curves_svg(curves, x_axis);
}

}  // namespace v0
}  // namespace anneal
