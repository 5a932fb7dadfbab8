// A group whose ranks are processes with a GPU each.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "anneal/dist/process_group.h"
#include "anneal/dist/store.h"

namespace anneal {
inline namespace v0 {
namespace dist {

struct NcclOptions {
  /// Groups that live at the same time need names of their own.
  std::string name = "world";
  /// The number of this rank's GPU. No two ranks may share one.
  int device = 0;
  /// The stream (a cudaStream_t) on which the calling thread computes; without it, the default stream.
  std::function<void*()> compute_stream = {};
  /// How long to wait for all ranks to come.
  std::chrono::milliseconds rendezvous_timeout = std::chrono::minutes(5);
  /// A collective fails that does not end so long after its tensors are ready.
  std::chrono::milliseconds collective_timeout = std::chrono::minutes(10);
};

/// The version of the NCCL that this machine has: 22809 is 2.28.9. It is opened at run time: the file that the
/// environment's ANNEAL_NCCL_LIBRARY names, else "libnccl.so.2". Throws Error when there is none, when it is older than
/// 2.18, and when the library was built without CUDA.
int nccl_version();

/// Connects with the other ranks of the store, all of which must call this.
///
/// Collectives run on a stream of their own: they wait for what the compute stream has been given, and `Work::wait`
/// makes the compute stream, not the host, wait for them (`barrier` does hold the host). NCCL adds 16-bit types in 16
/// bits, in an order of its own. It cannot see that ranks disagree: that ends by `collective_timeout`. A failure is
/// thrown by the next `wait`; what the GPU computed in between is not to be used.
///
/// Throws Error when ranks do not come in time, their versions of NCCL differ, or NCCL or a GPU is missing.
std::shared_ptr<ProcessGroup> nccl_group(std::shared_ptr<Store> store, NcclOptions options = {});

}  // namespace dist
}  // namespace v0
}  // namespace anneal
