// Batches whose number nobody knows beforehand.
#pragma once

#include <concepts>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include "anneal/core/state_map.h"
#include "anneal/data/batch.h"

namespace anneal {
inline namespace v0 {

/// One pass over such batches: of a file that is read on, of a simulation.
class BatchStream {
 public:
  virtual ~BatchStream() = default;
  /// The next batch; nothing at the end. What it draws from ops' generator is a function of the epoch and the batch's
  /// number.
  virtual std::optional<Batch> next() = 0;
  /// Where it stands, for a checkpoint, and back, before the first batch. Without a state a resumed pass reads what it
  /// has read before once more.
  virtual StateMap state() const { return {}; }
  virtual void load_state(const StateMap&) {}
};

/// Begins the pass of an epoch.
using OpenStream = std::function<std::unique_ptr<BatchStream>(std::int64_t epoch)>;

/// A function that gives the next batch.
template <class Next>
class FunctionStream final : public BatchStream {
 public:
  explicit FunctionStream(Next next) : next_(std::move(next)) {}
  std::optional<Batch> next() override { return next_(); }

 private:
  Next next_;
};

/// Of a function of the epoch that gives a pointer to a stream, or a function that gives the next batch.
template <class Open>
OpenStream open_stream(Open open) {
  using Opened = std::invoke_result_t<Open&, std::int64_t>;
  if constexpr (std::convertible_to<Opened, std::unique_ptr<BatchStream>>) return open;
  else
    return [open = std::move(open)](std::int64_t epoch) mutable {
      return std::make_unique<FunctionStream<Opened>>(open(epoch));
    };
}

}  // namespace v0
}  // namespace anneal
