#include "anneal/trainer/precision.h"

namespace anneal {
inline namespace v0 {

Precision Precision::parse(std::string_view name) {
  struct Entry {
    std::string_view name, alias;
    Precision precision;
  };
  constexpr Entry entries[] = {{"32-true", "32", {}},
                               {"64-true", "64", {DType::f64, {}, false}},
                               {"16-true", "", {DType::f16, {}, false}},
                               {"bf16-true", "", {DType::bf16, {}, false}},
                               {"16-mixed", "16", {{}, DType::f16, true}},
                               {"bf16-mixed", "bf16", {{}, DType::bf16, false}}};
  std::string names;
  for (const Entry& entry : entries) {
    if (name == entry.name || (!entry.alias.empty() && name == entry.alias)) return entry.precision;
    names += (names.empty() ? "" : ", ") + std::string(entry.name);
  }
  throw ConfigError(format("precision: expected one of {}; got \"{}\"", names, name));
}

void Precision::cast(Batch& batch) const {
  if (!parameters) return;
  for (const NamedTensor& entry : batch)
    if (is_floating(entry.tensor.dtype())) batch.set(entry.name, entry.tensor.to(*parameters));
}

}  // namespace v0
}  // namespace anneal
