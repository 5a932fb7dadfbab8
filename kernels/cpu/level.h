// What one instruction-set level provides. Every file beside this one but dispatch.cpp is compiled once per level, into
// the namespace ANNEAL_LEVEL. To stay there, they use no standard-library templates and no inline functions of others
// that are not always inlined (see ANNEAL_HD).
#pragma once

#include "anneal/kernels/kernels.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu {

template <class Args>
struct Entry {
  void (*run)(const Args&);
};
template <class List>
struct TableOf;
template <class... Args>
struct TableOf<TypeList<Args...>> : Entry<Args>... {};
/// One function for each kernel.
using Table = TableOf<Kernels>;

#if defined(ANNEAL_LEVEL)
namespace ANNEAL_LEVEL {
/// Each kernel specialises this in the file named for its kind.
template <class Args>
void run(const Args& args);
}  // namespace ANNEAL_LEVEL
#endif

}  // namespace kernels::cpu
}  // namespace v0
}  // namespace anneal
