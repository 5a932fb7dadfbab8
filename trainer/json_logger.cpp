#include "anneal/trainer/json_logger.h"

#include <cmath>
#include <fstream>

#include "anneal/core/error.h"
#include "anneal/trainer/log_format.h"

namespace anneal {
inline namespace v0 {
namespace {

namespace fs = std::filesystem;

// How many of a file's bytes are whole lines.
std::uintmax_t whole_lines(const fs::path& path, std::uintmax_t size) {
  std::ifstream in(path, std::ios::binary);
  for (auto end = size; end > 0; --end) {
    in.seekg(static_cast<std::streamoff>(end - 1));
    if (in.get() == '\n') return end;
  }
  return 0;
}

}  // namespace

void JsonLogger::log_metrics(const MetricMap& metrics, std::int64_t step) {
  const MetricMap row = prefixed(options_.prefix, metrics);
  held_ += "{\"step\":" + std::to_string(step);
  if (const double* epoch = row.find("epoch")) held_ += ",\"epoch\":" + json_number(*epoch);
  if (!row.contains("wall_time")) held_ += ",\"wall_time\":" + json_number(std::round(wall_time() * 1e3) / 1e3);
  for (const auto& [name, value] : row)
    if (name != "step" && name != "epoch") held_ += ',' + json_text(name) + ':' + json_number(value);
  held_ += "}\n";
  if (++held_rows_ >= options_.flush_logs_every_n_steps) save();
}

void JsonLogger::log_hyperparams(const HParams& hparams) {
  merge(hparams_, hparams);
  replace_file(log_dir() / "hparams.json", to_json(hparams_));
}

// What is behind the last whole line was torn: by a crash, or by a disk that was full when this was tried before.
void JsonLogger::find_end() {
  std::error_code missing;
  const std::uintmax_t size = fs::exists(file(), missing) ? fs::file_size(file()) : 0;
  if (!bytes_ || *bytes_ > size) bytes_ = whole_lines(file(), size);
  if (*bytes_ < size) fs::resize_file(file(), *bytes_);
}

void JsonLogger::save() {
  if (held_.empty()) return;
  fs::create_directories(log_dir());
  find_end();
  std::ofstream out(file(), std::ios::app | std::ios::binary);
  out << held_;
  out.close();
  check(!out.fail(), "{}: cannot be written", file().string());
  *bytes_ += held_.size();
  held_.clear();
  held_rows_ = 0;
}

StateMap JsonLogger::state() {
  save();
  find_end();
  return {{"folder", folder_->state()}, {"bytes", static_cast<std::int64_t>(*bytes_)}};
}

void JsonLogger::load_state(const StateMap& state) {
  if (!state.contains("bytes")) return;  // of another logger: the list of loggers has changed
  folder_->load_state(std::get<std::string>(state.at("folder")));
  held_.clear();
  held_rows_ = 0;
  // A file that lost lines since then is shorter; one that is whole has a line's end there.
  bytes_ = static_cast<std::uintmax_t>(std::get<std::int64_t>(state.at("bytes")));
  find_end();
}

}  // namespace v0
}  // namespace anneal
