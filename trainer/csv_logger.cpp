#include "anneal/trainer/csv_logger.h"

#include <algorithm>
#include <fstream>
#include <sstream>

#include "anneal/core/error.h"
#include "anneal/trainer/log_format.h"

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

}  // namespace

void CsvLogger::log_metrics(const MetricMap& metrics, std::int64_t step) {
  std::vector<std::string> columns = columns_;
  const auto need = [&](const std::string& key) {
    const auto at = std::lower_bound(columns.begin(), columns.end(), key);
    if (at == columns.end() || *at != key) columns.insert(at, key);
  };
  need("step");
  const MetricMap row = prefixed(options_.prefix, metrics);
  for (const auto& [key, value] : row) need(key);
  if (columns != columns_) {
    save();
    rewrite(columns, rows_);
    columns_ = std::move(columns);
  }
  std::string line;
  for (const std::string& column : columns_) {
    if (!line.empty() || &column != &columns_.front()) line += ',';
    if (column == "step") line += std::to_string(step);
    else if (const double* value = row.find(column)) line += shortest(*value);
  }
  held_.push_back(std::move(line));
  if (static_cast<std::int64_t>(held_.size()) >= options_.flush_logs_every_n_steps) save();
}

void CsvLogger::log_hyperparams(const HParams& hparams) {
  merge(hparams_, hparams);
  replace_file(log_dir() / "hparams.json", to_json(hparams_));
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
  std::ostringstream out;
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
  replace_file(file(), out.str());
}

StateMap CsvLogger::state() {
  save();
  return {{"folder", folder_->state()}, {"columns", columns_}, {"rows", rows_}};
}

void CsvLogger::load_state(const StateMap& state) {
  if (!state.contains("rows")) return;  // of another logger: the list of loggers has changed
  folder_->load_state(std::get<std::string>(state.at("folder")));
  if (!fs::exists(file())) return;
  held_.clear();
  rows_ = std::get<std::int64_t>(state.at("rows"));
  columns_ = std::get<std::vector<std::string>>(state.at("columns"));
  rewrite(columns_, rows_);
}

}  // namespace v0
}  // namespace anneal
