#include "anneal/dist/operation.h"

namespace anneal {
inline namespace v0 {
namespace dist {

std::string describe(const Signature& signature, std::uint64_t sequence, std::string_view what) {
  using Kind = Signature::Kind;
  constexpr const char* kinds[] = {"all_reduce", "broadcast", "all_gather", "reduce_scatter", "barrier"};
  constexpr const char* ops[] = {"", " max", " min"};
  std::string text =
      format("{}{} #{}", kinds[static_cast<int>(signature.kind)], ops[static_cast<int>(signature.op)], sequence);
  if (signature.kind == Kind::barrier) return text;
  text += " (";
  if (!what.empty()) text += format("{}, ", what);
  text += format("{} {}", signature.count, name_of(signature.dtype));
  if (signature.kind == Kind::broadcast) text += format(" of rank {}", signature.root);
  return text + ")";
}

}  // namespace dist
}  // namespace v0
}  // namespace anneal
