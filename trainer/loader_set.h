// The loaders of an evaluation.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <utility>
#include <vector>

#include "anneal/data/data_loader.h"

namespace anneal {
inline namespace v0 {

/// One loader or several, which are gone through one after the other: `validate(module, {clean, noisy})`.
struct LoaderSet {
  LoaderSet() = default;
  LoaderSet(DataLoader loader) { loaders.push_back(std::move(loader)); }
  LoaderSet(std::vector<DataLoader> several) : loaders(std::move(several)) {}
  LoaderSet(std::initializer_list<DataLoader> several) : loaders(several) {}

  std::vector<DataLoader> loaders;
};

/// A rank's shares of them, and how many batches of each are used.
struct LimitedLoaders {
  std::vector<DataLoader> loaders;
  std::vector<std::int64_t> batches;
  /// How many of these, from the first on, there are on every rank; 0 if one has a stream, whose end nobody knows.
  std::int64_t on_all_ranks = unknown_size;

  /// unknown_size if one is.
  std::int64_t total() const {
    std::int64_t sum = 0;
    for (const std::int64_t n : batches) sum += std::min(n, unknown_size - sum);
    return sum;
  }
  /// Of one of them, or of all.
  std::int64_t number(std::optional<std::size_t> loader) const { return loader ? batches.at(*loader) : total(); }
};

}  // namespace v0
}  // namespace anneal
