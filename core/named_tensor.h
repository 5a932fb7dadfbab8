// A tensor and its name: what files, batches, state dicts and optimizers are lists of.
#pragma once

#include <string>
#include <vector>

#include "anneal/core/tensor.h"

namespace anneal {
inline namespace v0 {

struct NamedTensor {
  std::string name;
  Tensor tensor;
};
/// In a meaningful order; names are unique.
using StateDict = std::vector<NamedTensor>;

}  // namespace v0
}  // namespace anneal
