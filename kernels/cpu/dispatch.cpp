// Chooses the instruction-set level, once, at the first kernel.
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>

#include "anneal/kernels/cpu/level.h"
#include "anneal/kernels/parallel.h"
#include "cpu_levels.h"  // generated: the levels in this library, best first

namespace anneal {
inline namespace v0 {
namespace kernels::cpu {
namespace {

bool supported(std::string_view level) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (level == "x86_64_v4")
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("avx2");
  if (level == "x86_64_v3") return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (level == "x86_64_v2") return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
#endif
  return level == "generic" || level == "neon";
}

const Level& choose() {
  const char* forced = std::getenv("ANNEAL_ISA");
  std::string names;
  for (const Level& level : levels) {
    if (forced ? std::string_view(forced) == level.name : supported(level.name)) {
      if (supported(level.name)) return level;
      throw std::runtime_error("ANNEAL_ISA: this processor does not support " + std::string(forced));
    }
    names += std::string(names.empty() ? "" : ", ") + level.name;
  }
  throw std::runtime_error(forced ? "ANNEAL_ISA: expected one of " + names + "; got " + forced
                                  : "no kernels for this processor: the library was built for " + names);
}

const Level& active() {
  static const Level& level = choose();
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
