#include "anneal/trainer/log_folder.h"

#include <algorithm>
#include <charconv>

namespace anneal {
inline namespace v0 {

namespace fs = std::filesystem;

std::int64_t version_number(const std::string& name) {
  std::int64_t number = -1;
  if (name.starts_with("version_")) std::from_chars(name.data() + 8, name.data() + name.size(), number);
  return number;
}

LogFolder::LogFolder(fs::path save_dir, std::string name, LogVersion version, fs::path dir)
    : save_dir_(std::move(save_dir)), dir_(std::move(dir)), name_(std::move(name)), given_(version || !dir_.empty()) {
  if (!version) return;
  const auto* number = std::get_if<std::int64_t>(&*version);
  version_ = number ? "version_" + std::to_string(*number) : std::get<std::string>(*version);
}

const std::string& LogFolder::folder() {
  if (!version_.empty()) return version_;
  std::int64_t next = 0;
  std::error_code missing;
  for (const fs::directory_entry& entry : fs::directory_iterator(save_dir_ / name_, missing)) {
    next = std::max(next, version_number(entry.path().filename().string()) + 1);
  }
  return version_ = "version_" + std::to_string(next);
}

fs::path LogFolder::path() { return dir_.empty() ? save_dir_ / name_ / folder() : dir_; }

std::string LogFolder::version() {
  if (!dir_.empty()) return {};
  const std::string& name = folder();
  return name.starts_with("version_") ? name.substr(8) : name;
}

std::string LogFolder::state() { return dir_.empty() ? folder() : ""; }

void LogFolder::load_state(const std::string& version) {
  if (!given_ && !version.empty()) version_ = version;
}

}  // namespace v0
}  // namespace anneal
