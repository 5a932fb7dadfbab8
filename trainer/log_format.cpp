#include "anneal/trainer/log_format.h"

#include <unistd.h>

#include <charconv>
#include <chrono>
#include <cmath>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "anneal/core/error.h"

namespace anneal {
inline namespace v0 {

using nlohmann::json;

std::string shortest(double value) {
  if (std::isnan(value)) return "nan";
  char text[32];
  const bool whole = std::abs(value) < 1e15 && value == std::floor(value) && !(value == 0 && std::signbit(value));
  const auto end = whole ? std::to_chars(std::begin(text), std::end(text), static_cast<std::int64_t>(value))
                         : std::to_chars(std::begin(text), std::end(text), value);
  return {text, end.ptr};
}

std::string json_number(double value) {
  if (value == 0 && std::signbit(value)) return "-0.0";  // readers take -0 for an integer
  return std::isfinite(value) ? shortest(value) : '"' + shortest(value) + '"';
}

std::string json_text(std::string_view text) { return json(text).dump(-1, ' ', false, json::error_handler_t::replace); }

std::string valid_utf8(std::string_view text) { return json::parse(json_text(text)).get<std::string>(); }

std::string markup_text(std::string_view text) {
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

MetricMap prefixed(const std::string& prefix, const MetricMap& metrics) {
  if (prefix.empty()) return metrics;
  MetricMap out;
  for (const auto& [name, value] : metrics)
    out.set(name == "step" || name == "epoch" ? name : prefix + '-' + name, value);
  return out;
}

double wall_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

void replace_file(const std::filesystem::path& path, std::string_view text) {
  if (path.has_parent_path()) std::filesystem::create_directories(path.parent_path());
  const std::filesystem::path aside = path.string() + ".tmp-" + std::to_string(::getpid());
  std::ofstream out(aside, std::ios::binary);
  out.write(text.data(), static_cast<std::streamsize>(text.size()));
  out.close();
  check(!out.fail(), "{}: cannot be written", aside.string());
  std::filesystem::rename(aside, path);
}

}  // namespace v0
}  // namespace anneal
