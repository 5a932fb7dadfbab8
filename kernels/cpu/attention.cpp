// Attention: a strip of queries, as many as a tile has rows, at a time, with the scores of all their keys. Threads
// share out the heads, and pieces of their queries.
#include "anneal/kernels/cpu/attention.h"

#include "anneal/kernels/cpu/level.h"
#include "anneal/kernels/parallel.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu::ANNEAL_LEVEL {
namespace {

constexpr std::int64_t piece_rows = 43 * tile_rows;  // just over 256: queries that a thread takes at a time

template <class C>
struct RowSums {
  C max, sum;
};

/// Makes the n scores of a row, of which `seen` count, 2^(score - max); whole vectors, with zeros after those seen.
template <class C>
ANNEAL_HD RowSums<C> softmax_weights(C* s, std::int64_t seen, std::int64_t n) {
  using V = Vector<C>;
  constexpr int width = lanes<C>;
  for (std::int64_t j = seen / width * width; j < n; j += width)
    store_vector(s + j, first_lanes<C>(load_vector(s + j), seen - j, -infinity<C>));
  const auto larger = [](V a, V b) __attribute__((always_inline)) { return b > a ? b : a; };
  V most[2] = {splat(-infinity<C>), splat(-infinity<C>)};
  std::int64_t j = 0;
  for (; j + 2 * width <= n; j += 2 * width) {
    most[0] = larger(most[0], load_vector(s + j));
    most[1] = larger(most[1], load_vector(s + j + width));
  }
  if (j < n) most[0] = larger(most[0], load_vector(s + j));
  const C max = folded<C>(larger(most[0], most[1]), larger);
  const C shift = max == -infinity<C> ? C(0) : max;  // nothing is seen
  V sum[2] = {};
  for (j = 0; j + 2 * width <= n; j += 2 * width) {
    const V first = exp2(load_vector(s + j) - shift), second = exp2(load_vector(s + j + width) - shift);
    store_vector(s + j, first);
    store_vector(s + j + width, second);
    sum[0] += first;
    sum[1] += second;
  }
  if (j < n) {
    const V first = exp2(load_vector(s + j) - shift);
    store_vector(s + j, first);
    sum[0] += first;
  }
  return {max, sum_of<C>(sum[0] + sum[1])};
}

template <class T>
struct Forward {
  using C = Compute<T>;
  const Attention& a;
  PackedColumns<C> keys;
  PackedRows<C> values, queries, sums;
  C* scores;
  std::int64_t scores_ld;
  std::uint32_t* words;

  explicit Forward(const Attention& a) : a(a), scores_ld(rounded_up(a.keys, lanes<C>) + lanes<C>) {
    const std::int64_t d = PackedRows<C>::distance(a.depth), e = PackedRows<C>::distance(a.value_depth);
    const std::int64_t k = rounded_up(PackedColumns<C>::size(a.keys, a.depth), lanes<C>), v = a.keys * e;
    C* const memory = scratch<C>(Scratch::panel, k + v + tile_rows * (d + e + scores_ld));
    keys = {memory, a.depth};
    values = {memory + k, e};
    queries = {values.row(a.keys), d};
    sums = {queries.row(tile_rows), e};
    scores = sums.row(tile_rows);
    words = a.dropout > 0 ? scratch<std::uint32_t>(Scratch::table, rounded_up(a.keys, chunk_size)) : nullptr;
  }

  void pack(std::int64_t b, std::int64_t kv) const {
    keys.fill(row_of(static_cast<const T*>(a.k), a.k_strides, b, kv, 0), a.k_strides.row, a.keys);
    values.fill(row_of(static_cast<const T*>(a.v), a.v_strides, b, kv, 0), a.v_strides.row, a.keys, a.value_depth,
                C(1));
  }

  /// Queries [i, i + rows) of a head, whose keys and values are packed.
  void strip(std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t rows) const {
    const std::int64_t seen = a.seen(i + rows - 1), width = rounded_up(seen, lanes<C>);
    queries.fill(row_of(static_cast<const T*>(a.q), a.q_strides, b, h, i), a.q_strides.row, rows, a.depth,
                 static_cast<C>(a.scale) * log2_of_e<C>);
    T* const out = row_of(static_cast<T*>(a.out), a.out_strides, b, h, i);
    product(rows, width, a.depth, queries.data, queries.ld, Dense{}, keys.columns(0), scores, scores_ld, false);
    constexpr int n = 16;  // a vector or more, for the logarithms
    static_assert(n >= tile_rows);
    C most[n], total[n], lse[n];
    for (int r = 0; r < n; ++r) most[r] = total[r] = 0;
    for (std::int64_t r = 0; r < rows; ++r) {
      C* const s = scores + r * scores_ld;
      const std::int64_t keys_seen = a.seen(i + r);
      if (a.mask) apply_mask<T>(a, b, h, i + r, 0, keys_seen, s);
      const auto [max, sum] = softmax_weights(s, keys_seen, width);
      most[r] = max;
      total[r] = sum;
      if (a.dropout > 0) {
        draw_row(a, b, h, i + r, 0, keys_seen, words);
        drop(words, philox::drop_threshold(a.dropout), keys_seen, s);
      }
    }
    product(rows, a.value_depth, seen, scores, scores_ld, Dense{}, values.columns(0), sums.data, sums.ld, false);
    write_rows(
        sums, rows, a.value_depth,
        [&](std::int64_t r) { return total[r] == C(0) ? C(0) : keep_factor<C>(a) / total[r]; }, out, a.out_strides.row);
    for (int r = 0; r < n; ++r) lse[r] = total[r] == C(0) ? infinity<C> : most[r] * log_of_2<C> + math::log(total[r]);
    C* const to = static_cast<C*>(a.lse) + (b * a.heads + h) * a.queries + i;
    for (std::int64_t r = 0; r < rows; ++r) to[r] = lse[r];
  }
};

template <class T>
void forward(const Attention& a) {
  const std::int64_t pieces = (a.queries + piece_rows - 1) / piece_rows, units = a.batch * a.heads * pieces;
  parallel_for(units, grain_of(units, flops_of(a)), [&](std::int64_t begin, std::int64_t end) {
    const Forward<T> head(a);
    std::int64_t packed = -1;
    for (std::int64_t unit = begin; unit < end; ++unit) {
      const std::int64_t b = unit / pieces / a.heads, h = unit / pieces % a.heads, kv = h / a.group;
      if (packed != b * a.kv_heads() + kv) {
        head.pack(b, kv);
        packed = b * a.kv_heads() + kv;
      }
      std::int64_t i = balanced(unit % pieces, pieces) * piece_rows;
      for (const std::int64_t last = least(i + piece_rows, a.queries); i < last; i += tile_rows)
        head.strip(b, h, i, least(last - i, tile_rows));
    }
  });
}

}  // namespace

template <>
void run(const Attention& a) {
  visit_floating(a.dtype, [&]<class T>() { forward<T>(a); });
}

}  // namespace kernels::cpu::ANNEAL_LEVEL
}  // namespace v0
}  // namespace anneal
