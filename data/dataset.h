// Where samples come from.
#pragma once

#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "anneal/data/batch.h"

namespace anneal {
inline namespace v0 {

/// Samples with numbers from 0 to size() - 1.
class Dataset {
 public:
  virtual ~Dataset() = default;
  virtual std::int64_t size() const = 0;
  /// The samples of these numbers as one batch, in this order. Workers call it at the same time.
  virtual Batch get(std::span<const std::int64_t> indices) const = 0;
};

/// Rows of tensors: sample i is row i of each.
///
///   TensorDataset train{{"x", images}, {"y", labels}};
class TensorDataset final : public Dataset {
 public:
  /// Throws Error unless all have the same first dimension.
  TensorDataset(std::initializer_list<NamedTensor> tensors) : TensorDataset(std::vector(tensors)) {}
  explicit TensorDataset(std::vector<NamedTensor> tensors);

  std::int64_t size() const override { return size_; }
  /// Throws Error for an index that is not in [0, size()).
  Batch get(std::span<const std::int64_t> indices) const override;

 private:
  std::vector<NamedTensor> tensors_;
  std::int64_t size_;
};

/// Some samples of another dataset, in the given order.
class Subset final : public Dataset {
 public:
  /// Throws Error for an index that is not in [0, whole->size()).
  Subset(std::shared_ptr<const Dataset> whole, std::vector<std::int64_t> indices);
  template <std::derived_from<Dataset> D>
  Subset(D whole, std::vector<std::int64_t> indices)
      : Subset(std::make_shared<const D>(std::move(whole)), std::move(indices)) {}

  std::int64_t size() const override { return static_cast<std::int64_t>(indices_.size()); }
  Batch get(std::span<const std::int64_t> indices) const override;

 private:
  std::shared_ptr<const Dataset> whole_;
  std::vector<std::int64_t> indices_;
};

/// One batch of samples, which are batches without the samples' dimension: each tensor gets it in front. Throws Error
/// unless all have the same names, dtypes and shapes.
Batch collate(std::span<const Batch> samples);

/// Samples that a function makes; see make_dataset.
template <class Get, class Collate>
class MapDataset final : public Dataset {
 public:
  MapDataset(std::int64_t size, Get get, Collate collate)
      : size_(size), get_(std::move(get)), collate_(std::move(collate)) {}

  std::int64_t size() const override { return size_; }
  Batch get(std::span<const std::int64_t> indices) const override {
    std::vector<std::invoke_result_t<const Get&, std::int64_t>> samples;
    samples.reserve(indices.size());
    for (const std::int64_t i : indices) samples.push_back(get_(i));
    return collate_(samples);
  }

 private:
  std::int64_t size_;
  Get get_;
  Collate collate_;
};

/// A dataset whose sample `i` is `get(i)`: a Batch without the samples' dimension, or a type of your own together with
/// a `collate(span of it)` that makes a Batch. Workers call both at the same time.
///
///   auto squares = make_dataset(100, [](std::int64_t i) { return Batch{{"x", scalar(double(i))}, {"y", scalar(double(i
///   * i))}}; });
template <class Get, class Collate = Batch (*)(std::span<const Batch>)>
MapDataset<Get, Collate> make_dataset(std::int64_t size, Get get, Collate collate = &anneal::collate) {
  return {size, std::move(get), std::move(collate)};
}

}  // namespace v0
}  // namespace anneal
