// All that is differentiable.
#pragma once

#include "anneal/tests/core/gradient_cases_layers.h"
#include "anneal/tests/core/gradient_cases_pointwise.h"

namespace anneal::testing {

inline std::vector<GradientCase> gradient_cases() {
  std::vector<GradientCase> list;
  add_unary_cases(list);
  add_binary_cases(list);
  add_scalar_cases(list);
  add_choice_cases(list);
  add_reduction_cases(list);
  add_view_cases(list);
  add_index_cases(list);
  add_linear_cases(list);
  add_image_cases(list);
  add_loss_cases(list);
  add_norm_cases(list);
  add_attention_cases(list);
  return list;
}
/// Its inputs, of f64 on the CPU.
inline std::vector<Tensor> leaves_of(const GradientCase& c) {
  std::vector<Tensor> leaves;
  for (const GradientInput& input : c.inputs) {
    Tensor x = uniform(input.shape, input.low, input.high, 17 + static_cast<unsigned>(leaves.size()));
    leaves.push_back(x.set_requires_grad());
  }
  return leaves;
}

}  // namespace anneal::testing
