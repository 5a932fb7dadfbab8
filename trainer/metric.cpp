#include "anneal/trainer/metric.h"

#include <algorithm>

#include "anneal/core/autograd.h"
#include "anneal/core/ops.h"

namespace anneal {
inline namespace v0 {
namespace {

void check_shapes(const char* metric, const Tensor& scores, const Tensor& target) {
  check(scores.rank() == 2 && target.rank() == 1 && scores.size(0) == target.size(0),
        "{}: expected scores [n, classes] and targets [n], got {} and {}", metric, scores.shape(), target.shape());
}

}  // namespace

void Metric::reset() {
  std::ranges::fill(sums_, 0.0);
  std::ranges::fill(batch_, 0.0);
  updated_ = false;
}

void Metric::set_sums(std::span<const double> sums) {
  check(sums.size() == sums_.size(), "metric: expected {} sums, got {}", sums_.size(), sums.size());
  std::ranges::copy(sums, sums_.begin());
  updated_ = true;
}

void Metric::add(std::span<const double> batch) {
  check(batch.size() == sums_.size(), "metric: expected {} sums, got {}", sums_.size(), batch.size());
  std::ranges::copy(batch, batch_.begin());
  for (std::size_t i = 0; i < sums_.size(); ++i) sums_[i] += batch[i];
  updated_ = true;
}

Accuracy::Accuracy(std::int64_t top_k) : Metric(2), top_k_(top_k) {
  check<ConfigError>(top_k >= 1, "Accuracy: expected a top_k of at least 1, got {}", top_k);
}

// A target is among the k largest if less than k scores are larger. A score that is no number is not the largest.
void Accuracy::update(const Tensor& scores, const Tensor& target) {
  check_shapes("Accuracy", scores, target);
  const NoGrad no_grad;
  const Tensor not_larger = sum(le(scores, gather(scores, 1, target.unsqueeze(1))).to(DType::i64), {1});
  double hits = 0;
  for (const double n : not_larger.to_vector()) hits += n > static_cast<double>(scores.size(1) - top_k_);
  add(std::vector{hits, static_cast<double>(target.numel())});
}

F1Score::F1Score(std::int64_t classes) : Metric(static_cast<std::size_t>(3 * classes)), classes_(classes) {
  check<ConfigError>(classes >= 2, "F1Score: expected at least 2 classes, got {}", classes);
}

// For each class: hits, targets, calls.
void F1Score::update(const Tensor& scores, const Tensor& target) {
  check_shapes("F1Score", scores, target);
  const NoGrad no_grad;
  const std::vector<double> called = argmax(scores, 1).to_vector(), wanted = target.to_vector();
  std::vector<double> batch(static_cast<std::size_t>(3 * classes_));
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    check(wanted[i] >= 0 && wanted[i] < static_cast<double>(classes_) && scores.size(1) == classes_,
          "F1Score: expected targets from 0 to {} and as many scores, got {} and {} scores", classes_ - 1, wanted[i],
          scores.size(1));
    batch[static_cast<std::size_t>(3 * wanted[i] + 1)] += 1;
    batch[static_cast<std::size_t>(3 * called[i] + 2)] += 1;
    if (called[i] == wanted[i]) batch[static_cast<std::size_t>(3 * wanted[i])] += 1;
  }
  add(batch);
}

double F1Score::compute(std::span<const double> sums) const {
  double total = 0;
  int classes = 0;
  for (std::size_t c = 0; c < sums.size(); c += 3) {
    const double either = sums[c + 1] + sums[c + 2];  // 2 hits + misses + false calls
    if (either == 0) continue;
    total += 2 * sums[c] / either;
    ++classes;
  }
  return total / classes;
}

}  // namespace v0
}  // namespace anneal
