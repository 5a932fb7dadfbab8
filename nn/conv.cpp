#include "anneal/nn/conv.h"

#include <cmath>

#include "anneal/nn/init.h"

namespace anneal {
inline namespace v0 {
namespace nn {

namespace {

void check_groups(const char* layer, std::int64_t in, std::int64_t out, std::int64_t groups) {
  check(groups >= 1 && in % groups == 0 && out % groups == 0, "{}: {} groups do not divide {} inputs and {} outputs",
        layer, groups, in, out);
}
Tensor new_weight(std::int64_t in, std::int64_t out, std::int64_t window, std::int64_t groups) {
  check_groups("Conv1d", in, out, groups);
  return init::kaiming_uniform_(empty({out, in / groups, window}), std::sqrt(5.0));
}
Tensor new_weight(std::int64_t in, std::int64_t out, Pair window, std::int64_t groups) {
  check_groups("Conv2d", in, out, groups);
  return init::kaiming_uniform_(empty({out, in / groups, window.h, window.w}), std::sqrt(5.0));
}

}  // namespace

Conv1d::Conv1d(Slot at, std::int64_t in, std::int64_t out, std::int64_t window, Conv1dLayerOptions o)
    : Module(at),
      weight({this, "weight"}, new_weight(in, out, window, o.groups)),
      bias({this, "bias"}, o.bias ? init::bias_(empty({out}), init::fans(weight).in) : Tensor()),
      options_{o.stride, o.padding, o.dilation, o.groups} {}

Tensor Conv1d::forward(const Tensor& x) const { return conv1d(x, weight, bias, options_); }

Conv2d::Conv2d(Slot at, std::int64_t in, std::int64_t out, Pair window, Conv2dLayerOptions o)
    : Module(at),
      weight({this, "weight"}, new_weight(in, out, window, o.groups)),
      bias({this, "bias"}, o.bias ? init::bias_(empty({out}), init::fans(weight).in) : Tensor()),
      options_{o.stride, o.padding, o.dilation, o.groups} {}

Tensor Conv2d::forward(const Tensor& x, kernels::Activation activation) const {
  Conv2dOptions options = options_;
  options.activation = activation;
  return conv2d(x, weight, bias, options);
}

}  // namespace nn
}  // namespace v0
}  // namespace anneal
