// Normalisation layers.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "anneal/core/ops.h"
#include "anneal/nn/module.h"

namespace anneal {
inline namespace v0 {
namespace nn {

struct LayerNormOptions {
  double eps = 1e-5;
  bool affine = true;  ///< with weight (ones at first) and bias (zeros)
};
/// Over the last dimensions, of the given sizes.
class LayerNorm : public Module {
 public:
  LayerNorm(Slot at, const Shape& shape, LayerNormOptions options = {});
  explicit LayerNorm(const Shape& shape, LayerNormOptions options = {}) : LayerNorm(Slot{}, shape, options) {}
  LayerNorm(Slot at, std::int64_t size, LayerNormOptions options = {}) : LayerNorm(at, Shape{size}, options) {}
  explicit LayerNorm(std::int64_t size, LayerNormOptions options = {}) : LayerNorm(Slot{}, Shape{size}, options) {}
  Tensor forward(const Tensor& x) const override;

  Parameter weight;
  Parameter bias;

 private:
  Shape shape_;
  double eps_;
};

struct BatchNormLayerOptions {
  double eps = 1e-5;
  /// The share of a batch's statistics in the running ones; none: those are the mean of all batches.
  std::optional<double> momentum = 0.1;
  bool affine = true;         ///< with weight (ones at first) and bias (zeros)
  bool running_stats = true;  ///< without: the batch's statistics in evaluation too
};
/// What both batch norms share. In training the batch's statistics, in evaluation the running ones.
class BatchNorm : public Module {
 public:
  Parameter weight;
  Parameter bias;
  Buffer running_mean;
  Buffer running_var;
  Buffer num_batches_tracked;  ///< i64, a scalar

  std::optional<double> momentum() const { return options_.momentum; }
  void set_momentum(std::optional<double> momentum) { options_.momentum = momentum; }
  /// False: training leaves the running statistics as they are, as in a part that is frozen.
  void set_track_running_stats(bool on) { tracks_ = on; }
  bool track_running_stats() const { return tracks_; }
  /// Mean 0, variance 1, no batches.
  void reset_running_stats();

 protected:
  BatchNorm(Slot at, std::int64_t channels, BatchNormLayerOptions options);
  Tensor normalise(const Tensor& x) const;

 private:
  BatchNormLayerOptions options_;
  bool tracks_ = true;
};
/// A module's batch norms by full name, in the order of a walk; it may be one itself.
std::vector<std::pair<std::string, BatchNorm*>> batch_norms(Module& module);

/// x [n, channels] or [n, channels, length].
class BatchNorm1d : public BatchNorm {
 public:
  explicit BatchNorm1d(Slot at, std::int64_t channels, BatchNormLayerOptions options = {})
      : BatchNorm(at, channels, options) {}
  explicit BatchNorm1d(std::int64_t channels, BatchNormLayerOptions options = {})
      : BatchNorm1d(Slot{}, channels, options) {}
  Tensor forward(const Tensor& x) const override;
};
/// x [n, channels, height, width].
class BatchNorm2d : public BatchNorm {
 public:
  explicit BatchNorm2d(Slot at, std::int64_t channels, BatchNormLayerOptions options = {})
      : BatchNorm(at, channels, options) {}
  explicit BatchNorm2d(std::int64_t channels, BatchNormLayerOptions options = {})
      : BatchNorm2d(Slot{}, channels, options) {}
  Tensor forward(const Tensor& x) const override;
};

}  // namespace nn
}  // namespace v0
}  // namespace anneal
