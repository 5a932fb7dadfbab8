// In which order an epoch visits the samples.
#pragma once

#include <cstdint>
#include <vector>

#include "anneal/core/generator.h"

namespace anneal {
inline namespace v0 {

/// The random numbers for item `item` of an epoch, a stream of its own: a function of these three alone.
Generator epoch_generator(std::uint64_t seed, std::int64_t epoch, std::int64_t item);

/// An order is a function of the epoch's number: there is no other state, and a resumed run computes it again.
class Sampler {
 public:
  virtual ~Sampler() = default;
  /// How many samples an epoch visits.
  virtual std::int64_t size() const = 0;
  /// Their numbers, in order.
  virtual std::vector<std::int64_t> order(std::int64_t epoch) const = 0;
};

/// 0, 1, ..., size - 1
class SequentialSampler final : public Sampler {
 public:
  explicit SequentialSampler(std::int64_t size) : size_(size) {}
  std::int64_t size() const override { return size_; }
  std::vector<std::int64_t> order(std::int64_t epoch) const override;

 private:
  std::int64_t size_;
};

/// Each sample once, in a random order of the seed and the epoch.
class RandomSampler final : public Sampler {
 public:
  RandomSampler(std::int64_t size, std::uint64_t seed) : size_(size), seed_(seed) {}
  std::int64_t size() const override { return size_; }
  std::vector<std::int64_t> order(std::int64_t epoch) const override;

 private:
  std::int64_t size_;
  std::uint64_t seed_;
};

}  // namespace v0
}  // namespace anneal
