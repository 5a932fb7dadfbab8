#include "anneal/kernels/cpu/level.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu::ANNEAL_LEVEL {

extern const Table table;
constexpr Table make_table() {
  return []<class... Args>(TypeList<Args...>) { return Table{Entry<Args>{&run<Args>}...}; }(Kernels{});
}
const Table table = make_table();

}  // namespace kernels::cpu::ANNEAL_LEVEL
}  // namespace v0
}  // namespace anneal
