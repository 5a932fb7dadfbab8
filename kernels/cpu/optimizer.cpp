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

/// Elements updated at a time: four cache lines of each stream.
template <class C>
constexpr int chunk_of = 4 * line_bytes / static_cast<int>(sizeof(C));

/// What one pass reads and writes. T is the type of values and gradients, the rest of the state is computed with as it
/// is; `twin` may be null.
template <class T, class Twin, int states>
struct Streams {
  const T* gradients;
  T* values;
  Twin* twin;
  Compute<T>* state[states + 1];  // no array of none
};

/// Calls update(gradients, values, state) for a chunk at a time until n elements are done, the caches a chunk ahead.
/// The last ones, and 16-bit ones, are updated in a copy, by the same instructions: an element's bits do not depend on
/// where it stands.
template <class T, class Twin, int states, class Update>
ANNEAL_HD void sweep(std::int64_t n, const Streams<T, Twin, states>& s, const Update& update) {
  using C = Compute<T>;
  constexpr int chunk = chunk_of<C>;
  const auto publish = [&](std::int64_t at, const C* values, int some) __attribute__((always_inline)) {
    if (!s.twin) return;
    for (int k = 0; k < some; ++k) s.twin[at + k] = store<Twin>(static_cast<Compute<Twin>>(values[k]));
  };
  std::int64_t i = 0;
  if constexpr (std::is_same_v<T, C>) {
    for (; i + chunk <= n; i += chunk) {
      C* at[states + 1];
      for (int k = 0; k < states; ++k) at[k] = s.state[k] + i;
      for (int k = 0; k < chunk; k += line_bytes / static_cast<int>(sizeof(C))) {
        __builtin_prefetch(s.gradients + i + chunk + k);
        __builtin_prefetch(s.values + i + chunk + k, 1);
        for (int m = 0; m < states; ++m) __builtin_prefetch(at[m] + chunk + k, 1);
      }
      update(s.gradients + i, s.values + i, at);
      publish(i, s.values + i, chunk);
    }
  }
  for (; i < n; i += chunk) {
    const int some = n - i < chunk ? static_cast<int>(n - i) : chunk;
    C gradients[chunk] = {}, values[chunk] = {}, state[states + 1][chunk] = {};
    C* at[states + 1];
    for (int k = 0; k < some; ++k) gradients[k] = load(s.gradients[i + k]);
    for (int k = 0; k < some; ++k) values[k] = load(s.values[i + k]);
    for (int m = 0; m < states; ++m) {
      at[m] = state[m];
      for (int k = 0; k < some; ++k) state[m][k] = s.state[m][i + k];
    }
    update(gradients, values, at);
    publish(i, values, some);
    for (int k = 0; k < some; ++k) s.values[i + k] = store<T>(values[k]);
    for (int m = 0; m < states; ++m) {
      for (int k = 0; k < some; ++k) s.state[m][i + k] = state[m][k];
    }
  }
}

/// What a step does to gradients before anything else.
template <class T>
struct Slope {
  explicit Slope(const OptimStep& a, const OptimGroup& group)
      : factor(static_cast<T>((group.maximize ? -1 : 1) * (a.state ? a.state->factor : 1))),
        limit(static_cast<T>(a.clip_value > 0 ? a.clip_value : __builtin_inf())) {}

  ANNEAL_HD T operator()(T g) const {
    const T x = factor * g;
    return x > limit ? limit : x < -limit ? -limit : x;
  }

  T factor, limit;
};

/// One block's numbers at one step.
template <class T>
struct Adam {
  static constexpr int states = 2;
  Adam(const AdamStep& a, const OptimGroup& group, std::int64_t step)
      : slope(a, group),
        l2(static_cast<T>(group.decoupled ? 0 : group.weight_decay)),
        kept(static_cast<T>(group.decoupled ? 1 - group.lr * group.weight_decay : 1)),
        new1(static_cast<T>(1 - group.beta1)),
        beta2(static_cast<T>(group.beta2)),
        new2(static_cast<T>(1 - group.beta2)),
        root_scale(static_cast<T>(1 / __builtin_sqrt(1 - __builtin_pow(group.beta2, static_cast<double>(step))))),
        eps(static_cast<T>(group.eps)),
        step_size(static_cast<T>(group.lr / (1 - __builtin_pow(group.beta1, static_cast<double>(step))))) {}

  ANNEAL_HD void operator()(const T* __restrict g, T* __restrict p, T* const* state) const {
    T *__restrict m = state[0], *__restrict v = state[1];
    for (int i = 0; i < chunk_of<T>; ++i) {
      const T d = slope(g[i]) + l2 * p[i];
      m[i] += new1 * (d - m[i]);
      v[i] = beta2 * v[i] + new2 * (d * d);
      p[i] = kept * p[i] - step_size * (m[i] / (math::sqrt(v[i]) * root_scale + eps));
    }
  }

  Slope<T> slope;
  T l2, kept, new1, beta2, new2, root_scale, eps, step_size;
};

template <class T>
struct Sgd {
  static constexpr int states = 0;
  Sgd(const SgdStep& a, const OptimGroup& group, std::int64_t)
      : slope(a, group), l2(static_cast<T>(group.weight_decay)), lr(static_cast<T>(group.lr)) {}

  ANNEAL_HD void operator()(const T* __restrict g, T* __restrict p, T* const*) const {
    for (int i = 0; i < chunk_of<T>; ++i) p[i] -= lr * (slope(g[i]) + l2 * p[i]);
  }

  Slope<T> slope;
  T l2, lr;
};

template <class T>
struct Momentum {
  static constexpr int states = 1;
  Momentum(const SgdStep& a, const OptimGroup& group, std::int64_t step)
      : plain(a, group, step),
        momentum(static_cast<T>(group.momentum)),
        fresh(static_cast<T>(1 - group.dampening)),
        first(step == 1),
        nesterov(group.nesterov) {}

  ANNEAL_HD void operator()(const T* __restrict g, T* __restrict p, T* const* state) const {
    T* __restrict m = state[0];
    for (int i = 0; i < chunk_of<T>; ++i) {
      const T d = plain.slope(g[i]) + plain.l2 * p[i];
      m[i] = first ? d : momentum * m[i] + fresh * d;
      p[i] -= plain.lr * (nesterov ? d + momentum * m[i] : m[i]);
    }
  }

  Sgd<T> plain;
  T momentum, fresh;
  bool first, nesterov;
};

/// Updates elements [begin, end), of one block.
template <class T, class Update>
ANNEAL_HD void update_range(const OptimStep& a, const Update& update, void* const* state, std::int64_t begin,
                            std::int64_t end) {
  using C = Compute<T>;
  const auto with_twin = [&]<class Twin>() {
    Streams<T, Twin, Update::states> s;
    s.gradients = static_cast<const T*>(a.gradients) + begin;
    s.values = static_cast<T*>(a.values) + begin;
    s.twin = a.twin ? static_cast<Twin*>(a.twin) + begin : nullptr;
    for (int m = 0; m < Update::states; ++m) s.state[m] = static_cast<C*>(state[m]) + begin;
    sweep(end - begin, s, update);
  };
  if (a.twin && a.twin_dtype == DType::bf16) with_twin.template operator()<bf16>();
  else if (a.twin && a.twin_dtype == DType::f16) with_twin.template operator()<f16>();
  else with_twin.template operator()<C>();
}

template <class T>
void step(const AdamStep& a) {
  using C = Compute<T>;
  for_active(a.blocks, a.n_blocks, line_bytes / sizeof(C), [&](std::int64_t b, std::int64_t begin, std::int64_t end) {
    void* const state[] = {a.exp_avg, a.exp_avg_sq};
    update_range<T>(a, Adam<C>(a, a.groups[a.blocks[b].group], a.steps[b]), state, begin, end);
  });
}

template <class T>
void step(const SgdStep& a) {
  using C = Compute<T>;
  for_active(a.blocks, a.n_blocks, line_bytes / sizeof(C), [&](std::int64_t b, std::int64_t begin, std::int64_t end) {
    const OptimGroup& group = a.groups[a.blocks[b].group];
    void* const state[] = {a.momentum};
    if (group.momentum == 0) update_range<T>(a, Sgd<C>(a, group, a.steps[b]), state, begin, end);
    else update_range<T>(a, Momentum<C>(a, group, a.steps[b]), state, begin, end);
  });
}

template <class Args>
ANNEAL_HD void run_step(const Args& a) {
  if (a.state && a.state->found_inf) return;
  for (std::int64_t b = 0; b < a.n_blocks; ++b) a.steps[b] += a.blocks[b].active;
  visit_floating(a.dtype, [&]<class T>() { step<T>(a); });
}

}  // namespace

template <>
void run(const AdamStep& a) {
  run_step(a);
}

template <>
void run(const SgdStep& a) {
  run_step(a);
}

}  // namespace kernels::cpu::ANNEAL_LEVEL
}  // namespace v0
}  // namespace anneal
