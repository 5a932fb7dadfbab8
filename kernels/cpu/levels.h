// The instruction-set levels that the library was built for (cmake/cpu_levels.cmake writes the list).
#pragma once

#include <span>
#include <string_view>

#include "anneal/kernels/cpu/level.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu {

struct Level {
  const char* name;
  const Table* table;
  bool (*supported)();  // by this processor
};
/// Best first.
std::span<const Level> levels();

/// The level of that name, or the best if it is empty. Throws std::runtime_error, which lists them, when the library
/// has no such level or the processor does not support it.
const Level& choose_level(std::string_view name);

}  // namespace kernels::cpu
}  // namespace v0
}  // namespace anneal
