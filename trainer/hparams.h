// Hyper-parameters: what a run was made with, for loggers.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace anneal {
inline namespace v0 {

using HParam = std::variant<bool, std::int64_t, double, std::string, std::vector<std::int64_t>, std::vector<double>,
                            std::vector<std::string>>;
/// In their order: `HParams{{"lr", 1e-3}, {"layers", 4}, {"optimizer", "adam"}}`.
using HParams = std::vector<std::pair<std::string, HParam>>;

/// Adds those of `more`; a name that is there gets the new value.
void merge(HParams& hparams, const HParams& more);
/// A JSON value, NaN and infinities as texts.
std::string to_json(const HParam& value);
/// A JSON object, one line for each.
std::string to_json(const HParams& hparams);

}  // namespace v0
}  // namespace anneal
