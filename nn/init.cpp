#include "anneal/nn/init.h"

#include <Eigen/QR>
#include <algorithm>
#include <cmath>

#include "anneal/core/autograd.h"
#include "anneal/core/ops.h"

namespace anneal {
inline namespace v0 {
namespace nn::init {

Fans fans(const Tensor& weight) {
  check(weight.rank() >= 2, "init: fans need a weight [out, in, ...], got shape {}", weight.shape());
  const std::int64_t window = weight.numel() / std::max<std::int64_t>(weight.size(0) * weight.size(1), 1);
  return {weight.size(1) * window, weight.size(0) * window};
}

Tensor uniform_(const Tensor& x, double low, double high, Generator& generator) {
  const NoGrad no_grad;
  return x.copy_(rand(x.shape(), {.dtype = x.dtype()}, generator) * (high - low) + low);
}
Tensor normal_(const Tensor& x, double mean, double std, Generator& generator) {
  const NoGrad no_grad;
  return x.copy_(randn(x.shape(), {.dtype = x.dtype()}, generator) * std + mean);
}

namespace {

double kaiming_std(const Tensor& x, double a) {
  return std::sqrt(2 / (1 + a * a) / static_cast<double>(std::max<std::int64_t>(fans(x).in, 1)));
}
double xavier_std(const Tensor& x, double gain) {
  const Fans f = fans(x);
  return gain * std::sqrt(2 / static_cast<double>(std::max<std::int64_t>(f.in + f.out, 1)));
}

}  // namespace

Tensor kaiming_uniform_(const Tensor& x, double a, Generator& generator) {
  const double bound = std::sqrt(3.0) * kaiming_std(x, a);
  return uniform_(x, -bound, bound, generator);
}
Tensor kaiming_normal_(const Tensor& x, double a, Generator& generator) {
  return normal_(x, 0, kaiming_std(x, a), generator);
}
Tensor bias_(const Tensor& x, std::int64_t fan_in, Generator& generator) {
  const double bound = 1 / std::sqrt(static_cast<double>(std::max<std::int64_t>(fan_in, 1)));
  return uniform_(x, -bound, bound, generator);
}
Tensor xavier_uniform_(const Tensor& x, double gain, Generator& generator) {
  const double bound = std::sqrt(3.0) * xavier_std(x, gain);
  return uniform_(x, -bound, bound, generator);
}
Tensor xavier_normal_(const Tensor& x, double gain, Generator& generator) {
  return normal_(x, 0, xavier_std(x, gain), generator);
}

Tensor orthogonal_(const Tensor& x, double gain, Generator& generator) {
  check(x.rank() >= 2, "orthogonal_: expected at least two dimensions, got {}", x.shape());
  const NoGrad no_grad;
  const std::int64_t rows = x.size(0);
  const std::int64_t cols = rows ? x.numel() / rows : 0;
  const std::int64_t longer = std::max(rows, cols);
  const std::int64_t shorter = std::min(rows, cols);
  // Column-major for Eigen: as we store it, the transpose.
  const Tensor drawn = randn({shorter, longer}, {.dtype = DType::f64}, generator);
  Eigen::Map<Eigen::MatrixXd> a(drawn.data<double>(), longer, shorter);
  const Eigen::HouseholderQR<Eigen::MatrixXd> qr(a);
  a.setIdentity();
  a.applyOnTheLeft(qr.householderQ());
  // The signs of R's diagonal make the distribution uniform.
  for (Eigen::Index j = 0; j < shorter; ++j) a.col(j) *= qr.matrixQR()(j, j) < 0 ? -gain : gain;
  return x.copy_((rows <= cols ? drawn : drawn.transpose(0, 1)).reshape(x.shape()).to(x.dtype()));
}

}  // namespace nn::init
}  // namespace v0
}  // namespace anneal
