// Data-parallel training: sums of all ranks' gradients, on their way while backward still runs.
#pragma once

#include <memory>
#include <span>

#include "anneal/dist/bucket.h"
#include "anneal/dist/process_group.h"
#include "anneal/optim/arena.h"

namespace anneal {
inline namespace v0 {
namespace dist {

/// Adds the gradients in arenas over the ranks, in place. One step:
///
///   for each micro-batch but the last: forward, backward
///   reducer.prepare();
///   the last forward and backward      // a full bucket is sent as soon as all before it are
///   reducer.finish(tail);              // the rest is sent, all is awaited
///   optimizer.step();
///
/// The results are sums: divide the losses, or let the optimizer do it. A parameter that some rank did not use counts
/// there as zero; one that no rank used is left without a gradient. In a group of one rank nothing happens.
class Reducer {
 public:
  /// The group must outlive it. All ranks must have the same arenas: see check_same. After the optimizer's `rebuild`,
  /// make another.
  Reducer(ProcessGroup& group, std::span<const optim::Arena> arenas, BucketOptions options = {});

  std::span<const Bucket> buckets() const;
  /// Whether these are still the arenas that it was made for.
  bool serves(std::span<const optim::Arena> arenas) const;

  /// From here on one backward may run, and what it completes is sent; a second one that reaches the same parameter
  /// throws Error. Throws Error if a reduction is under way, or a parameter is not in its arena any more.
  void prepare();
  /// Returns when all gradients are sums and the arenas' leaves are marked accordingly. `tail` is added over the ranks
  /// as well: small numbers that must be agreed on, such as the weight of the batch. Throws Error without `prepare`,
  /// and when a collective failed: the gradients are lost then.
  void finish(std::span<double> tail = {});

 private:
  struct State;
  std::shared_ptr<State> state_;  // the leaves' hooks look at it, and may outlive this object
};

}  // namespace dist
}  // namespace v0
}  // namespace anneal
