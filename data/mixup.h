// Batches of mixed images, for training.
#pragma once

#include <functional>
#include <string>

#include "anneal/core/generator.h"
#include "anneal/data/batch.h"

namespace anneal {
inline namespace v0 {

/// Where the parts of a batch that are mixed stand.
struct MixNames {
  std::string inputs = "x", targets = "y";
};

/// Blends each sample with another one of the batch: x = w * x + (1 - w) * x', with a weight w drawn from Beta(alpha,
/// alpha) for the batch. The other samples' targets are added as "<targets>_mixed", the weight as "mix_weight", once a
/// sample. For `mixed_loss`. Zhang et al. 2018.
///
/// It is a Transform, for the training loader's options; or call it where the model is:
/// `void on_after_batch_transfer(Batch& batch) override { if (training()) mixup(batch); }`
class MixUp {
 public:
  /// Throws ConfigError for an alpha that is not above 0.
  explicit MixUp(double alpha, MixNames names = {});
  void operator()(Batch& batch, Generator& generator = current_generator()) const;

 private:
  double alpha_;
  MixNames names_;
};

/// Puts a rectangle of another sample of the batch into each image [n, channels, height, width]; the weight is the
/// share of the image that is left. Otherwise as MixUp. Yun et al. 2019.
class CutMix {
 public:
  /// Throws ConfigError for an alpha that is not above 0.
  explicit CutMix(double alpha, MixNames names = {});
  void operator()(Batch& batch, Generator& generator = current_generator()) const;

 private:
  double alpha_;
  MixNames names_;
};

/// w * loss(targets) + (1 - w) * loss(the others' targets); of a batch that was not mixed, loss(targets).
Tensor mixed_loss(const Batch& batch, const std::function<Tensor(const Tensor& targets)>& loss,
                  const std::string& targets = "y");

}  // namespace v0
}  // namespace anneal
