#include "anneal/trainer/hparams.h"

#include <algorithm>

#include "anneal/trainer/log_format.h"

namespace anneal {
inline namespace v0 {
namespace {

std::string json_of(bool value) { return value ? "true" : "false"; }
std::string json_of(std::int64_t value) { return std::to_string(value); }
std::string json_of(double value) { return json_number(value); }
std::string json_of(const std::string& value) { return json_text(value); }
template <class T>
std::string json_of(const std::vector<T>& values) {
  std::string list;
  for (const T& value : values) list += (list.empty() ? "" : ", ") + json_of(value);
  return "[" + list + "]";
}

}  // namespace

const HParam* find(const HParams& hparams, std::string_view name) {
  const auto at = std::find_if(hparams.begin(), hparams.end(), [&](const auto& entry) { return entry.first == name; });
  return at == hparams.end() ? nullptr : &at->second;
}

void merge(HParams& hparams, const HParams& more) {
  for (const auto& entry : more) {
    const auto at =
        std::find_if(hparams.begin(), hparams.end(), [&](const auto& have) { return have.first == entry.first; });
    if (at == hparams.end()) hparams.push_back(entry);
    else at->second = entry.second;
  }
}

std::string to_json(const HParam& value) {
  return std::visit([](const auto& v) { return json_of(v); }, value);
}

std::string to_json(const HParams& hparams) {
  std::string lines;
  for (const auto& [name, value] : hparams)
    lines += (lines.empty() ? "\n  " : ",\n  ") + json_text(name) + ": " + to_json(value);
  return "{" + lines + "\n}\n";
}

}  // namespace v0
}  // namespace anneal
