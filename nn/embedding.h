// Embedding and dropout.
#pragma once

#include "anneal/core/ops.h"
#include "anneal/nn/module.h"

namespace anneal {
inline namespace v0 {
namespace nn {

struct EmbeddingOptions {
  std::int64_t padding_idx = -1;  ///< a row of zeros that is not trained; -1: none
};
/// Rows of a table by index: [...] of i64 or i32 -> [..., dim]. The weight [rows, dim] is drawn from a standard normal.
class Embedding : public Module {
 public:
  Embedding(Slot at, std::int64_t rows, std::int64_t dim, EmbeddingOptions options = {});
  Embedding(std::int64_t rows, std::int64_t dim, EmbeddingOptions options = {})
      : Embedding(Slot{}, rows, dim, options) {}
  Tensor forward(const Tensor& index) const override { return embedding(index, weight, options_.padding_idx); }

  Parameter weight;

 private:
  EmbeddingOptions options_;
};

/// In training, zeroes each element with probability p and scales the others by 1 / (1 - p); draws from the thread's
/// current generator. Srivastava et al. 2014.
class Dropout : public Module {
 public:
  explicit Dropout(Slot at, double p = 0.5) : Module(at), p_(p) {
    check(p >= 0 && p <= 1, "Dropout: p {} is not in [0, 1]", p);
  }
  explicit Dropout(double p = 0.5) : Dropout(Slot{}, p) {}
  Tensor forward(const Tensor& x) const override { return training() ? dropout(x, p_) : x; }

 private:
  double p_;
};

}  // namespace nn
}  // namespace v0
}  // namespace anneal
