// Which weights pruning drops. Private.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "anneal/core/generator.h"
#include "anneal/core/named_tensor.h"
#include "anneal/trainer/options.h"

namespace anneal {
inline namespace v0 {

/// How important each element of a weight is, in a tensor of its shape; the least important are dropped first.
using PruningScore = std::function<Tensor(const Tensor& weight)>;

/// The rule that ranks what can be dropped: single elements, or whole slices along a dimension.
class PruningRule {
 public:
  /// A name as in ModelPruningOptions::fn, or a function. Throws ConfigError for another name, or a structured one
  /// without what it needs.
  PruningRule(std::variant<std::string, PruningScore> fn, std::optional<int> dim, std::optional<double> norm);

  bool structured() const { return dim_.has_value(); }
  const std::string& name() const { return name_; }
  /// Whether it can prune such a weight: slices need two dimensions or more, and that one among them.
  bool fits(const Tensor& weight) const;
  /// Ones, in a shape that broadcasts to the weight's: one for each element, or for each slice.
  Tensor new_mask(const Tensor& weight) const;
  /// What the mask's elements are worth.
  Tensor score(const Tensor& weight, Generator& generator) const;

 private:
  std::string name_;
  PruningScore function_;
  std::optional<int> dim_;
  double norm_ = 1;
};

/// Drops the least important of what the masks have left, of all weights together: a share, or a number.
void drop_least(std::span<Tensor> masks, std::span<const Tensor> scores, const Amount& amount);

}  // namespace v0
}  // namespace anneal
