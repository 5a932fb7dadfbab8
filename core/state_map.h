// Values by name that an object keeps in a checkpoint.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <variant>
#include <vector>

namespace anneal {
inline namespace v0 {

using StateValue = std::variant<std::int64_t, double, std::string, std::vector<double>, std::vector<std::string>>;
using StateMap = std::map<std::string, StateValue, std::less<>>;

}  // namespace v0
}  // namespace anneal
