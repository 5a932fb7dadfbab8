// One collective as an engine gets it.
#pragma once

#include <cstdint>
#include <string>

#include "anneal/core/collective.h"

namespace anneal {
inline namespace v0 {
namespace dist {

/// What all ranks must agree on. Ranks send it to each other as it is.
struct Signature {
  enum class Kind : std::uint8_t { all_reduce, broadcast, all_gather, reduce_scatter, barrier };

  std::int64_t count = 0;  ///< elements of the smaller tensor
  std::int32_t root = 0;
  Kind kind = Kind::barrier;
  ReduceOp op = ReduceOp::sum;
  DType dtype = DType::f32;
  std::uint8_t unused = 0;

  friend bool operator==(const Signature&, const Signature&) = default;
};
static_assert(sizeof(Signature) == 16);

/// "all_reduce #417 (bucket 3, 1048576 f32)"
std::string describe(const Signature& signature, std::uint64_t sequence, std::string_view what = {});

/// A collective and its tensors. All kinds write `output`; all but all_gather and reduce_scatter also read it.
struct Operation {
  Signature signature;
  std::string what = {};  ///< names it in errors, may be empty
  Tensor output = {}, input = {};
  std::uint64_t sequence = 0;  ///< counts the collectives of a group from 1

  std::string describe() const { return dist::describe(signature, sequence, what); }
};

}  // namespace dist
}  // namespace v0
}  // namespace anneal
