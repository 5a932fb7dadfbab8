// Initialisation in place, by the names and formulas of torch.nn.init. Each returns the tensor it filled.
#pragma once

#include "anneal/core/generator.h"
#include "anneal/core/tensor.h"

namespace anneal {
inline namespace v0 {
namespace nn::init {

/// Inputs and outputs of one unit of a weight [out, in, ...]. Throws Error for fewer than two dimensions.
struct Fans {
  std::int64_t in, out;
};
Fans fans(const Tensor& weight);

Tensor uniform_(const Tensor& x, double low, double high, Generator& generator = current_generator());
Tensor normal_(const Tensor& x, double mean = 0, double std = 1, Generator& generator = current_generator());
/// Uniform in +-gain * sqrt(3 / fan_in), where gain = sqrt(2 / (1 + a^2)): He et al. 2015. Layers use a = sqrt(5).
Tensor kaiming_uniform_(const Tensor& x, double a = 0, Generator& generator = current_generator());
Tensor kaiming_normal_(const Tensor& x, double a = 0, Generator& generator = current_generator());
/// Uniform in +-1 / sqrt(fan_in): the bias of a layer with that many inputs.
Tensor bias_(const Tensor& x, std::int64_t fan_in, Generator& generator = current_generator());
/// Uniform in +-gain * sqrt(6 / (fan_in + fan_out)): Glorot & Bengio 2010.
Tensor xavier_uniform_(const Tensor& x, double gain = 1, Generator& generator = current_generator());
Tensor xavier_normal_(const Tensor& x, double gain = 1, Generator& generator = current_generator());
/// Rows (or columns, if there are more rows) orthonormal, times gain: Saxe et al. 2014.
Tensor orthogonal_(const Tensor& x, double gain = 1, Generator& generator = current_generator());

}  // namespace nn::init
}  // namespace v0
}  // namespace anneal
