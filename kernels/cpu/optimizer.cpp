// Optimizer steps: one pass over the active blocks of an arena.
#include "anneal/kernels/cpu/level.h"
#include "anneal/kernels/math.h"
#include "anneal/kernels/parallel.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu::ANNEAL_LEVEL {
namespace {

constexpr std::int64_t serial_below =
    1 << 18;  // elements; what a second thread would gain is lost in moving cache lines
constexpr std::int64_t grain = 1 << 16;
constexpr int line_bytes = 64;

/// Calls f(block number, begin, end) for all active elements, cut evenly into a piece a thread. Blocks are cut at whole
/// cache lines from their beginning.
template <class F>
ANNEAL_HD void for_active(const Block* blocks, std::int64_t n_blocks, int line, const F& f) {
  std::int64_t total = 0;
  for (std::int64_t b = 0; b < n_blocks; ++b) {
    if (blocks[b].active) total += blocks[b].end - blocks[b].begin;
  }
  parallel_for(total, total < serial_below ? total : grain, [&, line](std::int64_t begin, std::int64_t end) {
    std::int64_t before = 0;  // active elements of the blocks so far
    for (std::int64_t b = 0; b < n_blocks && before < end; ++b) {
      if (!blocks[b].active) continue;
      const std::int64_t size = blocks[b].end - blocks[b].begin;
      const auto cut = [=](std::int64_t at) {
        return at <= before ? 0 : at >= before + size ? size : (at - before) / line * line;
      };
      const std::int64_t from = cut(begin), to = cut(end);
      if (from < to) f(b, blocks[b].begin + from, blocks[b].begin + to);
      before += size;
    }
  });
}

/// Calls update(gradients, state) for `chunk` elements at a time until n are done, the caches a chunk ahead. The last
/// ones are updated in a copy, by the same instructions: an element's bits do not depend on where it stands.
template <int chunk, class T, int streams, class Update>
ANNEAL_HD void sweep(std::int64_t n, const T* gradients, T* const (&state)[streams], const Update& update) {
  std::int64_t i = 0;
  for (; i + chunk <= n; i += chunk) {
    for (int k = 0; k < chunk; k += line_bytes / static_cast<int>(sizeof(T))) {
      __builtin_prefetch(gradients + i + chunk + k);
      for (int s = 0; s < streams; ++s) __builtin_prefetch(state[s] + i + chunk + k, 1);
    }
    T* at[streams];
    for (int s = 0; s < streams; ++s) at[s] = state[s] + i;
    update(gradients + i, at);
  }
  if (i == n) return;
  T last_gradients[chunk] = {}, last[streams][chunk] = {};
  T* at[streams];
  for (std::int64_t k = 0; k < n - i; ++k) last_gradients[k] = gradients[i + k];
  for (int s = 0; s < streams; ++s) {
    at[s] = last[s];
    for (std::int64_t k = 0; k < n - i; ++k) last[s][k] = state[s][i + k];
  }
  update(last_gradients, at);
  for (int s = 0; s < streams; ++s) {
    for (std::int64_t k = 0; k < n - i; ++k) state[s][i + k] = last[s][k];
  }
}

/// Elements updated at a time: four cache lines of each stream.
template <class T>
constexpr int chunk_of = 4 * line_bytes / static_cast<int>(sizeof(T));

/// One block's numbers at one step.
template <class T>
struct Adam {
  Adam(const OptimGroup& group, std::int64_t step)
      : sign(group.maximize ? T(-1) : T(1)),
        l2(static_cast<T>(group.decoupled ? 0 : group.weight_decay)),
        kept(static_cast<T>(group.decoupled ? 1 - group.lr * group.weight_decay : 1)),
        new1(static_cast<T>(1 - group.beta1)),
        beta2(static_cast<T>(group.beta2)),
        new2(static_cast<T>(1 - group.beta2)),
        root_scale(static_cast<T>(1 / __builtin_sqrt(1 - __builtin_pow(group.beta2, static_cast<double>(step))))),
        eps(static_cast<T>(group.eps)),
        step_size(static_cast<T>(group.lr / (1 - __builtin_pow(group.beta1, static_cast<double>(step))))) {}

  template <bool with_l2>
  ANNEAL_HD void update(const T* __restrict g, T* __restrict p, T* __restrict m, T* __restrict v) const {
    for (int i = 0; i < chunk_of<T>; ++i) {
      T slope = sign * g[i];
      if constexpr (with_l2) slope += l2 * p[i];
      m[i] += new1 * (slope - m[i]);
      v[i] = beta2 * v[i] + new2 * (slope * slope);
      p[i] = kept * p[i] - step_size * (m[i] / (math::sqrt(v[i]) * root_scale + eps));
    }
  }

  T sign, l2, kept, new1, beta2, new2, root_scale, eps, step_size;
};

template <class T>
void adam_step(const AdamStep& a) {
  for_active(a.blocks, a.n_blocks, line_bytes / sizeof(T), [&](std::int64_t b, std::int64_t begin, std::int64_t end) {
    const Adam<T> adam(a.groups[a.blocks[b].group], a.steps[b]);
    const T* const gradients = static_cast<const T*>(a.gradients) + begin;
    T* const state[] = {static_cast<T*>(a.values) + begin, static_cast<T*>(a.exp_avg) + begin,
                        static_cast<T*>(a.exp_avg_sq) + begin};
    const auto run = [&]<bool with_l2>() {
      sweep<chunk_of<T>>(end - begin, gradients, state,
                         [adam](const T* g, T* const* s) { adam.template update<with_l2>(g, s[0], s[1], s[2]); });
    };
    if (adam.l2 != T(0)) run.template operator()<true>();
    else run.template operator()<false>();
  });
}

template <class T>
struct Sgd {
  Sgd(const OptimGroup& group, std::int64_t step)
      : sign(group.maximize ? T(-1) : T(1)),
        l2(static_cast<T>(group.weight_decay)),
        lr(static_cast<T>(group.lr)),
        momentum(static_cast<T>(group.momentum)),
        fresh(static_cast<T>(1 - group.dampening)),
        first(step == 1),
        nesterov(group.nesterov) {}

  ANNEAL_HD T slope(T g, T p) const { return sign * g + l2 * p; }
  ANNEAL_HD void plain(const T* __restrict g, T* __restrict p) const {
    for (int i = 0; i < chunk_of<T>; ++i) p[i] -= lr * slope(g[i], p[i]);
  }
  ANNEAL_HD void with_momentum(const T* __restrict g, T* __restrict p, T* __restrict m) const {
    for (int i = 0; i < chunk_of<T>; ++i) {
      const T d = slope(g[i], p[i]);
      m[i] = first ? d : momentum * m[i] + fresh * d;
      p[i] -= lr * (nesterov ? d + momentum * m[i] : m[i]);
    }
  }

  T sign, l2, lr, momentum, fresh;
  bool first, nesterov;
};

template <class T>
void sgd_step(const SgdStep& a) {
  for_active(a.blocks, a.n_blocks, line_bytes / sizeof(T), [&](std::int64_t b, std::int64_t begin, std::int64_t end) {
    const Sgd<T> sgd(a.groups[a.blocks[b].group], a.steps[b]);
    const T* const gradients = static_cast<const T*>(a.gradients) + begin;
    T* const values = static_cast<T*>(a.values) + begin;
    if (sgd.momentum == T(0)) {
      T* const state[] = {values};
      sweep<chunk_of<T>>(end - begin, gradients, state, [sgd](const T* g, T* const* s) { sgd.plain(g, s[0]); });
    } else {
      T* const state[] = {values, static_cast<T*>(a.momentum) + begin};
      sweep<chunk_of<T>>(end - begin, gradients, state,
                         [sgd](const T* g, T* const* s) { sgd.with_momentum(g, s[0], s[1]); });
    }
  });
}

template <class Args>
ANNEAL_HD void count_steps(const Args& a) {
  for (std::int64_t b = 0; b < a.n_blocks; ++b) a.steps[b] += a.blocks[b].active;
}

}  // namespace

template <>
void run(const AdamStep& a) {
  count_steps(a);
  if (a.dtype == DType::f64) adam_step<double>(a);
  else adam_step<float>(a);
}

template <>
void run(const SgdStep& a) {
  count_steps(a);
  if (a.dtype == DType::f64) sgd_step<double>(a);
  else sgd_step<float>(a);
}

}  // namespace kernels::cpu::ANNEAL_LEVEL
}  // namespace v0
}  // namespace anneal
