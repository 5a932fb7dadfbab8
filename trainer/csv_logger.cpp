#include "anneal/trainer/csv_logger.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>
#include <iterator>

#include "anneal/core/error.h"

namespace anneal {
inline namespace v0 {
namespace {

namespace fs = std::filesystem;

std::string quoted(const std::string& key) {
  if (key.find_first_of(",\"") == std::string::npos) return key;
  std::string text = "\"";
  for (const char c : key) text += c == '"' ? "\"\"" : std::string(1, c);
  return text + '"';
}

std::vector<std::string> cells_of(const std::string& line) {
  std::vector<std::string> cells(1);
  bool in_quotes = false;
  for (std::size_t i = 0; i < line.size(); ++i) {
    if (in_quotes && line[i] == '"' && i + 1 < line.size() && line[i + 1] == '"') cells.back() += line[i++];
    else if (line[i] == '"') in_quotes = !in_quotes;
    else if (line[i] == ',' && !in_quotes) cells.emplace_back();
    else cells.back() += line[i];
  }
  return cells;
}

std::string text_of(double value) {
  char text[32];
  const bool whole = std::abs(value) < 1e15 && value == std::floor(value) && !(value == 0 && std::signbit(value));
  const auto end = whole ? std::to_chars(std::begin(text), std::end(text), static_cast<std::int64_t>(value))
                         : std::to_chars(std::begin(text), std::end(text), value);
  return {text, end.ptr};
}

}  // namespace

void CsvLogger::log_metrics(const MetricMap& metrics, std::int64_t step) {
  std::vector<std::string> columns = columns_;
  const auto need = [&](const std::string& key) {
    const auto at = std::lower_bound(columns.begin(), columns.end(), key);
    if (at == columns.end() || *at != key) columns.insert(at, key);
  };
  need("step");
  for (const auto& [key, value] : metrics) need(key);
  if (columns != columns_) {
    save();
    rewrite(columns, rows_);
    columns_ = std::move(columns);
  }
  std::string line;
  for (const std::string& column : columns_) {
    if (!line.empty() || &column != &columns_.front()) line += ',';
    if (column == "step") line += std::to_string(step);
    else if (const double* value = metrics.find(column)) line += text_of(*value);
  }
  held_.push_back(std::move(line));
  if (static_cast<std::int64_t>(held_.size()) >= options_.flush_logs_every_n_steps) save();
}

void CsvLogger::save() {
  if (held_.empty()) return;
  std::ofstream out(file(), std::ios::app);
  for (const std::string& line : held_) out << line << '\n';
  out.close();
  check(!out.fail(), "{}: cannot be written", file().string());
  rows_ += static_cast<std::int64_t>(held_.size());
  held_.clear();
}

// The file's first `rows` rows under other columns.
void CsvLogger::rewrite(const std::vector<std::string>& columns, std::int64_t rows) const {
  fs::create_directories(log_dir());
  const fs::path aside = log_dir() / ".metrics.csv.tmp";
  std::ofstream out(aside);
  for (std::size_t c = 0; c < columns.size(); ++c) out << (c > 0 ? "," : "") << quoted(columns[c]);
  out << '\n';
  if (rows > 0) {
    std::ifstream in(file());
    std::string line;
    std::getline(in, line);
    const std::vector<std::string> before = cells_of(line);
    for (std::int64_t row = 0; row < rows && std::getline(in, line); ++row) {
      const std::vector<std::string> cells = cells_of(line);
      for (std::size_t c = 0; c < columns.size(); ++c) {
        const auto at = static_cast<std::size_t>(std::find(before.begin(), before.end(), columns[c]) - before.begin());
        out << (c > 0 ? "," : "") << (at < cells.size() ? cells[at] : "");
      }
      out << '\n';
    }
  }
  out.close();
  check(!out.fail(), "{}: cannot be written", aside.string());
  fs::rename(aside, file());
}

const std::string& CsvLogger::folder() const {
  if (!folder_.empty()) return folder_;
  if (options_.version) {
    const auto* number = std::get_if<std::int64_t>(&*options_.version);
    folder_ = number ? "version_" + std::to_string(*number) : std::get<std::string>(*options_.version);
    return folder_;
  }
  std::int64_t next = 0;
  std::error_code missing;
  for (const fs::directory_entry& entry : fs::directory_iterator(options_.save_dir / options_.name, missing)) {
    const std::string name = entry.path().filename().string();
    std::int64_t number = -1;
    if (name.starts_with("version_")) std::from_chars(name.data() + 8, name.data() + name.size(), number);
    next = std::max(next, number + 1);
  }
  return folder_ = "version_" + std::to_string(next);
}

fs::path CsvLogger::log_dir() const {
  return options_.dir.empty() ? options_.save_dir / options_.name / folder() : options_.dir;
}

std::string CsvLogger::version_name() const {
  if (!options_.dir.empty()) return {};
  const std::string& name = folder();
  if (name.starts_with("version_")) return name.substr(8);
  return name.substr(name.size() > 4 ? name.size() - 4 : 0);
}

StateMap CsvLogger::state() {
  save();
  return {{"folder", options_.dir.empty() ? folder() : ""}, {"columns", columns_}, {"rows", rows_}};
}

void CsvLogger::load_state(const StateMap& state) {
  if (options_.dir.empty() && !options_.version) folder_ = std::get<std::string>(state.at("folder"));
  if (!fs::exists(file())) return;
  held_.clear();
  rows_ = std::get<std::int64_t>(state.at("rows"));
  columns_ = std::get<std::vector<std::string>>(state.at("columns"));
  rewrite(columns_, rows_);
}

}  // namespace v0
}  // namespace anneal
