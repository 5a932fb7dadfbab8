// Options by their names: from JSON, arguments and the environment, and as text.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "anneal/trainer/options.h"

namespace anneal {
inline namespace v0 {

/// A count for which true stands for 1 and false for 0.
struct CountOrBool {
  std::int64_t* count;
};

/// Where an option's value is. In JSON: `null` leaves an OrDefault as it is and empties an optional; an Amount is a
/// count or a share, as `1` or `1.0`; a Duration is its text or {"days", "hours", "minutes", "seconds"}.
using OptionField =
    std::variant<bool*, int*, std::int64_t*, std::uint64_t*, double*, std::string*, std::filesystem::path*,
                 std::optional<bool>*, std::optional<std::int64_t>*, std::optional<std::uint64_t>*,
                 std::optional<double>*, std::optional<std::string>*, std::vector<std::int64_t>*, std::vector<double>*,
                 std::vector<std::string>*, OrDefault<bool>*, OrDefault<std::int64_t>*, Amount*, CheckInterval*,
                 Devices*, PrecisionName*, StrategyOption*, std::variant<bool, std::string>*, std::optional<Duration>*,
                 LoggerOption*, ProfilerOption*, std::optional<optim::GradScalerOptions>*, CountOrBool>;

struct Option {
  std::string name;
  OptionField field;
  std::string help = {};  ///< what is permitted, and what it means
};

/// Those of an object, in which they point:
///
///   struct Options {
///     std::int64_t width = 512;
///     OptionTable table() { return {{"width", &width, "hidden units"}}; }
///   };
using OptionTable = std::vector<Option>;

/// With "<section>." before the names.
OptionTable in_section(std::string_view section, OptionTable table);

/// All that a text can say; not callbacks, sinks and objects.
OptionTable table_of(TrainerOptions& options);

/// A value somebody gave an option by its name.
struct Setting {
  std::string name;
  std::string value;     ///< JSON, or as it was typed
  bool is_json = false;  ///< else texts need no quotes
  std::string source;    ///< "--trainer.max_epochs", "config.json:3: max_epochs": where errors begin
};

/// `--name value`, `--name=value`, or `--name` for true: argument i, which begins with "--". Moves i to its last word.
Setting read_argument(int argc, const char* const* argv, int& i);
/// The values of a JSON object; those of objects in it are "trainer.max_epochs" if `sections`. `file` is for errors.
/// Throws ConfigError where it is not JSON.
std::vector<Setting> read_settings(std::string_view json, std::string_view file = {}, bool sections = false);
/// The values of <prefix><NAME> for each name of the table, in capitals and with `_` for points.
std::vector<Setting> environment_settings(const OptionTable& table, std::string_view prefix);
/// Throws ConfigError, with the nearest name, for one that is not in the table, and for a value of another type.
void set_options(const OptionTable& table, std::span<const Setting> settings);

/// A JSON object of all values, from which `set_options` makes the same again; "a.b" is in an object "a".
std::string to_json(const OptionTable& table);
/// A list: `--<prefix><name>`, type, value as it is now, help.
std::string describe(const OptionTable& table, std::string_view prefix = {});
/// "; did you mean max_epochs?", or nothing where no name is near.
std::string suggestion(std::string_view name, std::span<const std::string> names);

}  // namespace v0
}  // namespace anneal
