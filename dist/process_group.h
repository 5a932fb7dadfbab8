// Groups of ranks and their collectives, blocking and asynchronous.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "anneal/core/collective.h"
#include "anneal/dist/flight_recorder.h"
#include "anneal/dist/work.h"

namespace anneal {
inline namespace v0 {
namespace dist {

/// One rank's part of a group. Collectives run one after the other in the order asked for, whether somebody waits for
/// them or not; all ranks must ask for the same ones. `what` names a collective in errors ("bucket 3"). Tensors may be
/// of any dtype; they must be contiguous, on the group's device, and left alone until the Work is waited for.
///
/// Asking throws Error when the arguments contradict each other on this rank; a rank that failed, disagrees or does not
/// come is reported by `Work::wait`: "all_reduce #417 (bucket 3, 1048576 f32): rank 1 (node3, pid 712) died". The group
/// is unusable from then on: everything that is pending or asked for later fails with the same reason.
class ProcessGroup : public Collective {
 public:
  int rank() const final { return rank_; }
  int size() const final { return size_; }
  /// Where tensors must be.
  virtual Device device() const { return {}; }

  Work all_reduce_async(const Tensor& tensor, ReduceOp op = ReduceOp::sum, std::string_view what = {});
  Work broadcast_async(const Tensor& tensor, int root = 0, std::string_view what = {});
  Work all_gather_async(const Tensor& output, const Tensor& input, std::string_view what = {});
  /// `output`, of n elements, becomes the sum over all ranks of the rank()-th part of `input`, of size() * n elements.
  Work reduce_scatter_async(const Tensor& output, const Tensor& input, std::string_view what = {});
  Work barrier_async();

  void all_reduce(const Tensor& tensor, ReduceOp op = ReduceOp::sum) final { all_reduce_async(tensor, op).wait(); }
  void broadcast(const Tensor& tensor, int root = 0) final { broadcast_async(tensor, root).wait(); }
  void all_gather(const Tensor& output, const Tensor& input) final { all_gather_async(output, input).wait(); }
  void reduce_scatter(const Tensor& output, const Tensor& input) { reduce_scatter_async(output, input).wait(); }
  void barrier() final { barrier_async().wait(); }

  /// Makes everything pending and later fail because of `why`, at once. From any thread. The first reason stays.
  virtual void abort(const std::string& why) = 0;
  /// Why the group is unusable, if it is.
  virtual std::optional<std::string> failure() const = 0;

  /// What the group did last.
  const FlightRecorder& flights() const { return *flights_; }

 protected:
  ProcessGroup(int rank, int size);
  /// Takes an operation, in order of its sequence numbers, without waiting. Does not throw for failures of the group.
  virtual Work submit(Operation operation) = 0;

  /// Shared, as an engine's thread that hangs may outlive the group.
  const std::shared_ptr<FlightRecorder> flights_ = std::make_shared<FlightRecorder>();

 private:
  Work ask(Operation operation);

  int rank_, size_;
  std::mutex order_;
  std::uint64_t sequence_ = 0;
};

}  // namespace dist
}  // namespace v0
}  // namespace anneal
