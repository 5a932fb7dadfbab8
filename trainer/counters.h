// Where a run stands.
#pragma once

#include <cstdint>

namespace anneal {
inline namespace v0 {

/// How often something was begun and ended. Its hooks run between the counts, so that a checkpoint tells what was done
/// when it was written: ready, [start hooks], started, [work], processed, [end hooks], completed.
struct Progress {
  std::int64_t ready = 0, started = 0, processed = 0, completed = 0;
};

struct Counters {
  Progress epoch;
  Progress batch;                  // of the epoch
  std::int64_t epoch_batches = 0;  // that it has: the limit, or fewer once a stream has ended
  std::int64_t total_batches = 0;
  std::int64_t global_step = 0;
  std::int64_t accumulate = 1;     // micro-batches that make a step in this epoch
  std::int64_t losses = 0;         // of this rank in the open accumulation window
  double window = 0;               // their weights: 1 each; of ranks, shares of it; or what set_weight said
  bool weighted = false;           // whether set_weight was called in it
  std::int64_t bad = 0;            // of its losses, those that were not finite and are not among `losses`
  bool stepped = false;            // whether the last batch made an optimizer step
  std::int64_t checks = 0;         // validations within fit
  std::int64_t checked_at = 0;     // total_batches at the last one
  std::int64_t evaluated[2] = {};  // batches of validation and test so far
};

}  // namespace v0
}  // namespace anneal
