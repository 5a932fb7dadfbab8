// How gradients are cut into collectives, and the checks before the first of them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "anneal/dist/process_group.h"
#include "anneal/optim/arena.h"

namespace anneal {
inline namespace v0 {
namespace dist {

struct BucketOptions {
  std::int64_t bucket_bytes = 0;  ///< 0 = 4 MiB on CPUs, 25 MiB on GPUs
  /// Of the first bucket of all, which should be on its way early.
  std::int64_t first_bucket_bytes = 1 << 20;
};

/// A range of an arena that is reduced in one go.
struct Bucket {
  std::size_t arena;
  std::int64_t begin, end;           ///< elements of the arena's blocks
  std::size_t first_slot, end_slot;  ///< the slots in it: first_slot, ..., end_slot - 1
};

/// The arenas as a sequence of buckets, in the order in which gradients arrive. They end between parameters, as soon as
/// they have their size, and leave nothing out.
std::vector<Bucket> make_buckets(std::span<const optim::Arena> arenas, BucketOptions options = {});

/// Throws the same Error on all ranks unless they have the same parameters (names, shapes, dtypes), arenas and buckets:
/// `rank 2 differs: "net.3.weight" is [512, 11] f32 there, [512, 10] f32 on rank 0`. A collective.
void check_same(ProcessGroup& group, std::span<const optim::Arena> arenas, std::span<const Bucket> buckets);

/// All ranks' tensors become those of rank `root`. A collective; the tensors must be contiguous.
void broadcast(ProcessGroup& group, std::span<const NamedTensor> tensors, int root = 0);

}  // namespace dist
}  // namespace v0
}  // namespace anneal
