// Convolution of sequences [n, channels, length], and convolution and pooling of images [n, channels, height, width].
#pragma once

#include "anneal/core/ops.h"
#include "anneal/nn/module.h"

namespace anneal {
inline namespace v0 {
namespace nn {

struct Conv1dLayerOptions {
  std::int64_t stride = 1;
  std::int64_t padding = 0;
  std::int64_t dilation = 1;
  std::int64_t groups = 1;
  bool bias = true;
};
/// Cross-correlation with a window. Weight [out, in / groups, k] and bias are drawn uniformly from
/// +-1/sqrt(in / groups * k).
class Conv1d : public Module {
 public:
  Conv1d(Slot at, std::int64_t in, std::int64_t out, std::int64_t window, Conv1dLayerOptions options = {});
  Conv1d(std::int64_t in, std::int64_t out, std::int64_t window, Conv1dLayerOptions options = {})
      : Conv1d(Slot{}, in, out, window, options) {}
  Tensor forward(const Tensor& x) const override;

  Parameter weight;
  Parameter bias;  ///< undefined without bias

 private:
  Conv1dOptions options_;
};

struct Conv2dLayerOptions {
  Pair stride = 1;
  Pair padding = 0;
  Pair dilation = 1;
  std::int64_t groups = 1;
  bool bias = true;
};
/// Cross-correlation with a window. Weight [out, in / groups, kh, kw] and bias are drawn uniformly from
/// +-1/sqrt(in / groups * kh * kw).
class Conv2d : public Module {
 public:
  Conv2d(Slot at, std::int64_t in, std::int64_t out, Pair window, Conv2dLayerOptions options = {});
  Conv2d(std::int64_t in, std::int64_t out, Pair window, Conv2dLayerOptions options = {})
      : Conv2d(Slot{}, in, out, window, options) {}
  Tensor forward(const Tensor& x) const override { return forward(x, kernels::Activation::none); }
  /// With an activation in the same pass.
  Tensor forward(const Tensor& x, kernels::Activation activation) const;

  Parameter weight;
  Parameter bias;  ///< undefined without bias

 private:
  Conv2dOptions options_;
};

class MaxPool2d : public Module {
 public:
  explicit MaxPool2d(Slot at, Pair window, PoolOptions options = {}) : Module(at), window_(window), options_(options) {}
  explicit MaxPool2d(Pair window, PoolOptions options = {}) : MaxPool2d(Slot{}, window, options) {}
  Tensor forward(const Tensor& x) const override { return max_pool2d(x, window_, options_); }

 private:
  Pair window_;
  PoolOptions options_;
};

class AvgPool2d : public Module {
 public:
  explicit AvgPool2d(Slot at, Pair window, PoolOptions options = {}, bool count_include_pad = true)
      : Module(at), window_(window), options_(options), count_include_pad_(count_include_pad) {}
  explicit AvgPool2d(Pair window, PoolOptions options = {}, bool count_include_pad = true)
      : AvgPool2d(Slot{}, window, options, count_include_pad) {}
  Tensor forward(const Tensor& x) const override { return avg_pool2d(x, window_, options_, count_include_pad_); }

 private:
  Pair window_;
  PoolOptions options_;
  bool count_include_pad_;
};

}  // namespace nn
}  // namespace v0
}  // namespace anneal
