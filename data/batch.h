// What a data loader gives and a training step takes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "anneal/core/named_tensor.h"

namespace anneal {
inline namespace v0 {

/// An ordered list of named tensors; the first dimension of each is the samples'.
///
///   Tensor loss = cross_entropy(net(batch["x"]), batch["y"]);
class Batch {
 public:
  Batch() = default;
  /// Throws Error for a name that comes twice.
  Batch(std::initializer_list<NamedTensor> tensors) : Batch(std::vector(tensors)) {}
  explicit Batch(std::vector<NamedTensor> tensors);

  /// The number of samples: the first tensor's first dimension. 0 without tensors.
  std::int64_t size() const { return tensors_.empty() ? 0 : tensors_.front().tensor.size(0); }
  bool empty() const { return size() == 0; }

  /// By name or by position. Throws Error, which says what there is, for one that is not there.
  const Tensor& operator[](std::string_view name) const;
  const Tensor& operator[](int index) const;
  bool contains(std::string_view name) const;
  /// The tensors whose names begin with "<name>.", without that: of a combined loader's batch, those of one loader.
  Batch part(std::string_view name) const;
  /// Replaces a tensor, or adds one behind the others.
  void set(std::string_view name, Tensor tensor);

  std::vector<std::string> names() const;
  auto begin() const { return tensors_.begin(); }
  auto end() const { return tensors_.end(); }

  /// The batch with all its tensors on that device.
  Batch to(Device device) const;

 private:
  std::vector<NamedTensor> tensors_;
};

}  // namespace v0
}  // namespace anneal
