#include "anneal/trainer/precision.h"

namespace anneal {
inline namespace v0 {

Precision Precision::parse(std::string_view name) {
  struct Entry {
    std::string_view alias;
    Precision precision;
  };
  constexpr Entry entries[] = {
      {"32", {{}, {}, false, "32-true"}},         {"64", {DType::f64, {}, false, "64-true"}},
      {"", {DType::f16, {}, false, "16-true"}},   {"", {DType::bf16, {}, false, "bf16-true"}},
      {"16", {{}, DType::f16, true, "16-mixed"}}, {"bf16", {{}, DType::bf16, false, "bf16-mixed"}}};
  check<ConfigError>(name != "transformer-engine" && name != "transformer-engine-float16",
                     "precision: {} needs 8-bit linear layers, which are not in this build", name);
  std::string names;
  for (const Entry& entry : entries) {
    const std::string_view full = entry.precision.name;
    if (name == full || (!entry.alias.empty() && name == entry.alias)) return entry.precision;
    names += (names.empty() ? "" : ", ") + std::string(full);
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
