// What the names of precisions mean. Private.
#pragma once

#include <optional>
#include <string_view>

#include "anneal/core/autocast.h"
#include "anneal/data/batch.h"

namespace anneal {
inline namespace v0 {

struct Precision {
  std::optional<DType> parameters;  ///< what the module's and the batches' floating tensors are converted to
  std::optional<DType> autocast;    ///< what ops are cast to
  bool scaled = false;              ///< whether the loss needs scaling
  std::string_view name = {};       ///< in full

  /// "32-true" leaves tensors as they are. Throws ConfigError for a name that this build does not have, and with the
  /// list for an unknown one.
  static Precision parse(std::string_view name);
  /// Converts a batch's floating tensors.
  void cast(Batch& batch) const;
};

}  // namespace v0
}  // namespace anneal
