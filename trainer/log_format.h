// Numbers, texts and files as loggers write them. Private.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "anneal/trainer/metric_map.h"

namespace anneal {
inline namespace v0 {

/// As short as reading it back exactly allows: 0.1, 3, 1e-09, nan, -inf.
std::string shortest(double value);
/// The same in JSON, where NaN and infinities are texts.
std::string json_number(double value);
/// In quotes and escaped.
std::string json_text(std::string_view text);
/// With U+FFFD for each byte that is not UTF-8.
std::string valid_utf8(std::string_view text);
/// For the content and the attributes of HTML and SVG.
std::string markup_text(std::string_view text);

/// The metrics as "prefix-name"; "step" and "epoch", a row's place, stay. An empty prefix changes nothing.
MetricMap prefixed(const std::string& prefix, const MetricMap& metrics);

/// Seconds since 1970.
double wall_time();

/// Writes aside and renames: readers see the old file or the new one. Makes the folder.
void replace_file(const std::filesystem::path& path, std::string_view text);

}  // namespace v0
}  // namespace anneal
