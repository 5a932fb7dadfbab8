#include "anneal/trainer/pruning.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>
#include <utility>

#include "anneal/core/error.h"
#include "anneal/core/ops.h"

namespace anneal {
inline namespace v0 {
namespace {

// All dimensions but one.
std::vector<int> others(const Tensor& weight, int dim) {
  std::vector<int> dims;
  for (int d = 0; d < weight.rank(); ++d)
    if (d != dim && d != dim + weight.rank()) dims.push_back(d);
  return dims;
}

}  // namespace

PruningRule::PruningRule(std::variant<std::string, PruningScore> fn, std::optional<int> dim, std::optional<double> norm)
    : name_("a function") {
  if (auto* function = std::get_if<PruningScore>(&fn)) {
    function_ = std::move(*function);
    check<ConfigError>(static_cast<bool>(function_), "fn: expected a function of a weight, got an empty one");
    return;
  }
  name_ = std::get<std::string>(fn);
  const bool ln = name_ == "ln_structured";
  check<ConfigError>(ln || name_ == "random_structured" || name_ == "l1_unstructured" || name_ == "random_unstructured",
                     "fn: expected l1_unstructured, random_unstructured, ln_structured, random_structured or a "
                     "function, got \"{}\"",
                     name_);
  if (name_.ends_with("unstructured")) return;
  check<ConfigError>(dim.has_value(), "pruning_dim: {} needs the dimension whose slices are dropped, got none", name_);
  check<ConfigError>(!ln || norm.value_or(0) > 0, "pruning_norm: {} needs a norm above 0, got {}", name_,
                     norm.value_or(0));
  dim_ = dim;
  norm_ = norm.value_or(1);
}

bool PruningRule::fits(const Tensor& weight) const {
  return !dim_ || (weight.rank() >= 2 && *dim_ >= -weight.rank() && *dim_ < weight.rank());
}

Tensor PruningRule::new_mask(const Tensor& weight) const {
  Shape shape = weight.shape();
  if (dim_)
    for (const int d : others(weight, *dim_)) shape[d] = 1;
  return ones(shape, {.dtype = weight.dtype(), .device = weight.device()});
}

Tensor PruningRule::score(const Tensor& weight, Generator& generator) const {
  if (function_) {
    const Tensor score = function_(weight);
    check(score.defined() && score.shape() == weight.shape(),
          "pruning: expected the function to return a tensor of the weight's shape {}, got {}", weight.shape(),
          score.defined() ? score.shape() : Shape{});
    return score;
  }
  if (name_.starts_with("random")) return rand(new_mask(weight).shape(), {}, generator);
  const Tensor magnitude = abs(weight.to(weight.dtype() == DType::f64 ? DType::f64 : DType::f32));
  if (!dim_) return magnitude;
  const std::vector<int> dims = others(weight, *dim_);
  if (std::isinf(norm_)) return amax(magnitude, dims, true);
  return sum(norm_ == 1 ? magnitude : pow(magnitude, norm_), dims, true);  // ranks as its root does
}

void drop_least(std::span<Tensor> masks, std::span<const Tensor> scores, const Amount& amount) {
  // Equal scores are dropped in the order of the weights and their elements.
  struct Unit {
    double score;
    std::size_t mask, element;
    bool operator<(const Unit& other) const {
      return std::tie(score, mask, element) < std::tie(other.score, other.mask, other.element);
    }
  };
  std::vector<Unit> left;
  std::vector<std::vector<double>> values;
  for (std::size_t m = 0; m < masks.size(); ++m) {
    values.push_back(masks[m].to(Device{}).to_vector());
    const std::vector<double> score = scores[m].to(Device{}).to_vector();
    for (std::size_t i = 0; i < score.size(); ++i)
      if (values[m][i] != 0) left.push_back({std::isnan(score[i]) ? INFINITY : score[i], m, i});
  }
  const auto all = static_cast<double>(left.size());
  const double wanted = amount.is_count() ? amount.value() : std::nearbyint(amount.value() * all);
  const auto end = left.begin() + static_cast<std::ptrdiff_t>(std::min(wanted, all));
  std::nth_element(left.begin(), end, left.end());
  for (auto unit = left.begin(); unit != end; ++unit) values[unit->mask][unit->element] = 0;
  for (std::size_t m = 0; m < masks.size(); ++m)
    masks[m] = tensor(values[m], masks[m].shape(), {.dtype = masks[m].dtype()}).to(masks[m].device());
}

}  // namespace v0
}  // namespace anneal
