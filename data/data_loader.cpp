#include "anneal/data/data_loader.h"

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <optional>
#include <span>
#include <stop_token>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

#include "anneal/core/autograd.h"
#include "anneal/data/batch_pass.h"
#include "anneal/kernels/parallel.h"

namespace anneal {
inline namespace v0 {
namespace {

// Threads inherit the CPUs of the one that starts them, which may have been bound to a single one since: workers go
// back to those that the process had before main. Where OpenMP is told to bind threads it has done so even before that;
// then they go to all that the system lets the process have.
#if defined(__linux__)
const cpu_set_t process_cpus = [] {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  ::sched_getaffinity(0, sizeof(cpus), &cpus);
  for (const char* variable : {"OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY"})
    if (std::getenv(variable)) std::memset(&cpus, 0xff, sizeof(cpus));
  return cpus;
}();
void use_process_cpus() { ::sched_setaffinity(0, sizeof(process_cpus), &process_cpus); }
#else
void use_process_cpus() {}
#endif

// Makes batches on threads of its own, at most `ahead` before the one that is taken next, and gives them in order.
class Workers {
 public:
  Workers(int threads, std::int64_t ahead, std::int64_t first, std::int64_t end,
          std::function<Batch(std::int64_t)> make)
      : make_(std::move(make)),
        slots_(static_cast<std::size_t>(ahead)),
        next_made_(first),
        next_taken_(first),
        end_(end) {
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this](std::stop_token stop) { run(stop); });
  }
  ~Workers() {
    for (std::jthread& thread : threads_) thread.request_stop();  // all of them, before the first is waited for
  }

  Batch take() {
    std::unique_lock lock(mutex_);
    made_.wait(lock, [&] { return slot(next_taken_).full; });
    Slot taken = std::exchange(slot(next_taken_), {});
    ++next_taken_;
    lock.unlock();
    room_.notify_one();
    if (taken.error) std::rethrow_exception(taken.error);
    return std::move(taken.batch);
  }

 private:
  struct Slot {
    bool full = false;
    Batch batch = {};
    std::exception_ptr error = {};
  };

  void run(const std::stop_token& stop) {
    use_process_cpus();
    set_num_threads(1);
    const auto ahead = static_cast<std::int64_t>(slots_.size());
    std::unique_lock lock(mutex_);
    while (true) {
      room_.wait(lock, stop, [&] { return next_made_ == end_ || next_made_ < next_taken_ + ahead; });
      if (next_made_ == end_ || stop.stop_requested()) return;
      const std::int64_t i = next_made_++;
      lock.unlock();
      Slot made{.full = true};
      try {
        made.batch = make_(i);
      } catch (...) { made.error = std::current_exception(); }
      lock.lock();
      slot(i) = std::move(made);
      made_.notify_one();
    }
  }
  Slot& slot(std::int64_t i) { return slots_[static_cast<std::size_t>(i) % slots_.size()]; }

  const std::function<Batch(std::int64_t)> make_;
  std::mutex mutex_;
  std::condition_variable_any room_, made_;
  std::vector<Slot> slots_;
  std::int64_t next_made_, next_taken_;
  const std::int64_t end_;
  std::vector<std::jthread> threads_;  // the last member: joined before the others go
};

}  // namespace

class DatasetPass final : public BatchPass {
 public:
  DatasetPass(const DataLoader& loader, std::int64_t epoch, std::int64_t first)
      : dataset_(loader.dataset_),
        options_(loader.options_),
        epoch_(epoch),
        rank_(loader.rank_),
        ranks_(loader.ranks_),
        index_(first - 1),
        end_(loader.size()) {
    if (first == end_) return;
    order_ = loader.sampler_->order(epoch);
    if (ranks_ > 1) {
      std::size_t kept = 0;
      for (auto at = static_cast<std::size_t>(rank_); at < order_.size(); at += static_cast<std::size_t>(ranks_))
        order_[kept++] = order_[at];
      order_.resize(kept);
    }
    const auto threads = static_cast<int>(std::min<std::int64_t>(options_.num_workers, end_ - first));
    if (threads > 0)
      workers_.emplace(threads, std::int64_t{threads} * options_.prefetch, first, end_,
                       [this](std::int64_t i) { return make(i); });
  }

  void advance() override {
    current_ = {};  // its memory serves the next one
    if (done() || ++index_ == end_) return;
    try {
      current_ = workers_ ? workers_->take() : make(index_);
    } catch (...) {
      index_ = end_;
      throw;
    }
  }
  bool done() const override { return index_ == end_; }
  bool last() override { return index_ + 1 >= end_; }
  Batch& current() override { return current_; }
  std::int64_t index() const override { return index_; }
  std::span<const std::int64_t> samples() const override { return samples(index_); }

 private:
  std::span<const std::int64_t> samples(std::int64_t i) const {
    const auto size = static_cast<std::size_t>(options_.batch_size);
    const auto begin = std::min(static_cast<std::size_t>(i) * size, order_.size());
    return std::span(order_).subspan(begin, std::min(size, order_.size() - begin));
  }

  Batch make(std::int64_t i) const {
    const NoGrad no_grad;
    const std::span<const std::int64_t> indices = samples(i);
    if (indices.empty()) return {};  // the last batch, of other ranks
    Batch batch = dataset_->get(indices);
    if (options_.transform) {
      Generator generator = epoch_generator(options_.seed, epoch_, i * ranks_ + rank_);
      const GeneratorScope scope(generator);
      options_.transform(batch, generator);
    }
    return batch;
  }

  const std::shared_ptr<const Dataset> dataset_;
  const DataLoaderOptions options_;
  const std::int64_t epoch_;
  const int rank_, ranks_;
  std::vector<std::int64_t> order_;
  std::int64_t index_;
  const std::int64_t end_;
  Batch current_;
  std::optional<Workers> workers_;  // the last member: it calls make
};

BatchIterator::BatchIterator(std::unique_ptr<BatchPass> pass) : pass_(std::move(pass)) { pass_->advance(); }
BatchIterator::BatchIterator(BatchIterator&&) noexcept = default;
BatchIterator& BatchIterator::operator=(BatchIterator&&) noexcept = default;
BatchIterator::~BatchIterator() = default;

Batch& BatchIterator::operator*() const { return pass_->current(); }
BatchIterator& BatchIterator::operator++() {
  pass_->advance();
  return *this;
}
std::span<const std::int64_t> BatchIterator::samples() const { return pass_->samples(); }
std::int64_t BatchIterator::index() const { return pass_->index(); }
bool BatchIterator::last() const { return pass_->last(); }
StateMap BatchIterator::state(std::int64_t next) const { return pass_->state(next); }
bool BatchIterator::operator==(std::default_sentinel_t) const { return pass_->done(); }

DataLoader::DataLoader(std::shared_ptr<const Dataset> dataset, DataLoaderOptions options)
    : dataset_(std::move(dataset)), options_(std::move(options)) {
  check<ConfigError>(dataset_ != nullptr, "dataset: expected one, got null");
  check<ConfigError>(options_.batch_size > 0, "batch_size: expected at least 1, got {}", options_.batch_size);
  check<ConfigError>(options_.num_workers >= 0, "num_workers: expected at least 0, got {}", options_.num_workers);
  check<ConfigError>(options_.prefetch > 0, "prefetch: expected at least 1, got {}", options_.prefetch);
  check<ConfigError>(!options_.sampler || !options_.shuffle,
                     "shuffle: the sampler decides the order; give one of the two");
  if (options_.sampler) sampler_ = options_.sampler;
  else if (options_.shuffle) sampler_ = std::make_shared<RandomSampler>(dataset_->size(), options_.seed);
  else sampler_ = std::make_shared<SequentialSampler>(dataset_->size());
}

DataLoader loader_of(std::shared_ptr<const BatchSource> source) { return DataLoader(std::move(source)); }
DataLoader DataLoader::stream(OpenStream open, std::uint64_t seed) {
  return loader_of(stream_source(std::move(open), seed));
}

DataLoader DataLoader::each(const LoaderFunction& f) const {
  if (!is_combined()) return f(*this);
  DataLoader changed = *this;
  changed.source_ = source_->each(f);
  return changed;
}

DataLoader DataLoader::head(std::int64_t n) const {
  check(!source_ && n >= 0, "head: expected a loader of a dataset and at least 0 batches, got {} of {}", n,
        source_ ? "another" : "such a loader");
  DataLoader part = *this;
  part.head_ = n;
  return part;
}

DataLoader DataLoader::with_batch_size(std::int64_t batch_size) const {
  check(!source_, "with_batch_size: expected a loader of a dataset");
  check<ConfigError>(batch_size > 0, "batch_size: expected at least 1, got {}", batch_size);
  DataLoader other = *this;
  other.options_.batch_size = batch_size;
  return other;
}

std::int64_t DataLoader::size() const {
  if (source_) return source_->size();
  const std::int64_t samples = sampler_->size(), batch = options_.batch_size * ranks_;
  return std::min(head_, samples / batch + (!options_.drop_last && samples % batch != 0));
}

DataLoader DataLoader::shard(int rank, int ranks) const {
  if (is_combined()) return each([&](const DataLoader& loader) { return loader.shard(rank, ranks); });
  if (source_) return *this;
  check(ranks_ == 1, "shard: the loader is rank {}'s of {} already", rank_, ranks_);
  check(ranks >= 1 && rank >= 0 && rank < ranks, "shard: no rank {} of {}", rank, ranks);
  DataLoader part = *this;
  part.rank_ = rank;
  part.ranks_ = ranks;
  return part;
}

std::int64_t DataLoader::global_batch_size(std::int64_t i) const {
  if (source_) return source_->global_batch_size(i);
  const std::int64_t batch = options_.batch_size * ranks_;
  return std::clamp<std::int64_t>(sampler_->size() - i * batch, 0, batch);
}

BatchIterator DataLoader::begin(std::int64_t epoch, std::int64_t first_batch, const StateMap& state) const {
  check(first_batch >= 0 && first_batch <= size(), "data loader: no batch {}; an epoch has {} of them", first_batch,
        size());
  if (source_) return BatchIterator(source_->begin(epoch, first_batch, state));
  return BatchIterator(std::make_unique<DatasetPass>(*this, epoch, first_batch));
}

}  // namespace v0
}  // namespace anneal
