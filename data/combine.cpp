#include "anneal/data/combine.h"

#include <algorithm>
#include <optional>

#include "anneal/core/error.h"
#include "anneal/data/batch_pass.h"

namespace anneal {
inline namespace v0 {
namespace {

struct Part {
  std::string name;
  DataLoader loader;
};

class CombinedSource final : public BatchSource {
 public:
  CombinedSource(std::vector<Part> parts, CombineMode mode) : parts_(std::move(parts)), mode_(mode) {
    size_ = parts_.front().loader.size();
    for (const Part& part : parts_) {
      const std::int64_t n = part.loader.size();
      size_ = mode_ == CombineMode::min_size ? std::min(size_, n) : std::max(size_, n);
    }
  }

  std::int64_t size() const override { return size_; }
  std::int64_t global_batch_size(std::int64_t i) const override {
    for (const Part& part : parts_)
      if (const auto at = place_of(part, 0, i)) return part.loader.global_batch_size(at->batch);
    return 0;
  }
  std::unique_ptr<BatchPass> begin(std::int64_t epoch, std::int64_t first, const StateMap& state) const override;
  std::shared_ptr<const BatchSource> each(const LoaderFunction& f) const override {
    std::vector<Part> parts;
    for (const Part& part : parts_) parts.push_back({part.name, part.loader.each(f)});
    return std::make_shared<CombinedSource>(std::move(parts), mode_);
  }

  const std::vector<Part>& parts() const { return parts_; }

  // Which of its own batches a part gives for batch i; none if it has no more.
  struct Place {
    std::int64_t epoch, batch;
  };
  std::optional<Place> place_of(const Part& part, std::int64_t epoch, std::int64_t i) const {
    const std::int64_t n = part.loader.size();
    if (mode_ != CombineMode::max_size_cycle) return i < n ? std::optional(Place{epoch, i}) : std::nullopt;
    if (n == 0) return std::nullopt;
    const std::int64_t rounds = (size_ + n - 1) / n;
    return Place{epoch * rounds + i / n, i % n};
  }

 private:
  std::vector<Part> parts_;
  CombineMode mode_;
  std::int64_t size_;
};

class CombinedPass final : public BatchPass {
 public:
  CombinedPass(CombinedSource source, std::int64_t epoch, std::int64_t first)
      : source_(std::move(source)), epoch_(epoch), index_(first - 1), passes_(source_.parts().size()) {}

  void advance() override {
    current_ = {};
    const std::int64_t end = source_.size();
    if (index_ == end) return;
    const std::int64_t i = index_ + 1;
    index_ = end;  // if a part throws
    if (i < end) current_ = make(i);
    index_ = i;
  }
  bool done() const override { return index_ == source_.size(); }
  bool last() override { return index_ + 1 >= source_.size(); }
  Batch& current() override { return current_; }
  std::int64_t index() const override { return index_; }

 private:
  Batch make(std::int64_t i) {
    std::vector<NamedTensor> tensors;
    bool whole = true;
    for (std::size_t p = 0; p < passes_.size(); ++p) {
      const Part& part = source_.parts()[p];
      std::optional<BatchIterator>& pass = passes_[p];
      const auto at = source_.place_of(part, epoch_, i);
      if (!at) {
        pass.reset();
        continue;
      }
      if (pass && at->batch > 0) ++*pass;
      else pass.emplace(part.loader.begin(at->epoch, at->batch));
      if ((*pass)->empty()) whole = false;  // this rank's share: the other parts are not used without it
      for (const NamedTensor& entry : **pass) tensors.push_back({part.name + "." + entry.name, entry.tensor});
    }
    return whole ? Batch(std::move(tensors)) : Batch();
  }

  const CombinedSource source_;
  const std::int64_t epoch_;
  std::int64_t index_;
  std::vector<std::optional<BatchIterator>> passes_;
  Batch current_;
};

std::unique_ptr<BatchPass> CombinedSource::begin(std::int64_t epoch, std::int64_t first, const StateMap&) const {
  return std::make_unique<CombinedPass>(*this, epoch, first);
}

}  // namespace

DataLoader combine(std::vector<std::pair<std::string, DataLoader>> loaders, CombineMode mode) {
  check<ConfigError>(!loaders.empty(), "combine: expected a loader at least, got none");
  std::vector<Part> parts;
  for (auto& [name, loader] : loaders) {
    check<ConfigError>(!loader.is_stream(), "combine: {}: expected a loader of known size, got a stream", name);
    for (const Part& part : parts)
      check<ConfigError>(part.name != name, "combine: {} is the name of two loaders", name);
    parts.push_back({name, std::move(loader)});
  }
  return loader_of(std::make_shared<CombinedSource>(std::move(parts), mode));
}

DataLoader combine(std::vector<DataLoader> loaders, CombineMode mode) {
  std::vector<std::pair<std::string, DataLoader>> named;
  for (DataLoader& loader : loaders) named.emplace_back(std::to_string(named.size()), std::move(loader));
  return combine(std::move(named), mode);
}

}  // namespace v0
}  // namespace anneal
