// The list of what is differentiable, for ops_gradient_test.cpp: each op with inputs to try it at.
#pragma once

#include <functional>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "anneal/core/autograd.h"
#include "anneal/core/ops.h"

namespace anneal::testing {

using Function = std::function<Tensor(std::span<const Tensor>)>;

/// An input that wants a gradient: its shape and the interval that values are drawn from.
struct GradientInput {
  Shape shape;
  double low = -2, high = 2;
};

/// What is to be seen when the gradient itself is differentiated.
enum class Second {
  constant,  ///< nothing: the op is linear, its gradient does not depend on the inputs
  checked,   ///< the right values
  throws,    ///< the Error that fused kernels throw
};

struct GradientCase {
  std::string name;  ///< the op's, and after a space what is special
  std::vector<GradientInput> inputs;
  Function f;
  Second second = Second::checked;
};

/// f64 values in the given interval, the same in each run.
inline Tensor uniform(const Shape& shape, double low = -2, double high = 2, unsigned seed = 1) {
  std::mt19937 engine(seed);
  std::uniform_real_distribution<double> draw(low, high);
  std::vector<double> values(static_cast<std::size_t>(shape.numel()));
  for (double& value : values) value = draw(engine);
  return tensor(values, shape, {.dtype = DType::f64});
}

/// Of the operands that cases have besides their inputs: the device, and the dtype of the floating ones.
inline thread_local TensorOptions options_of_cases{.dtype = DType::f64};

inline Tensor indices(std::initializer_list<double> values, const Shape& shape) {
  return tensor(values, shape, {.dtype = DType::i64, .device = options_of_cases.device});
}
inline Tensor flags(std::initializer_list<double> values, const Shape& shape) {
  return tensor(values, shape, {.dtype = DType::boolean, .device = options_of_cases.device});
}
inline Tensor constant(const Tensor& x) { return x.to(options_of_cases.dtype).to(options_of_cases.device); }

using Inputs = std::span<const Tensor>;

}  // namespace anneal::testing
