// What layers and optimizers may ask of a group of ranks. dist/process_group.h makes such groups.
#pragma once

#include <cstdint>

#include "anneal/core/tensor.h"

namespace anneal {
inline namespace v0 {

/// For bool, `sum` and `max` are "any", `min` is "all".
enum class ReduceOp : std::uint8_t { sum, max, min };

/// Ranks that work together. Every rank must call the same functions in the same order, with tensors of the same dtype
/// and number of elements; these must be contiguous and are not differentiated. Each function returns when this rank's
/// part is done, and throws Error when a rank failed or asked for something else.
class Collective {
 public:
  virtual ~Collective() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  /// Every element becomes its reduction over the ranks.
  virtual void all_reduce(const Tensor& tensor, ReduceOp op = ReduceOp::sum) = 0;
  /// Every rank's tensor becomes that of rank `root`.
  virtual void broadcast(const Tensor& tensor, int root = 0) = 0;
  /// `output`, of size() * n elements, becomes all ranks' inputs of n elements, in rank order.
  virtual void all_gather(const Tensor& output, const Tensor& input) = 0;
  /// Returns when every rank has called it.
  virtual void barrier() = 0;
};

}  // namespace v0
}  // namespace anneal
