#include "anneal/trainer/report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <thread>

#include "anneal/core/device.h"
#include "anneal/core/error.h"
#include "anneal/core/version.h"
#include "anneal/kernels/kernels.h"
#include "anneal/kernels/parallel.h"
#include "anneal/trainer/curve_svg.h"
#include "anneal/trainer/log_format.h"

namespace anneal {
inline namespace v0 {
namespace {

using Cells = std::vector<std::string>;

constexpr const char* style =
    "body { font-family: sans-serif; color: #222; max-width: 960px; margin: 2em auto; padding: 0 1em }\n"
    "table { border-collapse: collapse }\n"
    "th, td { text-align: left; padding: 0.25em 1.5em 0.25em 0; border-bottom: 1px solid #ddd }\n"
    "td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere }\n"
    "svg { max-width: 100%; height: auto }\n";

std::string element(const std::string& name, std::string_view text) {
  return "<" + name + ">" + markup_text(text) + "</" + name + ">";
}

std::string table_row(const char* cell, const Cells& texts) {
  std::string row = "<tr>";
  for (const std::string& text : texts) row += element(cell, text);
  return row + "</tr>\n";
}

std::string table(const Cells& head, const std::vector<Cells>& rows) {
  std::string out = "<table>\n" + (head.empty() ? "" : table_row("th", head));
  for (const Cells& row : rows) out += table_row("td", row);
  return out + "</table>\n";
}

std::string short_number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", value);
  return std::isnan(value) ? "nan" : text;
}

std::string utc(double seconds) {
  const auto time = static_cast<std::time_t>(seconds);
  std::tm parts{};
  ::gmtime_r(&time, &parts);
  char text[64];
  return {text, std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S UTC", &parts)};
}

std::string duration(double seconds) {
  const auto whole = static_cast<long long>(std::max(0.0, seconds));
  char text[64];
  std::snprintf(text, sizeof text, "%lld:%02lld:%02lld", whole / 3600, whole / 60 % 60, whole % 60);
  return text;
}

std::string system_table() {
#if defined(__clang__)
  const std::string compiler = __VERSION__;
#else
  const std::string compiler = std::string("GCC ") + __VERSION__;
#endif
  return table({}, {{"anneal", version},
                    {"compiler", compiler},
                    {"instruction set", kernels::cpu::isa()},
                    {"cores", std::to_string(std::thread::hardware_concurrency())},
                    {"threads", std::to_string(num_threads())},
                    {"GPUs", std::to_string(device_count(DeviceKind::cuda))}});
}

std::string text_of(const HParam& value) {
  const auto* text = std::get_if<std::string>(&value);
  return text ? *text : to_json(value);
}

}  // namespace

Report::Report(ReportOptions options, std::shared_ptr<LogFolder> folder)
    : FolderLogger(std::move(folder)), options_(std::move(options)), start_(wall_time()) {
  check<ConfigError>(options_.max_points >= 2, "max_points: expected at least 2, got {}", options_.max_points);
}

void Report::log_metrics(const MetricMap& metrics, std::int64_t step) {
  for (const auto& [name, value] : metrics) {
    if (name == "step" || name == "epoch") continue;
    Series& series = series_[name];
    const Point point{static_cast<double>(step), value};
    if (series.rows == 0) series.lowest = series.highest = point;
    series.last = point;
    if (value < series.lowest.y || std::isnan(series.lowest.y)) series.lowest = point;
    if (value > series.highest.y || std::isnan(series.highest.y)) series.highest = point;
    if (series.rows++ % series.stride != 0) continue;
    series.points.push_back(point);
    if (static_cast<std::int64_t>(series.points.size()) <= options_.max_points) continue;
    std::size_t kept = 0;
    for (std::size_t i = 0; i < series.points.size(); i += 2) series.points[kept++] = series.points[i];
    series.points.resize(kept);
    series.stride *= 2;
  }
}

void Report::finalize(std::string_view status) { replace_file(log_dir() / "report.html", html(status)); }

std::string Report::summary() const {
  if (series_.empty()) return element("p", "No metrics were logged.") + "\n";
  std::vector<Cells> rows;
  const auto at = [](const Point& point) { return short_number(point.y) + " at step " + shortest(point.x); };
  for (const auto& [name, series] : series_)
    rows.push_back({name, at(series.last), at(series.lowest), at(series.highest), std::to_string(series.rows)});
  return table({"metric", "last", "lowest", "highest", "rows"}, rows);
}

std::string Report::curves() const {
  std::vector<Curve> curves;
  for (const auto& [name, series] : series_) {
    Curve& curve = curves.emplace_back(Curve{name, {}, {}});
    for (const Point& point : series.points) {
      curve.x.push_back(point.x);
      curve.y.push_back(point.y);
    }
    // The last row, whatever the stride.
    if (curve.x.back() != series.last.x || curve.y.back() != series.last.y) {
      curve.x.push_back(series.last.x);
      curve.y.push_back(series.last.y);
    }
  }
  return curves.empty() ? "" : curves_svg(curves, {"step"});
}

std::string Report::html(std::string_view status) const {
  const std::filesystem::path folder = log_dir();
  const std::string title =
      options_.title.empty() ? (folder.parent_path().filename() / folder.filename()).string() : options_.title;
  const double now = wall_time();
  std::vector<Cells> hparams;
  for (const auto& [name, value] : hparams_) hparams.push_back({name, text_of(value)});
  return "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n" + element("title", title) +
         "\n<style>\n" + style + "</style>\n</head>\n<body>\n" + element("h1", title) + "\n" +
         table({}, {{"status", std::string(status)},
                    {"started", utc(start_)},
                    {"ended", utc(now)},
                    {"time", duration(now - start_)}}) +
         element("h2", "Summary") + "\n" + summary() + element("h2", "Curves") + "\n" + curves() +
         element("h2", "Hyper-parameters") + "\n" +
         (hparams.empty() ? element("p", "None were logged.") + "\n" : table({}, hparams)) + element("h2", "System") +
         "\n" + system_table() + "</body>\n</html>\n";
}

// A series is stored as rows, stride, its three points and then all others.
StateMap Report::state() {
  StateMap state{{"folder", folder_->state()}, {"start", start_}};
  for (const auto& [name, series] : series_) {
    std::vector<double> values{static_cast<double>(series.rows), static_cast<double>(series.stride)};
    const auto add = [&](const Point& point) { values.insert(values.end(), {point.x, point.y}); };
    for (const Point& point : {series.last, series.lowest, series.highest}) add(point);
    for (const Point& point : series.points) add(point);
    state["metric " + name] = std::move(values);
  }
  return state;
}

void Report::load_state(const StateMap& state) {
  if (!state.contains("start")) return;  // of another logger: the list of loggers has changed
  folder_->load_state(std::get<std::string>(state.at("folder")));
  start_ = std::get<double>(state.at("start"));
  series_.clear();
  for (const auto& [key, value] : state) {
    if (!key.starts_with("metric ")) continue;
    const auto& values = std::get<std::vector<double>>(value);
    check(values.size() >= 10 && values.size() % 2 == 0, "report: the checkpoint's {} is damaged", key);
    const auto point = [&](std::size_t i) { return Point{values[2 * i], values[2 * i + 1]}; };
    Series& series = series_[key.substr(7)];
    series = {
        static_cast<std::int64_t>(values[0]), static_cast<std::int64_t>(values[1]), point(1), point(2), point(3), {}};
    check(series.stride > 0, "report: the checkpoint's {} is damaged", key);
    for (std::size_t i = 4; i < values.size() / 2; ++i) series.points.push_back(point(i));
  }
}

}  // namespace v0
}  // namespace anneal
