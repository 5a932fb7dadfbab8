#include "anneal/kernels/parallel.h"

#include <omp.h>

#include <atomic>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace anneal {
inline namespace v0 {
namespace {

thread_local int threads_override = 0;

void openmp_runner(int tasks, void (*task)(int, void*), void* context) {
#pragma omp parallel for num_threads(tasks) schedule(static, 1)
  for (int i = 0; i < tasks; ++i) task(i, context);
}

std::atomic<ParallelRunner> runner{&openmp_runner};

}  // namespace

int num_threads() { return threads_override > 0 ? threads_override : omp_get_max_threads(); }
void set_num_threads(int threads) { threads_override = threads < 1 ? 0 : threads; }
void set_parallel_runner(ParallelRunner replacement) { runner = replacement ? replacement : &openmp_runner; }

namespace kernels {

void parallel_run(int tasks, void (*task)(int i, void* context), void* context) {
  struct Call {
    void (*task)(int, void*);
    void* context;
  } call{task, context};
  runner.load(std::memory_order_relaxed)(
      tasks,
      [](int i, void* c) {
        const FlushDenormals flush;
        static_cast<Call*>(c)->task(i, static_cast<Call*>(c)->context);
      },
      &call);
}

#if defined(__x86_64__)
FlushDenormals::FlushDenormals() : saved_(_mm_getcsr()) {
  _mm_setcsr(static_cast<unsigned>(saved_) | 0x8040u);
}  // FTZ | DAZ
FlushDenormals::~FlushDenormals() { _mm_setcsr(static_cast<unsigned>(saved_)); }
#elif defined(__aarch64__)
FlushDenormals::FlushDenormals() {
  asm volatile("mrs %0, fpcr" : "=r"(saved_));
  asm volatile("msr fpcr, %0" : : "r"(saved_ | (1u << 24)));  // FZ
}
FlushDenormals::~FlushDenormals() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }
#else
FlushDenormals::FlushDenormals() : saved_(0) {}
FlushDenormals::~FlushDenormals() = default;
#endif

}  // namespace kernels
}  // namespace v0
}  // namespace anneal
