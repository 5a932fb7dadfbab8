// A group whose ranks are processes, on CPUs and over TCP.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "anneal/dist/process_group.h"
#include "anneal/dist/store.h"

namespace anneal {
inline namespace v0 {
namespace dist {

struct GlooOptions {
  /// Groups that live at the same time need names of their own.
  std::string name = "world";
  /// How long to wait for all ranks to come.
  std::chrono::milliseconds rendezvous_timeout = std::chrono::minutes(5);
  /// A collective fails that makes no progress for so long although all ranks live.
  std::chrono::milliseconds collective_timeout = std::chrono::minutes(10);
};

/// Whether the library was built with Gloo.
bool has_gloo();

/// Connects with the other ranks of the store, all of which must call this. The address of this rank is the
/// environment's ANNEAL_HOST (a name or an address) or that of the interface ANNEAL_IFACE, else the one by which it
/// reached the store. The traffic is not encrypted: use it on networks you trust.
///
/// Sums are taken in rank order and do not depend on timing, or on how tensors are cut into collectives. A verdict of
/// the store aborts the group. The destructor waits a few seconds for the other ranks to get there, unless the group
/// failed or an exception is under way.
///
/// Throws Error when ranks do not come in time or cannot be reached, and without Gloo.
std::shared_ptr<ProcessGroup> gloo_group(std::shared_ptr<Store> store, GlooOptions options = {});

}  // namespace dist
}  // namespace v0
}  // namespace anneal
