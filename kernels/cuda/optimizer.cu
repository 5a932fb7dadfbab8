// The gradients' norm, and optimizer steps: one pass over the active blocks of an arena.
#include "anneal/kernels/cuda/model.h"
#include "anneal/kernels/step_factor.h"
#include "anneal/kernels/update_rules.h"

namespace anneal {
inline namespace v0 {
namespace kernels::ANNEAL_GPU {
namespace {

using ArenaBlock = kernels::Block;

/// The host does not know the arena's blocks. So there are always this many blocks of threads (all at work at once on
/// the largest devices), which take chunks of the arena in turn.
constexpr std::int64_t grid = 528;
constexpr int threads_of_block = 256;
constexpr std::int64_t chunk = 4096;  // elements, counted from the beginning of an arena's block

/// f(b, begin, end) for every chunk that is this block's turn, in order; `b` is the number of the arena's block.
template <class F>
ANNEAL_DEVICE void for_chunks(const Block& block, const ArenaBlock* blocks, std::int64_t n_blocks, const F& f) {
  std::int64_t turn = block.index();  // of this block, in chunks from the beginning of block b
  for (std::int64_t b = 0; b < n_blocks; ++b) {
    const ArenaBlock at = blocks[b];
    if (!at.active) continue;
    const std::int64_t chunks = (at.end - at.begin + chunk - 1) / chunk;
    for (; turn < chunks; turn += block.count()) {
      const std::int64_t begin = at.begin + turn * chunk;
      f(b, begin, std::min(begin + chunk, at.end));
    }
    turn -= chunks;
  }
}

/// `width` elements at p, at most 16 bytes; those from n on are 0.
template <int width, class T>
ANNEAL_DEVICE Vector<T, width> load_some(const T* p, std::int64_t n, bool wide) {
  if (wide && n >= width) return load_vector<width>(p);
  Vector<T, width> v;
  for (int k = 0; k < width; ++k) v[k] = k < n ? p[k] : T();
  return v;
}
template <class T, int width>
ANNEAL_DEVICE void store_some(T* p, const Vector<T, width>& v, std::int64_t n, bool wide) {
  if (wide && n >= width) return store_vector(p, v);
  for (int k = 0; k < width; ++k) {
    if (k < n) p[k] = v[k];
  }
}

// ---- the norm ----

struct Size {
  ANNEAL_DEVICE double operator()(double x) const { return math::abs(x); }
};
struct Square {
  ANNEAL_DEVICE double operator()(double x) const { return x * x; }
};
struct Power {
  double p;
  ANNEAL_DEVICE double operator()(double x) const { return math::pow(math::abs(x), p); }
};

template <bool largest>
ANNEAL_DEVICE double join(double a, double b) {
  if constexpr (largest) return Maximum::fwd(a, b);
  else return a + b;
}
template <bool largest>
ANNEAL_DEVICE double join_all(Block& block, double value) {
  if constexpr (largest) return block_max(block, value);
  else return block_sum(block, value);
}

template <class T, class Measure, bool largest>
struct GradientSumKernel {
  static constexpr int threads = threads_of_block;
  const ArenaBlock* blocks;
  std::int64_t n_blocks;
  const T* gradients;
  bool wide;  // they are aligned
  Measure measure;
  double* parts;

  ANNEAL_DEVICE void operator()(Block& block) const {
    constexpr int width = vector_size<T>;
    double total = 0;
    bool idle = true;  // the whole block
    for_chunks(block, blocks, n_blocks, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
      idle = false;
      const bool at_once = wide && begin % width == 0;
      for (std::int64_t i = begin + block.thread() * width; i < end; i += threads * width) {
        const auto g = load_some<width>(gradients + i, end - i, at_once);
        for (int k = 0; k < width; ++k) total = join<largest>(total, measure(static_cast<double>(load(g[k]))));
      }
    });
    if (!idle) total = join_all<largest>(block, total);
    if (block.thread() == 0) parts[block.index()] = total;
  }
};

/// Adds the parts to the total.
template <bool largest>
struct JoinKernel {
  static constexpr int threads = 1024;
  const double* parts;
  StepState* state;

  ANNEAL_DEVICE void operator()(Block& block) const {
    double total = 0;
    for_each(block, grid, [&](std::int64_t i) { total = join<largest>(total, parts[i]); });
    total = join_all<largest>(block, total);
    if (block.thread() == 0) state->total = join<largest>(state->total, total);
  }
};

template <bool largest, class Measure>
void gradient_sum(const GradientSum& a, const Measure& measure, Stream stream) {
  auto* const parts = static_cast<double*>(workspace(stream, grid * sizeof(double)));
  visit_floating(a.dtype, [&]<class T>() {
    launch(stream, grid,
           GradientSumKernel<T, Measure, largest>{a.blocks, a.n_blocks, static_cast<const T*>(a.gradients),
                                                  aligned(a.gradients), measure, parts});
  });
  launch(stream, 1, JoinKernel<largest>{parts, a.state});
}

struct StepFactorKernel {
  static constexpr int threads = 32;
  StepFactor a;
  ANNEAL_DEVICE void operator()(Block& block) const {
    if (block.thread() == 0) finish_norm(a);
  }
};

// ---- updates ----

/// Counts the steps of active blocks and works their numbers out.
template <class Update>
struct NumbersKernel {
  static constexpr int threads = threads_of_block;
  OptimStep a;
  Update* updates;

  ANNEAL_DEVICE void operator()(Block& block) const {
    if (a.state && a.state->found_inf) return;
    for_each(block, a.n_blocks, [&](std::int64_t b) {
      if (a.blocks[b].active) updates[b] = Update(a, a.groups[a.blocks[b].group], ++a.steps[b]);
    });
  }
};

/// Values and gradients are T; all else is computed and kept in its computing type.
template <class T, class Update>
struct UpdateKernel {
  using C = Compute<T>;
  static constexpr int threads = threads_of_block;
  static constexpr int states = Update::states, width = vector_size<C>;
  OptimStep a;
  C* state[states];
  const Update* updates;
  bool wide;  // everything is aligned

  template <class To>
  ANNEAL_DEVICE void publish(To* to, const Vector<C, width>& values, std::int64_t n, bool at_once) const {
    Vector<To, width> v;
    for (int k = 0; k < width; ++k) v[k] = store<To>(values[k]);
    store_some(to, v, n, at_once);
  }

  ANNEAL_DEVICE void operator()(Block& block) const {
    if (a.state && a.state->found_inf) return;
    const auto* const gradients = static_cast<const T*>(a.gradients);
    auto* const values = static_cast<T*>(a.values);
    for_chunks(block, a.blocks, a.n_blocks, [&](std::int64_t b, std::int64_t begin, std::int64_t end) {
      const Update update = updates[b];
      const int used = update.used();
      const bool at_once = wide && begin % width == 0;
      for (std::int64_t i = begin + block.thread() * width; i < end; i += threads * width) {
        const std::int64_t n = end - i;
        const auto g = load_some<width>(gradients + i, n, at_once);
        const auto before = load_some<width>(values + i, n, at_once);
        Vector<C, width> p, s[states] = {};
        for (int m = 0; m < states; ++m) {
          if (m < used) s[m] = load_some<width>(state[m] + i, n, at_once);
        }
        for (int k = 0; k < width; ++k) {
          C of_one[states];
          for (int m = 0; m < states; ++m) of_one[m] = s[m][k];
          p[k] = load(before[k]);
          update(load(g[k]), p[k], of_one);
          for (int m = 0; m < states; ++m) s[m][k] = of_one[m];
        }
        for (int m = 0; m < states; ++m) {
          if (m < used) store_some(state[m] + i, s[m], n, at_once);
        }
        publish(values + i, p, n, at_once);
        if (auto* const averages = static_cast<C*>(a.average)) {
          auto average = load_some<width>(averages + i, n, at_once);
          for (int k = 0; k < width; ++k) average[k] += static_cast<C>(1 - a.decay) * (p[k] - average[k]);
          store_some(averages + i, average, n, at_once);
        }
        if (!a.twin) continue;
        if (a.twin_dtype == DType::bf16) publish(static_cast<bf16*>(a.twin) + i, p, n, at_once);
        else publish(static_cast<f16*>(a.twin) + i, p, n, at_once);
      }
    });
  }
};

template <template <class> class Rule, class... State>
void step(const OptimStep& a, Stream stream, State*... state) {
  if (a.n_blocks == 0) return;
  const bool wide =
      aligned(a.gradients) && aligned(a.values) && aligned(a.twin) && aligned(a.average) && (aligned(state) && ...);
  visit_floating(a.dtype, [&]<class T>() {
    using C = Compute<T>;
    using Update = Rule<C>;
    auto* const updates =
        static_cast<Update*>(workspace(stream, static_cast<std::size_t>(a.n_blocks) * sizeof(Update)));
    launch(stream, blocks_for(a.n_blocks, threads_of_block), NumbersKernel<Update>{a, updates});
    launch(stream, grid, UpdateKernel<T, Update>{a, {static_cast<C*>(state)...}, updates, wide});
  });
}

}  // namespace

template <>
void run(const GradientSum& a, Stream stream) {
  if (a.p == 2) gradient_sum<false>(a, Square{}, stream);
  else if (a.p == 1) gradient_sum<false>(a, Size{}, stream);
  else if (a.p == std::numeric_limits<double>::infinity()) gradient_sum<true>(a, Size{}, stream);
  else gradient_sum<false>(a, Power{a.p}, stream);
}

template <>
void run(const StepFactor& a, Stream stream) {
  launch(stream, 1, StepFactorKernel{a});
}

template <>
void run(const AdamStep& a, Stream stream) {
  step<AdamRule>(a, stream, a.exp_avg, a.exp_avg_sq);
}

template <>
void run(const SgdStep& a, Stream stream) {
  step<SgdRule>(a, stream, a.momentum);
}

}  // namespace kernels::ANNEAL_GPU
}  // namespace v0
}  // namespace anneal
