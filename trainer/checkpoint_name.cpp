#include "anneal/trainer/checkpoint_name.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <iterator>

namespace anneal {
inline namespace v0 {
namespace {

// 1.0, 0.25: the shortest that reads back equal.
std::string text_of(double value) {
  char text[32];
  std::string s(text, std::to_chars(std::begin(text), std::end(text), value).ptr);
  return s.find_first_of(".einf") == std::string::npos ? s + ".0" : s;
}

// By a format such as "02d" or ".3f".
std::string text_of(double value, const std::string& key, const std::string& spec) {
  const std::size_t digits = spec.find_first_not_of("0123456789.");
  const bool good = digits != std::string::npos && digits + 1 == spec.size() &&
                    std::string("dfeg").find(spec.back()) != std::string::npos && spec.size() <= 6;
  check<ConfigError>(good, "filename: {}: the format is \"{}\"; expected one like d, 02d, .2f, .3e", key, spec);
  char text[400];
  if (spec.back() == 'd')
    std::snprintf(text, sizeof text, ("%" + spec.substr(0, digits) + "lld").c_str(), static_cast<long long>(value));
  else std::snprintf(text, sizeof text, ("%" + spec).c_str(), value);
  return text;
}

}  // namespace

std::string checkpoint_name(const std::string& pattern, bool insert_names, const Trainer& trainer) {
  std::string name;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const std::size_t end = pattern[i] == '{' ? pattern.find('}', i) : std::string::npos;
    if (end == std::string::npos) {
      name += pattern[i];
      continue;
    }
    const std::string inside = pattern.substr(i + 1, end - i - 1);
    const std::size_t colon = inside.find(':');
    const std::string key = inside.substr(0, colon);
    const std::string spec = colon == std::string::npos ? "" : inside.substr(colon + 1);
    const bool whole = key == "epoch" || key == "step";
    const double* metric = trainer.callback_metrics().find(key);
    check<ConfigError>(whole || metric, "filename: there is no metric {}; there are: epoch, step, {}", key,
                       trainer.callback_metrics().names());
    const double value = key == "epoch"  ? static_cast<double>(trainer.current_epoch())
                         : key == "step" ? static_cast<double>(trainer.global_step())
                                         : *metric;
    std::string shown = key;
    std::replace(shown.begin(), shown.end(), '/', '_');
    if (insert_names) name += shown + "=";
    name += spec.empty() && !whole ? text_of(value) : text_of(value, key, spec.empty() ? "d" : spec);
    i = end;
  }
  return name;
}

}  // namespace v0
}  // namespace anneal
