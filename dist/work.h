// A collective that is under way.
#pragma once

#include <memory>

namespace anneal {
inline namespace v0 {
namespace dist {

/// A cheap handle to a collective that was asked for; copies are the same one. It may be dropped: the collective goes
/// on, and keeps its tensors alive.
class Work {
 public:
  /// What an engine provides.
  class State {
   public:
    virtual ~State() = default;
    virtual void wait() = 0;
    virtual bool done() const = 0;
  };

  /// Nothing to wait for.
  Work() = default;
  explicit Work(std::shared_ptr<State> state) : state_(std::move(state)) {}

  /// Returns when the results may be used; throws Error, naming the collective, when it failed. On a GPU the compute
  /// stream waits, not the host.
  void wait() const {
    if (state_) state_->wait();
  }
  /// Whether it has ended, well or not.
  bool done() const { return !state_ || state_->done(); }

 private:
  std::shared_ptr<State> state_;
};

}  // namespace dist
}  // namespace v0
}  // namespace anneal
