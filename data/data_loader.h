// Batches of a dataset, epoch by epoch.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <iterator>
#include <limits>
#include <memory>
#include <span>
#include <utility>

#include "anneal/data/batch_stream.h"
#include "anneal/data/dataset.h"
#include "anneal/data/sampler.h"

namespace anneal {
inline namespace v0 {

/// Changes a batch where it is made, for augmentation. The generator depends on seed, epoch and the batch's number
/// alone, and ops draw from it too: results are the same for any number of workers.
using Transform = std::function<void(Batch& batch, Generator& generator)>;

struct DataLoaderOptions {
  std::int64_t batch_size = 1;
  bool shuffle = false;    ///< a new random order each epoch
  bool drop_last = false;  ///< leave out a last batch that is not full
  int num_workers = 0;     ///< threads that make batches ahead; 0: the caller's thread makes each when it is due
  int prefetch = 2;        ///< how many batches ahead, for each worker
  std::uint64_t seed = 0;  ///< of the order and of the transform
  Transform transform = {};
  std::shared_ptr<const Sampler> sampler = {};  ///< an order of your own, instead of `shuffle`
};

/// The size of what nobody knows the size of: more than any number.
inline constexpr std::int64_t unknown_size = std::numeric_limits<std::int64_t>::max();

class DataLoader;
using LoaderFunction = std::function<DataLoader(const DataLoader&)>;
class BatchPass;
class BatchSource;

/// Where a pass over an epoch stands, and its worker threads: they end with it. An input iterator.
class BatchIterator {
 public:
  using value_type = Batch;
  using difference_type = std::ptrdiff_t;

  BatchIterator(BatchIterator&&) noexcept;
  BatchIterator& operator=(BatchIterator&&) noexcept;
  ~BatchIterator();

  /// The batch is the caller's to change or move from, until the iterator moves on.
  Batch& operator*() const;
  Batch* operator->() const { return &**this; }
  /// Moves on, waiting for the batch if need be. What the dataset or the transform throws is thrown here; the pass is
  /// then at its end.
  BatchIterator& operator++();
  void operator++(int) { ++*this; }
  /// The dataset's samples that the batch was made from; valid until the iterator moves on. None of a stream.
  std::span<const std::int64_t> samples() const;
  /// The batch's number in its epoch.
  std::int64_t index() const;
  /// Whether no other batch follows. A stream is asked for the next one, which is kept.
  bool last() const;
  /// Of a stream that has a state: what a pass goes on from with batch `next`, the current one or the one behind it.
  StateMap state(std::int64_t next) const;
  bool operator==(std::default_sentinel_t) const;

 private:
  friend class DataLoader;
  explicit BatchIterator(std::unique_ptr<BatchPass> pass);

  std::unique_ptr<BatchPass> pass_;
};

/// Gives a dataset's samples in batches:
///
///   DataLoader loader(TensorDataset{{"x", images}, {"y", labels}}, {.batch_size = 64, .shuffle = true, .num_workers =
///   2}); for (int epoch = 0; epoch < 5; ++epoch)
///     for (Batch& batch : loader) step(batch["x"], batch["y"]);
///
/// Batch k of epoch e is a function of the dataset, the options and (e, k): not of the number of workers, nor of what
/// was asked for before. Workers compute with one thread each, and record no gradients.
class DataLoader {
 public:
  /// The dataset is shared with the loader and its iterators. Throws ConfigError for options that make no sense.
  explicit DataLoader(std::shared_ptr<const Dataset> dataset, DataLoaderOptions options = {});
  template <std::derived_from<Dataset> D>
  explicit DataLoader(D dataset, DataLoaderOptions options = {})
      : DataLoader(std::make_shared<const D>(std::move(dataset)), std::move(options)) {}
  /// Gives the batches of streams, of which `open(epoch)` begins one for each pass (BatchStream, or a function), as
  /// they come. Of several ranks each reads its own: `open` decides which rank reads what.
  ///
  ///   DataLoader five([](std::int64_t epoch) {
  ///     return [i = 0]() mutable { return i++ < 5 ? std::optional(Batch{{"x", randn({8, 2})}}) : std::nullopt; };
  ///   });
  template <std::invocable<std::int64_t> Open>
  explicit DataLoader(Open open, std::uint64_t seed = 0) : DataLoader(stream(open_stream(std::move(open)), seed)) {}

  /// Whether it reads streams.
  bool is_stream() const { return size() == unknown_size; }
  /// Whether it is made of several (combine.h).
  bool is_combined() const { return source_ && !is_stream(); }
  /// f of it; of combined loaders with f of each.
  DataLoader each(const LoaderFunction& f) const;
  /// With the first `n` batches of each epoch alone. Throws Error unless it reads a dataset.
  DataLoader head(std::int64_t n) const;

  /// The part of rank `rank` of `ranks` that train together: of the samples at positions k * ranks to (k + 1) * ranks
  /// in the order, it gets the one at k * ranks + rank. So batch i of all ranks together is what one loader with a
  /// batch_size `ranks` times as large gives as its batch i. All ranks have equally many batches: when an epoch's last
  /// samples do not suffice, the last batch of some is smaller, or empty. Streams stay as they are.
  DataLoader shard(int rank, int ranks) const;
  /// How many samples all ranks' batches `i` have together. 0 of streams.
  std::int64_t global_batch_size(std::int64_t i) const;

  /// The same with batches of another size. Throws ConfigError for one below 1, and Error unless it reads a dataset.
  DataLoader with_batch_size(std::int64_t batch_size) const;

  /// Batches in an epoch; unknown_size of streams.
  std::int64_t size() const;
  /// Null unless it reads a dataset.
  const std::shared_ptr<const Dataset>& dataset() const { return dataset_; }
  const DataLoaderOptions& options() const { return options_; }

  /// The epoch that the next `begin()` visits; each begin() moves it on by one.
  std::int64_t epoch() const { return epoch_; }
  void set_epoch(std::int64_t epoch) { epoch_ = epoch; }

  BatchIterator begin() { return begin(epoch_++, 0); }
  std::default_sentinel_t end() const { return {}; }
  /// A pass over any epoch from any of its batches on; `epoch()` stays as it is. A stream is given the state of
  /// BatchIterator::state to get there, or reads what comes before.
  BatchIterator begin(std::int64_t epoch, std::int64_t first_batch, const StateMap& state = {}) const;

 private:
  friend class DatasetPass;
  friend DataLoader loader_of(std::shared_ptr<const BatchSource> source);
  explicit DataLoader(std::shared_ptr<const BatchSource> source) : source_(std::move(source)) {}
  static DataLoader stream(OpenStream open, std::uint64_t seed);

  std::shared_ptr<const BatchSource> source_;  // null: a dataset
  std::shared_ptr<const Dataset> dataset_;
  DataLoaderOptions options_;
  std::shared_ptr<const Sampler> sampler_;
  std::int64_t epoch_ = 0, head_ = unknown_size;
  int rank_ = 0, ranks_ = 1;
};

}  // namespace v0
}  // namespace anneal
