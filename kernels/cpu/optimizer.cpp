// Optimizer steps: one pass over the active blocks of an arena.
#include "anneal/kernels/cpu/level.h"
#include "anneal/kernels/parallel.h"
#include "anneal/kernels/update_rules.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu::ANNEAL_LEVEL {
namespace {

constexpr std::int64_t serial_below = 1 << 18;  // elements; a second thread would gain less than moving lines costs
constexpr std::int64_t grain = 1 << 16;
constexpr int line_bytes = 64;

/// Calls f(block number, begin, end) for all active elements. Each thread gets the same share of every block, cut at
/// whole cache lines: the rows of a weight's gradient that it has just written are then in its cache.
template <class F>
ANNEAL_HD void for_active(const Block* blocks, std::int64_t n_blocks, int line, const F& f) {
  std::int64_t total = 0;
  for (std::int64_t b = 0; b < n_blocks; ++b) {
    if (blocks[b].active) total += blocks[b].end - blocks[b].begin;
  }
  parallel_for(total, total < serial_below ? total : grain, [&, line](std::int64_t begin, std::int64_t end) {
    for (std::int64_t b = 0; b < n_blocks; ++b) {
      if (!blocks[b].active) continue;
      const std::int64_t size = blocks[b].end - blocks[b].begin;
      const auto cut = [=](std::int64_t at) {
        const double share = static_cast<double>(at) / static_cast<double>(total);
        return at == total ? size : static_cast<std::int64_t>(share * static_cast<double>(size)) / line * line;
      };
      const std::int64_t from = cut(begin), to = cut(end);
      if (from < to) f(b, blocks[b].begin + from, blocks[b].begin + to);
    }
  });
}

/// What one pass reads and writes: values and gradients of type T, `states` of the rule and, if `averaged`, the
/// average; `twin` may be null.
template <class T, class Twin, int states, bool averaged>
struct Streams {
  const T* gradients;
  T* values;
  Twin* twin;
  Compute<T>* state[states + averaged + 1];  // no array of none
  Compute<T> fresh;                          // 1 - decay
};

/// Elements updated at a time: four cache lines of each stream.
template <class C>
constexpr int chunk_of = 4 * line_bytes / static_cast<int>(sizeof(C));

/// Updates a chunk.
template <int states, bool averaged, class Rule, class C>
ANNEAL_HD void update(const Rule& rule, C fresh, const C* __restrict g, C* __restrict p, C* const* state) {
  C* __restrict first = state[0], * __restrict second = state[states > 1], * __restrict average = state[states];
  for (int i = 0; i < chunk_of<C>; ++i) {
    C s[2] = {};
    if constexpr (states > 0) s[0] = first[i];
    if constexpr (states > 1) s[1] = second[i];
    rule(g[i], p[i], s);
    if constexpr (states > 0) first[i] = s[0];
    if constexpr (states > 1) second[i] = s[1];
    if constexpr (averaged) average[i] += fresh * (p[i] - average[i]);
  }
}

/// Updates n elements, a chunk at a time, the caches a chunk ahead. The last ones, and 16-bit ones, are updated in a
/// copy, by the same instructions: an element's bits do not depend on where it stands.
template <class T, class Twin, int states, bool averaged, class Rule>
void sweep(std::int64_t n, const Rule& rule, const Streams<T, Twin, states, averaged>& s) {
  using C = Compute<T>;
  constexpr int chunk = chunk_of<C>, count = states + averaged;
  const auto publish = [&](std::int64_t at, const C* values, int some) __attribute__((always_inline)) {
    if (!s.twin) return;
    for (int k = 0; k < some; ++k) s.twin[at + k] = store<Twin>(static_cast<Compute<Twin>>(values[k]));
  };
  std::int64_t i = 0;
  if constexpr (std::is_same_v<T, C>) {
    for (; i + chunk <= n; i += chunk) {
      C* at[count + 1] = {};
      for (int k = 0; k < count; ++k) at[k] = s.state[k] + i;
      for (int k = 0; k < chunk; k += line_bytes / static_cast<int>(sizeof(C))) {
        __builtin_prefetch(s.gradients + i + chunk + k);
        __builtin_prefetch(s.values + i + chunk + k, 1);
        for (int m = 0; m < count; ++m) __builtin_prefetch(at[m] + chunk + k, 1);
      }
      update<states, averaged>(rule, s.fresh, s.gradients + i, s.values + i, at);
      publish(i, s.values + i, chunk);
    }
  }
  for (; i < n; i += chunk) {
    const int some = n - i < chunk ? static_cast<int>(n - i) : chunk;
    C gradients[chunk] = {}, values[chunk] = {}, state[count + 1][chunk] = {};
    C* at[count + 1] = {};
    for (int k = 0; k < some; ++k) gradients[k] = load(s.gradients[i + k]);
    for (int k = 0; k < some; ++k) values[k] = load(s.values[i + k]);
    for (int m = 0; m < count; ++m) {
      at[m] = state[m];
      for (int k = 0; k < some; ++k) state[m][k] = s.state[m][i + k];
    }
    update<states, averaged>(rule, s.fresh, gradients, values, at);
    publish(i, values, some);
    for (int k = 0; k < some; ++k) s.values[i + k] = store<T>(values[k]);
    for (int m = 0; m < count; ++m) {
      for (int k = 0; k < some; ++k) s.state[m][i + k] = state[m][k];
    }
  }
}

/// Updates elements [begin, end), of one block.
template <class T, int states, class Rule>
void update_range(const OptimStep& a, const Rule& rule, void* const* state, std::int64_t begin, std::int64_t end) {
  using C = Compute<T>;
  const auto with = [&]<class Twin, bool averaged>() {
    Streams<T, Twin, states, averaged> s;
    s.gradients = static_cast<const T*>(a.gradients) + begin;
    s.values = static_cast<T*>(a.values) + begin;
    s.twin = a.twin ? static_cast<Twin*>(a.twin) + begin : nullptr;
    for (int m = 0; m < states; ++m) s.state[m] = static_cast<C*>(state[m]) + begin;
    if constexpr (averaged) s.state[states] = static_cast<C*>(a.average) + begin;
    s.fresh = static_cast<C>(1 - a.decay);
    sweep(end - begin, rule, s);
  };
  const auto with_twin = [&]<class Twin>() {
    if (a.average) with.template operator()<Twin, true>();
    else with.template operator()<Twin, false>();
  };
  if (a.twin && a.twin_dtype == DType::bf16) with_twin.template operator()<bf16>();
  else if (a.twin && a.twin_dtype == DType::f16) with_twin.template operator()<f16>();
  else with_twin.template operator()<C>();
}

template <class T>
void step(const AdamStep& a, std::int64_t b, std::int64_t begin, std::int64_t end) {
  const AdamRule<Compute<T>> rule(a, a.groups[a.blocks[b].group], a.steps[b]);
  void* const state[] = {a.exp_avg, a.exp_avg_sq};
  update_range<T, 2>(a, rule, state, begin, end);
}

template <class T>
void step(const SgdStep& a, std::int64_t b, std::int64_t begin, std::int64_t end) {
  const SgdRule<Compute<T>> rule(a, a.groups[a.blocks[b].group], a.steps[b]);
  void* const state[] = {a.momentum};
  if (rule.used() == 0) update_range<T, 0>(a, rule, state, begin, end);
  else update_range<T, 1>(a, rule, state, begin, end);
}

template <class Args>
ANNEAL_HD void run_step(const Args& a) {
  if (a.state && a.state->found_inf) return;
  for (std::int64_t b = 0; b < a.n_blocks; ++b) a.steps[b] += a.blocks[b].active;
  visit_floating(a.dtype, [&]<class T>() {
    const int line = line_bytes / static_cast<int>(sizeof(Compute<T>));
    for_active(a.blocks, a.n_blocks, line,
               [&](std::int64_t b, std::int64_t begin, std::int64_t end) { step<T>(a, b, begin, end); });
  });
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
