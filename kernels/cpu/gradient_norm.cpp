// The gradients' norm, and what follows from it.
#include "anneal/kernels/cpu/level.h"
#include "anneal/kernels/cpu/scratch.h"
#include "anneal/kernels/parallel.h"
#include "anneal/kernels/step_factor.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu::ANNEAL_LEVEL {
namespace {

constexpr std::int64_t parallel_from = 64;  // chunks
constexpr std::int64_t norm_chunk = 4096;   // elements of a block that are summed by themselves

ANNEAL_HD double larger(double a, double b) { return b > a || b != b ? b : a; }

/// The sum of f(x) (or, for p = infinity, the largest) over n elements.
template <class T, class F>
ANNEAL_HD double fold(const T* x, std::int64_t n, bool largest, const F& f) {
  constexpr int lanes = 16;
  double lane[lanes] = {};
  std::int64_t i = 0;
  if (largest) {
    for (; i < n; ++i) lane[0] = larger(lane[0], f(static_cast<double>(load(x[i]))));
    return lane[0];
  }
  for (; i + lanes <= n; i += lanes) {
    for (int l = 0; l < lanes; ++l) lane[l] += f(static_cast<double>(load(x[i + l])));
  }
  for (int l = 0; i + l < n; ++l) lane[l] += f(static_cast<double>(load(x[i + l])));
  for (int width = lanes / 2; width > 0; width /= 2) {
    for (int l = 0; l < width; ++l) lane[l] += lane[l + width];
  }
  return lane[0];
}

template <class T>
void gradient_sum(const GradientSum& a) {
  std::int64_t chunks = 0;
  const auto chunks_of = [&](std::int64_t b) {
    return a.blocks[b].active ? (a.blocks[b].end - a.blocks[b].begin + norm_chunk - 1) / norm_chunk : 0;
  };
  for (std::int64_t b = 0; b < a.n_blocks; ++b) chunks += chunks_of(b);
  const bool largest = a.p > 1e300;
  double* const sums = scratch<double>(Scratch::partial, chunks);
  parallel_for(chunks, parallel_from, [=, &a](std::int64_t begin, std::int64_t end) {
    std::int64_t before = 0;  // chunks of the blocks so far
    for (std::int64_t b = 0; b < a.n_blocks && before < end; before += chunks_of(b++)) {
      const std::int64_t from = begin > before ? begin - before : 0;
      for (std::int64_t c = from; c < chunks_of(b) && before + c < end; ++c) {
        const std::int64_t first = a.blocks[b].begin + c * norm_chunk, left = a.blocks[b].end - first;
        const T* const x = static_cast<const T*>(a.gradients) + first;
        const std::int64_t n = left < norm_chunk ? left : norm_chunk;
        const auto size = [](double v) { return __builtin_fabs(v); };
        sums[before + c] = a.p == 2  ? fold(x, n, false, [](double v) { return v * v; })
                           : largest ? fold(x, n, true, size)
                           : a.p == 1
                               ? fold(x, n, false, size)
                               : fold(x, n, false, [p = a.p](double v) { return __builtin_pow(__builtin_fabs(v), p); });
      }
    }
  });
  double total = a.state->total;
  for (std::int64_t c = 0; c < chunks; ++c) total = largest ? larger(total, sums[c]) : total + sums[c];
  a.state->total = total;
}

}  // namespace

template <>
void run(const GradientSum& a) {
  visit_floating(a.dtype, [&]<class T>() { gradient_sum<T>(a); });
}

template <>
void run(const StepFactor& a) {
  finish_norm(a);
}

}  // namespace kernels::cpu::ANNEAL_LEVEL
}  // namespace v0
}  // namespace anneal
