// Chooses the instruction-set level, once, at the first kernel.
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>

#include "anneal/kernels/cpu/levels.h"
#include "anneal/kernels/parallel.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu {

const Level& choose_level(std::string_view name) {
  std::string built, usable;
  for (const Level& level : levels()) {
    const bool supported = level.supported();
    if (supported && (name.empty() || name == level.name)) return level;
    built += std::string(built.empty() ? "" : ", ") + level.name;
    if (supported) usable += std::string(usable.empty() ? "" : ", ") + level.name;
  }
  throw std::runtime_error((name.empty() ? "no kernels for this processor" : "ANNEAL_ISA: got " + std::string(name)) +
                           "; the library has " + built + ", of which this processor supports " +
                           (usable.empty() ? "none" : usable));
}

namespace {

const Level& active() {
  static const Level& level = []() -> const Level& {
    const char* name = std::getenv("ANNEAL_ISA");
    return choose_level(name ? name : "");
  }();
  return level;
}

}  // namespace

template <class Args>
void run(const Args& args) {
  const FlushDenormals flush;
  static_cast<const Entry<Args>&>(*active().table).run(args);
}

// Naming every `run` here is what compiles it.
[[gnu::used]] static const Table entries = []<class... Args>(TypeList<Args...>) {
  return Table{Entry<Args>{&run<Args>}...};
}(Kernels{});

const char* isa() { return active().name; }

}  // namespace kernels::cpu
}  // namespace v0
}  // namespace anneal
