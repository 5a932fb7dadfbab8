#include "anneal/nn/norm.h"

namespace anneal {
inline namespace v0 {
namespace nn {
namespace {

Tensor if_wanted(bool wanted, const Shape& shape, double value, DType dtype = DType::f32) {
  return wanted ? full(shape, value, {.dtype = dtype}) : Tensor();
}

}  // namespace

LayerNorm::LayerNorm(Slot at, const Shape& shape, LayerNormOptions options)
    : Module(at),
      weight({this, "weight"}, if_wanted(options.affine, shape, 1)),
      bias({this, "bias"}, if_wanted(options.affine, shape, 0)),
      shape_(shape),
      eps_(options.eps) {}

Tensor LayerNorm::forward(const Tensor& x) const {
  if (weight.defined()) return layer_norm(x, weight, bias, eps_);
  bool fits = x.rank() >= shape_.rank();
  for (int d = 1; fits && d <= shape_.rank(); ++d) fits = x.size(-d) == shape_[-d];
  check(fits, "LayerNorm: expected x [..., {}], got {}", shape_, x.shape());
  const int kept = x.rank() - shape_.rank();
  if (shape_.rank() == 1) return layer_norm(x, {}, {}, eps_);
  return layer_norm(x.flatten(kept), {}, {}, eps_).reshape(x.shape());
}

BatchNorm::BatchNorm(Slot at, std::int64_t channels, BatchNormLayerOptions o)
    : Module(at),
      weight({this, "weight"}, if_wanted(o.affine, {channels}, 1)),
      bias({this, "bias"}, if_wanted(o.affine, {channels}, 0)),
      running_mean({this, "running_mean"}, if_wanted(o.running_stats, {channels}, 0)),
      running_var({this, "running_var"}, if_wanted(o.running_stats, {channels}, 1)),
      num_batches_tracked({this, "num_batches_tracked"}, if_wanted(o.running_stats, {}, 0, DType::i64)),
      options_(o) {}

void BatchNorm::reset_running_stats() {
  if (!running_mean.defined()) return;
  running_mean.fill_(0);
  running_var.fill_(1);
  num_batches_tracked.fill_(0);
}

Tensor BatchNorm::normalise(const Tensor& x) const {
  const bool by_batch = training() || !options_.running_stats, moves = training() && tracks_;
  if (moves && options_.running_stats)
    num_batches_tracked.add_(scalar(1, {.dtype = DType::i64, .device = num_batches_tracked.device()}));
  BatchNormOptions options{.training = by_batch, .eps = options_.eps};
  if (by_batch && !(moves && options_.running_stats)) return batch_norm(x, {}, {}, weight, bias, options);
  if (by_batch) options.momentum = options_.momentum ? *options_.momentum : 1 / num_batches_tracked.item();
  return batch_norm(x, running_mean, running_var, weight, bias, options);
}

std::vector<std::pair<std::string, BatchNorm*>> batch_norms(Module& module) {
  std::vector<std::pair<std::string, BatchNorm*>> found;
  if (auto* norm = dynamic_cast<BatchNorm*>(&module)) found.emplace_back("", norm);
  module.for_each_child([&](const std::string& name, Module& child) {
    for (const auto& [inner, norm] : batch_norms(child))
      found.emplace_back(inner.empty() ? name : name + "." + inner, norm);
  });
  return found;
}

Tensor BatchNorm1d::forward(const Tensor& x) const {
  check(x.rank() == 2 || x.rank() == 3, "BatchNorm1d: expected x [n, channels] or [n, channels, length], got {}",
        x.shape());
  return normalise(x);
}
Tensor BatchNorm2d::forward(const Tensor& x) const {
  check(x.rank() == 4, "BatchNorm2d: expected x [n, channels, height, width], got {}", x.shape());
  return normalise(x);
}

}  // namespace nn
}  // namespace v0
}  // namespace anneal
