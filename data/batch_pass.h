// What a loader reads, and one pass over it. Not for users.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "anneal/data/data_loader.h"

namespace anneal {
inline namespace v0 {

/// A pass over an epoch, which stands on a batch or at its end; before the first `advance` in front of all.
class BatchPass {
 public:
  virtual ~BatchPass() = default;
  virtual void advance() = 0;
  virtual bool done() const = 0;
  /// Whether no batch follows the current one, which takes a look ahead if nobody knows.
  virtual bool last() = 0;
  virtual Batch& current() = 0;
  virtual std::int64_t index() const = 0;
  virtual std::span<const std::int64_t> samples() const { return {}; }
  virtual StateMap state(std::int64_t /*next*/) const { return {}; }
};

/// What a loader reads if it is not a dataset.
class BatchSource {
 public:
  virtual ~BatchSource() = default;
  virtual std::int64_t size() const = 0;
  virtual std::int64_t global_batch_size(std::int64_t i) const = 0;
  virtual std::unique_ptr<BatchPass> begin(std::int64_t epoch, std::int64_t first, const StateMap& state) const = 0;
  /// DataLoader::each of several loaders; null for one that has none.
  virtual std::shared_ptr<const BatchSource> each(const LoaderFunction&) const { return nullptr; }
};

DataLoader loader_of(std::shared_ptr<const BatchSource> source);
std::shared_ptr<const BatchSource> stream_source(OpenStream open, std::uint64_t seed);

}  // namespace v0
}  // namespace anneal
