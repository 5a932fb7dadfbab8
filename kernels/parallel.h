// The one door to threads: kernels are cut by `parallel_for`, and OpenMP is behind it alone.
#pragma once

#include <cstdint>

#include "anneal/kernels/dtype.h"

namespace anneal {
inline namespace v0 {

/// Threads that kernels started from the calling thread may use, itself included. Default: OpenMP's (OMP_NUM_THREADS,
/// else the cores). Results never depend on it.
int num_threads();
/// Sets it for the calling thread; values below 1 restore the default.
void set_num_threads(int threads);

/// Runs `task(i, context)` for i in [0, tasks), all at once if it can; returns when all have. It must not throw.
using ParallelRunner = void (*)(int tasks, void (*task)(int i, void* context), void* context);
/// Replaces OpenMP by an embedder's own threads, for the whole process; null restores OpenMP. Call it before training.
void set_parallel_runner(ParallelRunner runner);

namespace kernels {

void parallel_run(int tasks, void (*task)(int i, void* context), void* context);

/// One call of `parallel_for`.
template <class Body>
struct ParallelCall {
  const Body& body;
  std::int64_t count, pieces;
};
// The only copy of the body's code: compiled twice, multiplications and additions might be fused in another way, and
// one thread would get other bits than two.
template <class Body>
#if defined(__GNUC__) && !defined(__clang__)
[[gnu::noinline, gnu::noclone]]
#else
[[gnu::noinline]]
#endif
void run_piece(int i, void* context) {
  const auto& c = *static_cast<const ParallelCall<Body>*>(context);
  c.body(c.count * i / c.pieces, c.count * (i + 1) / c.pieces);
}

/// Calls `body(begin, end)` for contiguous pieces that cover [0, count): one a thread, none shorter than `grain` while
/// it can be helped. The body's result must not depend on where the cuts fall.
template <class Body>
ANNEAL_HD void parallel_for(std::int64_t count, std::int64_t grain, const Body& body) {
  if (count <= 0) return;
  const std::int64_t wanted = grain <= 1 ? count : (count + grain - 1) / grain;
  std::int64_t pieces = 1;
  if (wanted > 1) {
    pieces = num_threads();
    if (wanted < pieces) pieces = wanted;
  }
  ParallelCall<Body> call{body, count, pieces < 1 ? 1 : pieces};
  if (pieces <= 1) run_piece<Body>(0, &call);
  else parallel_run(static_cast<int>(pieces), &run_piece<Body>, &call);
}

/// Flushes denormals to zero on this thread while it lives; they would slow arithmetic down several times.
class FlushDenormals {
 public:
  FlushDenormals();
  ~FlushDenormals();
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
  std::uint64_t saved_;
};

}  // namespace kernels
}  // namespace v0
}  // namespace anneal
