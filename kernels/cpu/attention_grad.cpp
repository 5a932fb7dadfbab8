// The gradient of attention: blocks of queries by blocks of keys. Scores and weights are computed again. A head's
// queries are cut into pieces, each of which has sums of its own for the gradients of keys and values.
#include "anneal/kernels/cpu/attention.h"
#include "anneal/kernels/cpu/level.h"
#include "anneal/kernels/parallel.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu::ANNEAL_LEVEL {
namespace {

constexpr std::int64_t block_queries = 48, block_keys = 512;

/// A head of keys, one thread at work.
template <class T>
struct Backward {
  using C = Compute<T>;
  const AttentionGrad& a;
  PackedColumns<C> key_columns, value_columns;
  PackedRows<C> key_rows, queries, slopes, dqueries;
  C *weights, *dscores;  // [block_queries, block_keys]
  C* deltas;             // of each query, slope . out
  std::int64_t ld;
  std::uint32_t* words;

  explicit Backward(const AttentionGrad& a) : a(a), ld(rounded_up(least(a.keys, block_keys), lanes<C>) + lanes<C>) {
    const std::int64_t d = PackedRows<C>::distance(a.depth), e = PackedRows<C>::distance(a.value_depth);
    const std::int64_t keys = rounded_up(a.keys, tile_columns<C>);
    C* next = scratch<C>(Scratch::panel, keys * (2 * d + e) + block_queries * (2 * d + e + 2 * ld + 1));
    const auto take = [&](std::int64_t n) {
      C* const piece = next;
      next += n;
      return piece;
    };
    key_columns = {take(keys * d), a.depth};
    value_columns = {take(keys * e), a.value_depth};
    key_rows = {take(keys * d), d};
    queries = {take(block_queries * d), d};
    slopes = {take(block_queries * e), e};
    dqueries = {take(block_queries * d), d};
    weights = take(block_queries * ld);
    dscores = take(block_queries * ld);
    deltas = take(block_queries);
    words = a.dropout > 0 ? scratch<std::uint32_t>(Scratch::table, block_keys) : nullptr;
  }

  void pack(std::int64_t b, std::int64_t kv) const {
    const T* const k = row_of(static_cast<const T*>(a.k), a.k_strides, b, kv, 0);
    const T* const v = row_of(static_cast<const T*>(a.v), a.v_strides, b, kv, 0);
    key_columns.fill(k, a.k_strides.row, a.keys);
    value_columns.fill(v, a.v_strides.row, a.keys);
    if (a.dq) key_rows.fill(k, a.k_strides.row, a.keys, a.depth, C(1));
  }

  /// Adds what the queries [i, i + rows) give to dk and dv, and writes their dq.
  void block(std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t rows, PackedRows<C> dk,
             PackedRows<C> dv) const {
    queries.fill(row_of(static_cast<const T*>(a.q), a.q_strides, b, h, i), a.q_strides.row, rows, a.depth,
                 static_cast<C>(a.scale) * log2_of_e<C>);
    const T* const dout = row_of(static_cast<const T*>(a.dout), a.dout_strides, b, h, i);
    const T* const out = row_of(static_cast<const T*>(a.out), a.out_strides, b, h, i);
    slopes.fill(dout, a.dout_strides.row, rows, a.value_depth, keep_factor<C>(a));
    for (std::int64_t r = 0; r < rows; ++r) {
      prefetch(out + (r + rows_ahead) * a.out_strides.row, a.value_depth);
      Vector<C> sum = {};
      for (std::int64_t d = 0; d < a.value_depth; d += lanes<C>) {
        const int n = static_cast<int>(least(a.value_depth - d, lanes<C>));
        sum += load_first(dout + r * a.dout_strides.row + d, n) * load_first(out + r * a.out_strides.row + d, n);
      }
      deltas[r] = sum_of<C>(sum);
    }
    clear(dqueries, rows);
    const std::int64_t seen = a.seen(i + rows - 1);
    for (std::int64_t j = 0; j < seen; j += block_keys) {
      const std::int64_t keys = least(seen - j, block_keys);
      weigh(b, h, i, rows, j, keys);
      // From the first query on that sees the strip's first key.
      for (std::int64_t key = 0; key < keys; key += tile_rows) {
        const std::int64_t first = a.causal && j + key > i ? j + key - i : 0, n = least(keys - key, tile_rows);
        const auto add = [&](const C* with, const PackedRows<C>& rows_of, std::int64_t depth, const PackedRows<C>& to) {
          product(n, depth, rows - first, with + first * ld + key, 1, Strided{ld}, rows_of.columns(first),
                  to.row(j + key), to.ld, true);
        };
        if (a.dv) add(weights, slopes, a.value_depth, dv);
        if (a.dk) add(dscores, queries, a.depth, dk);
      }
      for (std::int64_t r = 0; a.dq && r < rows; r += tile_rows) {
        const std::int64_t n = least(rows - r, tile_rows), depth = least(a.seen(i + r + n - 1) - j, keys);
        if (depth <= 0) continue;
        product(n, a.depth, depth, dscores + r * ld, ld, Dense{}, key_rows.columns(j), dqueries.row(r), dqueries.ld,
                true);
      }
    }
    if (a.dq)
      write_rows(
          dqueries, rows, a.depth, [&](std::int64_t) { return static_cast<C>(a.scale); },
          row_of(static_cast<T*>(a.dq), a.dq_strides, b, h, i), a.dq_strides.row);
  }

  /// The weights of `keys` keys from j on, and the gradients of their scores, with zeros where a key is not seen.
  void weigh(std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t rows, std::int64_t j,
             std::int64_t keys) const {
    for (std::int64_t r = 0; r < rows; r += tile_rows) {
      const std::int64_t n = least(rows - r, tile_rows), seen = least(a.seen(i + r + n - 1) - j, keys);
      if (seen <= 0) continue;
      const std::int64_t width = rounded_up(seen, lanes<C>);
      product(n, width, a.depth, queries.row(r), queries.ld, Dense{}, key_columns.columns(j), weights + r * ld, ld,
              false);
      product(n, width, a.value_depth, slopes.row(r), slopes.ld, Dense{}, value_columns.columns(j), dscores + r * ld,
              ld, false);
    }
    const auto* const lse = static_cast<const C*>(a.lse) + (b * a.heads + h) * a.queries + i;
    const std::uint32_t threshold = philox::drop_threshold(a.dropout);
    for (std::int64_t r = 0; r < rows; ++r) {
      C *const w = weights + r * ld, *const ds = dscores + r * ld;
      const std::int64_t left = least(a.seen(i + r) - j, keys), seen = left < 0 ? 0 : left;
      if (a.mask) apply_mask<T>(a, b, h, i + r, j, seen, w);
      if (a.dropout > 0) {
        draw_row(a, b, h, i + r, j, seen, words);
        drop(words, threshold, seen, ds);
      }
      const C shift = lse[r] * log2_of_e<C>, delta = deltas[r];
      std::int64_t x = 0;
      for (; x + lanes<C> <= seen; x += lanes<C>) {
        const Vector<C> weight = exp2(load_vector(w + x) - shift);
        store_vector(w + x, weight);
        store_vector(ds + x, weight * (load_vector(ds + x) - delta));
      }
      for (; x < keys; x += lanes<C>) {
        Vector<C> weight = {}, slope = {};
        if (x < seen) {
          weight = first_lanes<C>(exp2(load_vector(w + x) - shift), seen - x, 0);
          slope = first_lanes<C>(weight * (load_vector(ds + x) - delta), seen - x, 0);
        }
        store_vector(w + x, weight);
        store_vector(ds + x, slope);
      }
      if (a.dropout > 0) drop(words, threshold, seen, w);
    }
  }

  static void clear(PackedRows<C> rows, std::int64_t n) {
    __builtin_memset(rows.data, 0, static_cast<std::size_t>(n * rows.ld) * sizeof(C));
  }
};

/// to += from, whole vectors.
template <class C>
ANNEAL_HD void add(C* to, const C* from, std::int64_t n) {
  for (std::int64_t x = 0; x < n; x += lanes<C>) store_vector(to + x, load_vector(to + x) + load_vector(from + x));
}

template <class T>
void backward(const AttentionGrad& a) {
  using C = Compute<T>;
  constexpr std::int64_t enough_units = 32, least_queries = 192;
  const std::int64_t heads = a.batch * a.kv_heads();
  if (heads == 0) return;
  // Few heads are cut into pieces, as the shape says.
  const std::int64_t blocks = (a.queries + block_queries - 1) / block_queries;
  const std::int64_t wanted = (enough_units + heads - 1) / heads, most = a.queries / least_queries;
  const std::int64_t pieces = wanted < most ? wanted : most < 1 ? 1 : most;
  const std::int64_t d = PackedRows<C>::distance(a.depth), e = PackedRows<C>::distance(a.value_depth);
  const std::int64_t part = a.keys * (d + e);  // the sums for dk, then those for dv
  C* const parts = pieces > 1 ? scratch<C>(Scratch::partial, heads * pieces * part) : nullptr;

  const auto finish = [&](std::int64_t head, std::int64_t begin, std::int64_t end, C* sums) {
    const std::int64_t b = head / a.kv_heads(), kv = head % a.kv_heads(), rows = end - begin;
    for (std::int64_t p = 1; p < pieces; ++p) {
      add(sums + begin * d, sums + p * part + begin * d, rows * d);
      add(sums + a.keys * d + begin * e, sums + p * part + a.keys * d + begin * e, rows * e);
    }
    if (a.dk)
      write_rows(
          PackedRows<C>{sums + begin * d, d}, rows, a.depth, [](std::int64_t) { return log_of_2<C>; },
          row_of(static_cast<T*>(a.dk), a.dk_strides, b, kv, begin), a.dk_strides.row);
    if (a.dv)
      write_rows(
          PackedRows<C>{sums + a.keys * d + begin * e, e}, rows, a.value_depth, [](std::int64_t) { return C(1); },
          row_of(static_cast<T*>(a.dv), a.dv_strides, b, kv, begin), a.dv_strides.row);
  };

  const std::int64_t units = heads * pieces;
  parallel_for(units, grain_of(units, 2.5 * flops_of(a)), [&](std::int64_t begin, std::int64_t end) {
    const Backward<T> head(a);
    std::int64_t packed = -1;
    for (std::int64_t unit = begin; unit < end; ++unit) {
      const std::int64_t number = unit / pieces, piece = balanced(unit % pieces, pieces);
      const std::int64_t b = number / a.kv_heads(), kv = number % a.kv_heads();
      if (packed != number) head.pack(b, kv);
      packed = number;
      C* const sums = parts ? parts + (number * pieces + piece) * part : scratch<C>(Scratch::product, part + lanes<C>);
      const PackedRows<C> dk{sums, d}, dv{sums + a.keys * d, e};
      Backward<T>::clear(dk, a.keys);
      Backward<T>::clear(dv, a.keys);
      const std::int64_t first = blocks * piece / pieces * block_queries;
      const std::int64_t last = least(blocks * (piece + 1) / pieces * block_queries, a.queries);
      for (std::int64_t h = kv * a.group; h < (kv + 1) * a.group; ++h) {
        for (std::int64_t i = first; i < last; i += block_queries)
          head.block(b, h, i, least(last - i, block_queries), dk, dv);
      }
      if (!parts) finish(number, 0, a.keys, sums);
    }
  });
  if (!parts) return;
  for (std::int64_t number = 0; number < heads; ++number) {
    parallel_for(a.keys, (1 << 15) / (pieces * (d + e)) + 1, [&](std::int64_t begin, std::int64_t end) {
      finish(number, begin, end, parts + number * pieces * part);
    });
  }
}

}  // namespace

template <>
void run(const AttentionGrad& a) {
  visit_floating(a.dtype, [&]<class T>() { backward<T>(a); });
}

}  // namespace kernels::cpu::ANNEAL_LEVEL
}  // namespace v0
}  // namespace anneal
