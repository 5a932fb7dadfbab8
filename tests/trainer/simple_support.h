// Small runs of the simple form.
#pragma once

#include <utility>
#include <vector>

#include "anneal/tests/trainer/support.h"
#include "anneal/trainer/simple_trainer.h"

namespace anneal_test {

inline Tensor mse(const Tensor& outputs, const Tensor& targets) { return mse_loss(outputs, targets); }

/// y = 2x + 1 in n samples.
inline TensorDataset line(std::int64_t n) {
  const Tensor x = arange(n).to(DType::f32).reshape({n, 1}) * (1 / static_cast<double>(n));
  return TensorDataset{{"x", x}, {"y", x * 2 + 1.0}};
}

inline Shared<optim::Optimizer> sgd(const nn::Module& model, double lr = 0.1) {
  return optim::SGD(model.parameters(), {.lr = lr, .momentum = 0.5});
}

inline TrainerOptions quiet_with(std::vector<Shared<Callback>> callbacks = {}) {
  return quiet({.callbacks = std::move(callbacks)});
}

}  // namespace anneal_test
