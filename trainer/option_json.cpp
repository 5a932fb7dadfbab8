#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <iterator>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <type_traits>

#include "anneal/core/error.h"
#include "anneal/trainer/option_table.h"

namespace anneal {
inline namespace v0 {
namespace {

using nlohmann::json;

constexpr auto largest = std::numeric_limits<std::int64_t>::max();
constexpr auto infinity = std::numeric_limits<double>::infinity();

// ---- values: what a type is called, how it is read (false: the value is of another type) and written ----

std::string type_of(const bool*) { return "true or false"; }
std::string type_of(const int*) { return "an integer"; }
std::string type_of(const std::int64_t*) { return "an integer"; }
std::string type_of(const std::uint64_t*) { return "an integer from 0 on"; }
std::string type_of(const double*) { return "a number"; }
std::string type_of(const std::string*) { return "a text"; }
std::string type_of(const std::filesystem::path*) { return "a path"; }
std::string type_of(const Amount*) { return "an integer or a share such as 0.5"; }
std::string type_of(const CheckInterval*) { return "an integer, a share such as 0.5, or a time: DD:HH:MM:SS"; }
std::string type_of(const Devices*) { return "auto, an integer or a list of integers"; }
std::string type_of(const PrecisionName*) { return "a text or an integer"; }
std::string type_of(const StrategyOption*) { return "a text"; }
std::string type_of(const std::variant<bool, std::string>*) { return "true, false or a text"; }
std::string type_of(const Duration*) { return "DD:HH:MM:SS, or an object of days, hours, minutes and seconds"; }
std::string type_of(const ProfilerOption*) { return "a text, or null"; }
std::string type_of(const LoggerOption*) { return "true or false"; }
std::string type_of(const optim::GradScalerOptions*) { return "an object"; }
std::string type_of(const CountOrBool&) { return "an integer, true or false"; }
template <class T>
std::string type_of(const std::vector<T>*) {
  return "a list, each " + type_of(static_cast<const T*>(nullptr));
}
template <class T>
std::string type_of(const std::optional<T>*) {
  return type_of(static_cast<const T*>(nullptr)) + ", or null";
}
template <class T>
std::string type_of(const OrDefault<T>*) {
  return type_of(static_cast<const T*>(nullptr));
}

bool read(const json& value, bool& to) {
  if (!value.is_boolean()) return false;
  to = value.get<bool>();
  return true;
}
bool read(const json& value, std::int64_t& to) {
  if (!value.is_number_integer()) return false;
  if (value.is_number_unsigned() && value.get<std::uint64_t>() > std::uint64_t{largest}) return false;
  to = value.get<std::int64_t>();
  return true;
}
bool read(const json& value, int& to) {
  std::int64_t wide = 0;
  if (!read(value, wide) || wide != static_cast<int>(wide)) return false;
  to = static_cast<int>(wide);
  return true;
}
bool read(const json& value, std::uint64_t& to) {
  if (!value.is_number_integer() || (!value.is_number_unsigned() && value.get<std::int64_t>() < 0)) return false;
  to = value.get<std::uint64_t>();
  return true;
}
bool read(const json& value, double& to) {
  if (value == "inf") return to = infinity, true;  // JSON has no number for it
  if (!value.is_number()) return false;
  to = value.get<double>();
  return true;
}
template <class Text>
requires(std::is_same_v<Text, std::string> || std::is_same_v<Text, std::filesystem::path>) bool read(const json& value,
                                                                                                     Text& to) {
  if (value.is_string()) to = value.get<std::string>();
  return value.is_string();
}
template <class T>
bool read(const json& value, std::vector<T>& to) {
  if (!value.is_array()) return false;
  std::vector<T> all;
  for (const json& element : value) {
    T one{};
    if (!read(element, one)) return false;
    all.push_back(std::move(one));
  }
  to = std::move(all);
  return true;
}
bool read(const json& value, Amount& to) {
  std::int64_t count = 0;
  if (read(value, count)) to = count;
  else if (value.is_number_float()) to = value.get<double>();
  else return false;
  return true;
}
bool read(const json& value, Devices& to) {
  std::int64_t count = 0;
  std::vector<int> indices;
  if (read(value, count)) to = count;
  else if (read(value, indices)) to = indices;
  else if (value.is_string()) to = value.get<std::string>();
  else return false;
  return true;
}
bool read(const json& value, PrecisionName& to) {
  std::int64_t bits = 0;
  if (read(value, bits)) to = bits;
  else if (value.is_string()) to = value.get<std::string>();
  else return value.is_null();
  return true;
}
bool read(const json& value, StrategyOption& to) {
  if (value.is_string()) to = value.get<std::string>();
  return value.is_string();
}
bool read(const json& value, std::variant<bool, std::string>& to) {
  if (value.is_boolean()) to = value.get<bool>();
  else if (value.is_string()) to = value.get<std::string>();
  else return false;
  return true;
}
bool read(const json& value, Duration& to) {
  if (value.is_string()) {
    to = value.get<std::string>();
    return true;
  }
  if (!value.is_object()) return false;
  double seconds = 0;
  for (const auto& [name, part] : value.items()) {
    const double unit = name == "days"      ? 86400
                        : name == "hours"   ? 3600
                        : name == "minutes" ? 60
                        : name == "seconds" ? 1
                                            : 0;
    if (unit == 0 || !part.is_number()) return false;
    seconds += unit * part.get<double>();
  }
  to = std::chrono::duration<double>(seconds);
  return true;
}
bool read(const json& value, CheckInterval& to) {
  Amount amount = 0;
  Duration time;
  if (read(value, amount)) to = CheckInterval(amount);
  else if (read(value, time)) to = time;
  else return false;
  return true;
}
bool read(const json& value, ProfilerOption& to) {
  if (value.is_string()) to = value.get<std::string>();
  return value.is_string() || value.is_null();
}
bool read(const json& value, LoggerOption& to) {
  if (value.is_boolean()) to = value.get<bool>();
  return value.is_boolean() || value.is_null();
}
bool read(const json& value, const CountOrBool& to) {
  if (!value.is_boolean()) return read(value, *to.count);
  *to.count = value.get<bool>() ? 1 : 0;
  return true;
}
OptionTable table_of(optim::GradScalerOptions& o) {
  return {{"init_scale", &o.init_scale},
          {"growth_factor", &o.growth_factor},
          {"backoff_factor", &o.backoff_factor},
          {"growth_interval", &o.growth_interval}};
}
bool read(const json& value, optim::GradScalerOptions& to) {
  if (!value.is_object()) return false;
  set_options(table_of(to), read_settings(value.dump()));
  return true;
}
template <class T>
bool read(const json& value, std::optional<T>& to) {
  T given{};
  if (value.is_null()) to.reset();
  else if (read(value, given)) to = std::move(given);
  else return false;
  return true;
}
template <class T>
bool read(const json& value, OrDefault<T>& to) {
  T given{};
  if (value.is_null()) return true;
  if (!read(value, given)) return false;
  to = given;
  return true;
}

// As it is typed: texts without quotes.
template <class T>
bool read_typed(const std::string& text, T& to) {
  const json value = json::parse(text, nullptr, false);
  const bool is_text = std::is_same_v<T, std::string> || std::is_same_v<T, std::filesystem::path>;
  return (!is_text && !value.is_discarded() && read(value, to)) || read(json(text), to);
}
bool read_typed(const std::string& text, std::optional<std::string>& to) {
  to = text;
  return true;
}

template <class T>
json written(const T& value) {
  return value;
}
json written(double value) { return value == infinity ? json("inf") : json(value); }
json written(const std::filesystem::path& value) { return value.string(); }
json written(const Amount& value) {
  if (value.is_count()) return static_cast<std::int64_t>(value.value());
  return value.value();
}
json written(const Devices& value) {
  if (value.is_auto()) return "auto";
  if (value.indices().empty()) return value.count();
  return value.indices();
}
json written(const StrategyOption& value) { return value.name(); }
json written(const PrecisionName& value) {
  return value.given() ? json(static_cast<const std::string&>(value)) : json();
}
json written(const std::variant<bool, std::string>& value) {
  return std::visit([](const auto& v) { return json(v); }, value);
}
json written(const Duration& value) { return {{"seconds", value.seconds()}}; }
json written(const CheckInterval& value) {
  return value.time() ? written(*value.time()) : written(static_cast<const Amount&>(value));
}
json written(const ProfilerOption& value) { return value.name().empty() ? json() : json(value.name()); }
json written(const LoggerOption& value) { return value.given() ? json(value.standard()) : json(); }
json written(const CountOrBool& value) { return *value.count; }
json written(const optim::GradScalerOptions& value) {
  optim::GradScalerOptions copy = value;
  return json::parse(to_json(table_of(copy)));
}
template <class T>
json written(const std::optional<T>& value) {
  return value ? written(*value) : json();
}
template <class T>
json written(const OrDefault<T>& value) {
  return value.given() ? written(static_cast<const T&>(value)) : json();
}

// The pointee of a field, and what stands for itself.
template <class T>
T& target(T* field) {
  return *field;
}
const CountOrBool& target(const CountOrBool& field) { return field; }

// What help shows: what holds if nothing is said.
template <class T>
json shown(const T& value) {
  return written(value);
}
template <class T>
json shown(const OrDefault<T>& value) {
  return written(static_cast<const T&>(value));
}
json shown(const PrecisionName& value) { return static_cast<const std::string&>(value); }
json shown(const LoggerOption& value) { return value.standard(); }

// Counts the lines that the parser has read.
struct CountedChar {
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;
  const char* at;
  int* line;

  const char& operator*() const { return *at; }
  CountedChar& operator++() {
    if (*at++ == '\n') ++*line;
    return *this;
  }
  bool operator==(const CountedChar& other) const { return at == other.at; }
};

}  // namespace

std::vector<Setting> read_settings(std::string_view text, std::string_view file, bool sections) {
  int line = 1;
  std::vector<std::string> path;
  std::map<std::string, int> lines;
  const auto note_line = [&](int depth, json::parse_event_t event, json& key) {
    if (event != json::parse_event_t::key || depth > 2) return true;
    path.resize(static_cast<std::size_t>(depth - 1));
    path.push_back(key.get<std::string>());
    lines[path.size() == 1 ? path[0] : path[0] + "." + path[1]] = line;
    return true;
  };
  json all;
  try {
    all = json::parse(CountedChar{text.data(), &line}, CountedChar{text.data() + text.size(), nullptr}, note_line);
  } catch (const json::parse_error& error) {
    const std::string_view what = error.what();
    throw ConfigError(
        format("{}options are no JSON: {}", file.empty() ? "" : format("{}: ", file), what.substr(what.find(']') + 2)));
  }
  check<ConfigError>(all.is_object(), "{}options: expected a JSON object, got {}",
                     file.empty() ? "" : format("{}: ", file), all.type_name());
  std::vector<Setting> settings;
  const auto add = [&](const std::string& name, const json& value) {
    settings.push_back(
        {name, value.dump(), true, file.empty() ? name : format("{}:{}: {}", file, lines.at(name), name)});
  };
  for (const auto& [name, value] : all.items())
    if (sections && value.is_object())
      for (const auto& [own, one] : value.items()) add(name + "." + own, one);
    else add(name, value);
  return settings;
}

std::vector<Setting> environment_settings(const OptionTable& table, std::string_view prefix) {
  std::vector<Setting> settings;
  for (const Option& option : table) {
    std::string variable(prefix);
    for (const char c : option.name)
      variable += c == '.' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    if (const char* value = std::getenv(variable.c_str())) settings.push_back({option.name, value, false, variable});
  }
  return settings;
}

void set_options(const OptionTable& table, std::span<const Setting> settings) {
  for (const Setting& setting : settings) {
    const auto option =
        std::find_if(table.begin(), table.end(), [&](const Option& each) { return each.name == setting.name; });
    if (option == table.end()) {
      std::vector<std::string> names;
      for (const Option& each : table) names.push_back(each.name);
      throw ConfigError(
          format("{}: there is no option {}{}", setting.source, setting.name, suggestion(setting.name, names)));
    }
    std::visit(
        [&](auto field) {
          auto& to = target(field);
          const auto is_read = [&] {
            try {
              return setting.is_json ? read(json::parse(setting.value), to) : read_typed(setting.value, to);
            } catch (const ConfigError& error) { throw ConfigError(format("{}: {}", setting.source, error.what())); }
          };
          check<ConfigError>(is_read(), "{}: expected {}, got {}", setting.source, type_of(field), setting.value);
        },
        option->field);
  }
}

std::string to_json(const OptionTable& table) {
  nlohmann::ordered_json all = nlohmann::ordered_json::object();
  for (const Option& option : table) {
    const std::size_t point = option.name.find('.');
    nlohmann::ordered_json& place = point == std::string::npos
                                        ? all[option.name]
                                        : all[option.name.substr(0, point)][option.name.substr(point + 1)];
    place = std::visit([](auto field) { return nlohmann::ordered_json(written(target(field))); }, option.field);
  }
  return all.dump(2);
}

std::string describe(const OptionTable& table, std::string_view prefix) {
  std::string text;
  for (const Option& option : table) {
    text += std::visit(
        [&](auto field) {
          return format("  --{}{} = {}\n      {}{}{}\n", prefix, option.name, shown(target(field)).dump(), option.help,
                        option.help.empty() ? "" : ": ", type_of(field));
        },
        option.field);
  }
  return text;
}

}  // namespace v0
}  // namespace anneal
