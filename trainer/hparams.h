// Hyper-parameters: what a run was made with, for loggers.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "anneal/core/error.h"

namespace anneal {
inline namespace v0 {

using HParam = std::variant<bool, std::int64_t, double, std::string, std::vector<std::int64_t>, std::vector<double>,
                            std::vector<std::string>>;
/// In their order: `HParams{{"lr", 1e-3}, {"layers", 4}, {"optimizer", "adam"}}`.
using HParams = std::vector<std::pair<std::string, HParam>>;

/// The value of that name, or null.
const HParam* find(const HParams& hparams, std::string_view name);
/// The value of that name; numbers are converted. Throws Error, which says what there is, for a name that is not there
/// or a value of another kind.
///
///   Net(const HParams& hparams) : width(hparam<std::int64_t>(hparams, "width")) {}
template <class T>
T hparam(const HParams& hparams, std::string_view name);
/// The same, or `otherwise` where there is none.
template <class T>
T hparam(const HParams& hparams, std::string_view name, T otherwise) {
  return find(hparams, name) ? hparam<T>(hparams, name) : std::move(otherwise);
}
/// Adds those of `more`; a name that is there gets the new value.
void merge(HParams& hparams, const HParams& more);
/// A JSON value, NaN and infinities as texts.
std::string to_json(const HParam& value);
/// A JSON object, one line for each.
std::string to_json(const HParams& hparams);

template <class T>
T hparam(const HParams& hparams, std::string_view name) {
  const HParam* const value = find(hparams, name);
  check(value != nullptr, "hparams: there is no {} in {}", name, to_json(hparams));
  return std::visit(
      [&](const auto& v) -> T {
        using V = std::decay_t<decltype(v)>;
        constexpr bool number = std::is_arithmetic_v<T> && !std::is_same_v<T, bool>;
        if constexpr (std::is_same_v<V, T>) return v;
        else if constexpr ((number && std::is_same_v<V, std::int64_t>) ||
                           (std::is_floating_point_v<T> && std::is_same_v<V, double>))
          return static_cast<T>(v);
        else throw Error(format("hparams: {} is {}, which is a value of another kind", name, to_json(*value)));
      },
      *value);
}

}  // namespace v0
}  // namespace anneal
