// Attention, a warp to a query, or for the gradients of keys and values to a key: each lane takes a key (a query) of
// every 32, and then some of the depth. Scores and weights are computed again for the gradients.
#include "anneal/kernels/cuda/model.h"
#include "anneal/kernels/math.h"
#include "anneal/kernels/philox.h"

namespace anneal {
inline namespace v0 {
namespace kernels::ANNEAL_GPU {
namespace {

/// One row of [batch, heads, rows].
struct Row {
  std::int64_t b, h, i;
};
ANNEAL_DEVICE Row row_at(std::int64_t n, std::int64_t heads, std::int64_t rows) {
  const Division outer = divide(n, rows), inner = divide(outer.quotient, heads);
  return {inner.quotient, inner.rest, outer.rest};
}
template <class T>
ANNEAL_DEVICE T* row_of(T* data, const HeadStrides& strides, const Row& r) {
  return data + r.b * strides.batch + r.h * strides.head + r.i * strides.row;
}
template <class T>
ANNEAL_DEVICE Compute<T> dot(const T* a, const T* b, std::int64_t n) {
  Compute<T> sum = 0;
  for (std::int64_t d = 0; d < n; ++d) sum += load(a[d]) * load(b[d]);
  return sum;
}

/// What the kernels share: a warp's work on rows of its own.
template <class T>
struct AttentionWarps {
  using C = Compute<T>;
  static constexpr int threads = 128, warps = threads / 32;
  static constexpr C infinity = std::numeric_limits<C>::infinity();
  AttentionInputs a;

  ANNEAL_DEVICE const T* q(const Row& r) const { return row_of(static_cast<const T*>(a.q), a.q_strides, r); }
  ANNEAL_DEVICE const T* k(const Row& r, std::int64_t j) const {
    return row_of(static_cast<const T*>(a.k), a.k_strides, {r.b, divide(r.h, a.group).quotient, j});
  }
  ANNEAL_DEVICE const T* v(const Row& r, std::int64_t j) const {
    return row_of(static_cast<const T*>(a.v), a.v_strides, {r.b, divide(r.h, a.group).quotient, j});
  }
  ANNEAL_DEVICE std::int64_t number(const Row& r) const { return (r.b * a.heads + r.h) * a.queries + r.i; }

  /// The score of a query with a key that causality lets it see.
  ANNEAL_DEVICE C score(const Row& r, std::int64_t j) const {
    const C s = static_cast<C>(a.scale) * dot(q(r), k(r, j), a.depth);
    if (!a.mask) return s;
    const std::int64_t at =
        r.b * a.mask_strides[0] + r.h * a.mask_strides[1] + r.i * a.mask_strides[2] + j * a.mask_strides[3];
    if (a.mask_dtype == DType::boolean) return static_cast<const bool*>(a.mask)[at] ? s : -infinity;
    return s + load(static_cast<const T*>(a.mask)[at]);
  }
  /// What dropout multiplies a weight by.
  ANNEAL_DEVICE C kept(const Row& r, std::int64_t j) const {
    if (a.dropout <= 0) return 1;
    const std::uint64_t at = a.position(r.b, r.h, r.i) + static_cast<std::uint64_t>(j);
    const std::uint32_t word = philox::block(a.seed, at / 4).word[at % 4];
    return philox::keeps(word, philox::drop_threshold(a.dropout)) ? static_cast<C>(1 / (1 - a.dropout)) : C(0);
  }

  ANNEAL_DEVICE static int lane(const Block& block) { return block.thread() % 32; }
  /// f(row) for the rows of this warp.
  template <class F>
  ANNEAL_DEVICE static void each_row(const Block& block, std::int64_t heads, std::int64_t rows, std::int64_t all,
                                     const F& f) {
    for (std::int64_t n = block.index() * warps + block.thread() / 32; n < all; n += block.count() * warps)
      f(row_at(n, heads, rows));
  }
  /// This warp's part of the block's shared memory: `depth` sums from `from` on, of `all`. A lane touches each 32nd.
  ANNEAL_DEVICE static C* sums(Block& block, std::int64_t all, std::int64_t from, std::int64_t depth) {
    C* const mine = block.template shared<C>() + block.thread() / 32 * all + from;
    for (std::int64_t d = lane(block); d < depth; d += 32) mine[d] = 0;
    return mine;
  }
  static std::size_t shared_bytes(std::int64_t depth) { return static_cast<std::size_t>(warps * depth) * sizeof(C); }
  /// sums += factor_of_lane * row(n) for the lanes n < count.
  template <class F>
  ANNEAL_DEVICE static void add_rows(Block& block, C factor_of_lane, std::int64_t count, std::int64_t depth, C* sums,
                                     const F& row) {
    for (int n = 0; n < 32; ++n) {
      const C factor = block.shuffle(factor_of_lane, n);
      if (n >= count) continue;
      const T* const from = row(n);
      for (std::int64_t d = lane(block); d < depth; d += 32) sums[d] += factor * load(from[d]);
    }
  }
  ANNEAL_DEVICE static void write(const Block& block, const C* sums, C factor, std::int64_t depth, T* to) {
    for (std::int64_t d = lane(block); d < depth; d += 32) to[d] = store<T>(sums[d] * factor);
  }
  template <class Op>
  ANNEAL_DEVICE static C reduce(Block& block, C x, const Op& op) {
    for (int mask = 16; mask > 0; mask /= 2) x = op(x, block.shuffle_xor(x, mask));
    return x;
  }
};

template <class T>
struct AttentionKernel : AttentionWarps<T> {
  using Warps = AttentionWarps<T>;
  using C = Compute<T>;
  T* out;
  HeadStrides out_strides;
  C* lse;

  ANNEAL_DEVICE void operator()(Block& block) const {
    const AttentionInputs& a = this->a;
    Warps::each_row(block, a.heads, a.queries, a.batch * a.heads * a.queries, [&](const Row& r) {
      C* const sums = Warps::sums(block, a.value_depth, 0, a.value_depth);
      C max = -Warps::infinity, total = 0;
      const std::int64_t seen = a.seen(r.i);
      for (std::int64_t first = 0; first < seen; first += 32) {
        const std::int64_t j = first + Warps::lane(block);
        const C s = j < seen ? this->score(r, j) : -Warps::infinity;
        const C larger = Warps::reduce(block, s > max ? s : max, [](C x, C y) { return y > x ? y : x; });
        const C shift = larger == -Warps::infinity ? C(0) : larger;  // none is seen so far
        const C weight = math::exp(s - shift), factor = math::exp(max - shift);
        total = total * factor + Warps::reduce(block, weight, [](C x, C y) { return x + y; });
        max = larger;
        for (std::int64_t d = Warps::lane(block); d < a.value_depth; d += 32) sums[d] *= factor;
        Warps::add_rows(block, j < seen ? weight * this->kept(r, j) : C(0), seen - first, a.value_depth, sums,
                        [&](std::int64_t n) { return this->v(r, first + n); });
      }
      Warps::write(block, sums, total == C(0) ? C(0) : C(1) / total, a.value_depth, row_of(out, out_strides, r));
      if (Warps::lane(block) == 0) lse[this->number(r)] = total == C(0) ? Warps::infinity : max + math::log(total);
    });
  }
};

/// What the gradients share.
template <class T>
struct AttentionGradWarps : AttentionWarps<T> {
  using C = Compute<T>;
  const T* dout;
  HeadStrides dout_strides;
  const C* lse;
  C* delta;  // of each query, dout . out

  ANNEAL_DEVICE const T* slope(const Row& r) const { return row_of(dout, dout_strides, r); }
  /// A weight after dropout, and the gradient of its score.
  struct Weight {
    C kept, dscore;
  };
  ANNEAL_DEVICE Weight weight(const Row& r, std::int64_t j) const {
    const std::int64_t n = this->number(r);
    const C weight = math::exp(this->score(r, j) - lse[n]), kept = this->kept(r, j);
    return {weight * kept, weight * (kept * dot(slope(r), this->v(r, j), this->a.value_depth) - delta[n])};
  }
};

template <class T>
struct AttentionDeltaKernel : AttentionGradWarps<T> {
  const T* out;
  HeadStrides out_strides;

  ANNEAL_DEVICE void operator()(Block& block) const {
    const AttentionInputs& a = this->a;
    for_each(block, a.batch * a.heads * a.queries, [&](std::int64_t n) {
      const Row r = row_at(n, a.heads, a.queries);
      this->delta[n] = dot(this->slope(r), row_of(out, out_strides, r), a.value_depth);
    });
  }
};

template <class T>
struct AttentionQueryGradKernel : AttentionGradWarps<T> {
  using Warps = AttentionWarps<T>;
  using C = Compute<T>;
  T* dq;
  HeadStrides dq_strides;

  ANNEAL_DEVICE void operator()(Block& block) const {
    const AttentionInputs& a = this->a;
    Warps::each_row(block, a.heads, a.queries, a.batch * a.heads * a.queries, [&](const Row& r) {
      C* const sums = Warps::sums(block, a.depth, 0, a.depth);
      const std::int64_t seen = a.seen(r.i);
      for (std::int64_t first = 0; first < seen; first += 32) {
        const std::int64_t j = first + Warps::lane(block);
        Warps::add_rows(block, j < seen ? this->weight(r, j).dscore : C(0), seen - first, a.depth, sums,
                        [&](std::int64_t n) { return this->k(r, first + n); });
      }
      Warps::write(block, sums, static_cast<C>(a.scale), a.depth, row_of(dq, dq_strides, r));
    });
  }
};

/// dk and dv, each of which may be null.
template <class T>
struct AttentionKeyGradKernel : AttentionGradWarps<T> {
  using Warps = AttentionWarps<T>;
  using C = Compute<T>;
  T *dk, *dv;
  HeadStrides dk_strides, dv_strides;

  ANNEAL_DEVICE void operator()(Block& block) const {
    const AttentionInputs& a = this->a;
    Warps::each_row(block, a.kv_heads(), a.keys, a.batch * a.kv_heads() * a.keys, [&](const Row& r) {
      const std::int64_t all = a.depth + a.value_depth;
      C* const key_sums = Warps::sums(block, all, 0, a.depth);
      C* const value_sums = Warps::sums(block, all, a.depth, a.value_depth);
      const std::int64_t begin = a.causal ? r.i : 0;  // the first query that sees the key
      for (std::int64_t h = r.h * a.group; h < (r.h + 1) * a.group; ++h) {
        for (std::int64_t first = begin; first < a.queries; first += 32) {
          const std::int64_t i = first + Warps::lane(block), count = a.queries - first;
          typename AttentionGradWarps<T>::Weight w{};
          if (i < a.queries) w = this->weight({r.b, h, i}, r.i);
          Warps::add_rows(block, w.dscore, count, a.depth, key_sums, [&](std::int64_t n) {
            return this->q({r.b, h, first + n});
          });
          Warps::add_rows(block, w.kept, count, a.value_depth, value_sums, [&](std::int64_t n) {
            return this->slope({r.b, h, first + n});
          });
        }
      }
      if (dk) Warps::write(block, key_sums, static_cast<C>(a.scale), a.depth, row_of(dk, dk_strides, r));
      if (dv) Warps::write(block, value_sums, C(1), a.value_depth, row_of(dv, dv_strides, r));
    });
  }
};

}  // namespace

template <>
void run(const Attention& a, Stream stream) {
  visit_floating(a.dtype, [&]<class T>() {
    using Kernel = AttentionKernel<T>;
    launch(stream, blocks_for(a.batch * a.heads * a.queries, Kernel::warps),
           Kernel{{a}, static_cast<T*>(a.out), a.out_strides, static_cast<Compute<T>*>(a.lse)},
           Kernel::shared_bytes(a.value_depth));
  });
}

template <>
void run(const AttentionGrad& a, Stream stream) {
  visit_floating(a.dtype, [&]<class T>() {
    using C = Compute<T>;
    const std::int64_t queries = a.batch * a.heads * a.queries, keys = a.batch * a.kv_heads() * a.keys;
    const AttentionGradWarps<T> shared{
        {a},
        static_cast<const T*>(a.dout),
        a.dout_strides,
        static_cast<const C*>(a.lse),
        static_cast<C*>(workspace(stream, static_cast<std::size_t>(queries) * sizeof(C)))};
    using Delta = AttentionDeltaKernel<T>;
    launch(stream, blocks_for(queries, Delta::threads), Delta{shared, static_cast<const T*>(a.out), a.out_strides});
    using Query = AttentionQueryGradKernel<T>;
    if (a.dq)
      launch(stream, blocks_for(queries, Query::warps), Query{shared, static_cast<T*>(a.dq), a.dq_strides},
             Query::shared_bytes(a.depth));
    using Key = AttentionKeyGradKernel<T>;
    if (a.dk || a.dv)
      launch(stream, blocks_for(keys, Key::warps),
             Key{shared, static_cast<T*>(a.dk), static_cast<T*>(a.dv), a.dk_strides, a.dv_strides},
             Key::shared_bytes(a.depth + a.value_depth));
  });
}

}  // namespace kernels::ANNEAL_GPU
}  // namespace v0
}  // namespace anneal
