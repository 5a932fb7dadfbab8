// Matrix multiplication. C is cut over threads (Product::run); sums over k are never cut.
#include "anneal/kernels/cpu/gemm.h"

#include "anneal/kernels/cpu/lanes.h"
#include "anneal/kernels/cpu/level.h"
#include "anneal/kernels/cpu/operand.h"
#include "anneal/kernels/parallel.h"
#include "anneal/kernels/pointwise.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu::ANNEAL_LEVEL {
namespace {

constexpr std::int64_t tall = 96;              // from here on rows may be cut over threads
constexpr std::int64_t packed_rows = 192;      // of A, at a time
constexpr std::int64_t converted_rows = 1024;  // of sums that cannot wait in C, at a time
constexpr int packed_width = 48;               // a row of a packed A that was transposed: whole vectors and tiles
constexpr std::int64_t few_rows = 96;          // up to here a copy of B costs more than it gives
constexpr std::int64_t panel_bytes = vector_bytes == 64 ? 512 << 10 : 128 << 10;  // of B, in the second-level cache

template <class E>
constexpr int vectors_of(std::int64_t columns) {
  return static_cast<int>((columns + lanes<E> - 1) / lanes<E>);
}

/// Even blocks of columns whose panels have `panel_bytes`, `depth` deep.
template <class E>
std::int64_t block_of_columns(std::int64_t n, std::int64_t depth) {
  constexpr std::int64_t unit = tile_columns<E>;
  const std::int64_t units = (n + unit - 1) / unit;
  const std::int64_t bytes = unit * depth * static_cast<std::int64_t>(sizeof(E));
  if (units * bytes <= panel_bytes) return units * unit;
  const std::int64_t most = bytes < panel_bytes ? panel_bytes / bytes : 1;
  const std::int64_t blocks = (units + most - 1) / most;
  return (units + blocks - 1) / blocks * unit;
}

/// What becomes of sums that are complete and in C: GELU, and a copy of what it is taken of in `saved`, if that is not
/// null.
template <class Out>
struct Finish {
  bool gelu = false;
  Out* saved = nullptr;

  Finish from(std::int64_t offset) const { return {gelu, saved ? saved + offset : nullptr}; }
  void run(std::int64_t rows, std::int64_t columns, Out* c, std::int64_t ldc) const {
    if (!gelu) return;
    using C = Compute<Out>;
    constexpr std::int64_t at_once = 64;  // all of them computed: bits do not depend on where a row ends
    for (std::int64_t i = 0; i < rows; ++i, c += ldc) {
      for (std::int64_t j = 0; j < columns; j += at_once) {
        const std::int64_t some = columns - j < at_once ? columns - j : at_once;
        C x[at_once] = {};
        copy_matrix(1, some, c + j, 0, x, 0);
        if (saved) copy_matrix(1, some, x, 0, saved + i * ldc + j, 0);
        ANNEAL_LANES
        for (std::int64_t l = 0; l < at_once; ++l) x[l] = Gelu::fwd(x[l]);
        copy_matrix(1, some, x, 0, c + j, 0);
      }
    }
  }
};

/// Rows of A and columns of B from one element on, `depth` deep, as the tiles take them: where they are, or packed.
template <class T>
struct Block {
  using E = Element<T>;

  std::int64_t first, depth;
  int strip;  // rows of a tile
  Operand<T> b;
  std::int64_t columns;
  /// Between lines of what is packed: `depth` and a bit, lest strips and panels compete for the same sets of a cache.
  std::int64_t ld = vectors_of<E>(depth) * lanes<E> + lanes<E> + 1;
  E* b_packed = nullptr;
  bool b_waits = false;  ///< to be packed
  Operand<T> a{};
  std::int64_t rows = 0;
  E* a_packed = nullptr;

  void place_b(std::int64_t all_rows) {
    if (all_rows <= few_rows && columns % lanes<E> == 0 && b.has_columns()) return;
    b_packed = scratch<E>(Scratch::panel, vectors_of<E>(columns) * lanes<E> * ld);
    b_waits = true;
  }
  void pack_a(const Operand<T>& lines, std::int64_t count) {
    a = lines;
    rows = count;
    if (a.has_lines()) return;
    a_packed = scratch<E>(Scratch::rows, (rows + packed_width) * ld);
    if (a.along_k) a.pack_lines(rows, first, depth, a_packed, ld);
    else a.pack_panels(rows, first, depth, a_packed, ld, packed_width);
  }

  /// C[rows, columns] = the part of the sums that lies in this block, then `epilogue`. A strip of rows stays in the
  /// first-level cache while it meets all panels; the first one packs them.
  template <class Out>
  void multiply(Out* c, std::int64_t ldc, const Epilogue<Sum<E>>& epilogue, const Finish<Out>& finish = {}) {
    for (std::int64_t i = 0; i < rows;) {
      const bool packing = b_waits && !b.along_k;  // by tiles of one height
      const int r = packing && rows - i >= tile_rows ? tile_rows : next_tile(rows - i, strip);
      const E* row[2 * tile_rows];
      const Strided walk = strip_at(i, r, row);
      for (std::int64_t j = 0; j < columns;) {
        const int some = next_panel<E>(columns - j), vectors = vectors_of<E>(some);
        Epilogue<Sum<E>> e = epilogue;
        if (e.row_bias) e.row_bias += i;
        if (e.column_bias) e.column_bias += j;
        if (e.partial) e.partial += i * e.ld_partial + j;
        const int last = some - (vectors - 1) * lanes<E>;
        Out* to = c + i * ldc + j;
        if (packing && r == tile_rows) {
          packing_tile<Out>(vectors)(row, walk, depth, {b.from(j), first, last, b_packed + j * ld}, to, ldc, last, e);
        } else {
          if (b_waits) b.from(j).pack_panels(some, first, depth, b_packed + j * ld, ld, some);
          tile_of<E, Strided, Out>(r, vectors)(row, walk, depth, panel_at(j, vectors), to, ldc, last, e);
        }
        j += some;
      }
      b_waits = false;
      finish.from(i * ldc).run(r, columns, c + i * ldc, ldc);
      i += r;
    }
  }

 private:
  template <class Out, int Vectors = tile_vectors>
  static auto* packing_tile(int vectors) {
    if constexpr (Vectors > 1) {
      if (vectors < Vectors) return packing_tile<Out, Vectors - 1>(vectors);
    }
    return &tile<E, tile_rows, Vectors, Strided, Out, typename Operand<T>::Packing>;
  }
  Strided strip_at(std::int64_t i, int r, const E** row) const {
    const bool across = a_packed && !a.along_k;
    const Panel<E> lines = a_packed ? Panel<E>{a_packed, ld} : a.in_place(0, first);
    for (std::int64_t s = i; s < i + r; ++s)
      *row++ = lines.data + (across ? s / packed_width * packed_width * ld + s % packed_width : s * lines.ld);
    return {across ? packed_width : 1};
  }
  Panel<E> panel_at(std::int64_t j, int vectors) const {
    return b_packed ? Panel<E>{b_packed + j * ld, vectors * lanes<E>} : b.in_place(j, first);
  }
};

/// C[m, n] = A B, then `epilogue`, on this thread. Blocks of B stay in the second-level cache while all of A passes.
template <class T, class Out>
void multiply(std::int64_t m, std::int64_t n, const Operand<T>& a, const Operand<T>& b, Out* c, std::int64_t ldc,
              const Epilogue<Compute<T>>& epilogue, const Finish<Out>& finish = {}) {
  using E = Element<T>;
  using C = Compute<T>;
  const std::int64_t k = a.depth(), block_k = block_of_k<E>(k, a.has_lines() ? 1 : 2);
  const std::int64_t block_n = block_of_columns<E>(n, block_k);
  // Sums that are not complete cannot wait in a C of another type.
  C* sums = !std::is_same_v<Out, C> && block_k < k ? scratch<C>(Scratch::product, m * block_n) : nullptr;
  const std::int64_t chunk = a.has_lines() ? m : packed_rows;
  const int strip = rows_beside(vectors_of<E>(next_panel<E>(n)));
  for (std::int64_t j = 0; j < n; j += block_n) {
    std::int64_t p = 0;
    do {
      const std::int64_t depth = k - p < block_k ? k - p : block_k;
      const bool last = p + depth == k;
      Block<T> block{p, depth, strip, b.from(j), n - j < block_n ? n - j : block_n};
      block.place_b(m);
      for (std::int64_t i = 0; i < m; i += chunk) {
        block.pack_a(a.from(i), m - i < chunk ? m - i : chunk);
        Epilogue<C> e{};
        const Finish<Out> done = last ? finish.from(i * ldc + j) : Finish<Out>{};
        if (last) {
          e = epilogue;
          if (e.row_bias) e.row_bias += i;
          if (e.column_bias) e.column_bias += j;
        }
        if constexpr (std::is_same_v<Out, C>) {
          e.add = epilogue.add || p > 0;
          block.multiply(c + i * ldc + j, ldc, e, done);
        } else {
          if (p > 0) e.partial = sums + i * block_n, e.ld_partial = block_n;
          if (last) block.multiply(c + i * ldc + j, ldc, e, done);
          else block.multiply(sums + i * block_n, block_n, e);
        }
      }
      p += depth;
    } while (p < k);
  }
}

/// One product: pointers of one member of the batch, and the bias as numbers of C.
template <class T, class Out>
struct Product {
  using C = Compute<T>;
  std::int64_t m, n;
  Operand<T> a, b;
  Out* c;
  std::int64_t ldc;
  const C* bias;
  bool relu, accumulate;
  Finish<Out> finish;

  /// With few rows copying a transposed B costs more than it gives: C^T = B^T A^T copies A instead.
  bool flipped() const { return m >= 12 && m < tall && b.along_k && a.along_k && !accumulate; }

  /// C's rows [i, i + rows) and columns [j, j + columns).
  void block(std::int64_t i, std::int64_t rows, std::int64_t j, std::int64_t columns) const {
    if (flipped()) return flipped_block(j, columns);
    if (!std::is_same_v<Out, C> && rows > converted_rows) {
      block(i, converted_rows, j, columns);
      return block(i + converted_rows, rows - converted_rows, j, columns);
    }
    multiply(rows, columns, a.from(i), b.from(j), c + i * ldc + j, ldc,
             Epilogue<C>{accumulate, nullptr, bias ? bias + j : nullptr, relu}, finish.from(i * ldc + j));
  }

  void flipped_block(std::int64_t j, std::int64_t columns) const {
    const std::int64_t ld = (m + lanes<C> - 1) / lanes<C> * lanes<C>;
    for (const std::int64_t end = j + columns; j < end; j += converted_rows) {
      const std::int64_t rows = end - j < converted_rows ? end - j : converted_rows;
      C* product = scratch<C>(Scratch::product, rows * ld);
      multiply(rows, m, b.from(j), a, product, ld, Epilogue<C>{false, bias ? bias + j : nullptr, nullptr, relu});
      transpose_matrix(rows, m, product, ld, c + j, ldc);
      finish.from(j).run(m, rows, c + j, ldc);
    }
  }

  /// All of C, on as many threads as its size is worth. Each thread packs the columns of B that it needs, so that the
  /// longer side is cut; but a transposed A would be packed whole by each thread, and there rows are cut, unless few.
  /// Under 0.7 MFLOP, some 10 us, waking a thread and moving lines to it cost what it saves, or more.
  void run(bool parallel) const {
    if (m == 0 || n == 0) return;
    const double flops = 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(a.k);
    const std::int64_t threads = parallel && flops >= 7e5 ? num_threads() : 1;
    if (threads == 1) return block(0, m, 0, n);
    const bool wide = a.has_lines() && n > m;
    const std::int64_t down = m < tall || wide ? 1 : m / (tall / 2) < threads ? m / (tall / 2) : threads;
    const std::int64_t units = (n + lanes<C> - 1) / lanes<C>;
    const std::int64_t across = threads / down < units ? threads / down : units;
    const auto cut = [](std::int64_t size, std::int64_t unit, std::int64_t parts, std::int64_t i) {
      const std::int64_t at = (size + unit - 1) / unit * i / parts * unit;
      return at < size ? at : size;
    };
    parallel_for(down * across, grain_of(down * across, flops), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t piece = begin; piece < end; ++piece) {
        const std::int64_t y = piece / across, x = piece % across, unit = flipped() ? tile_rows : lanes<C>;
        const std::int64_t i = cut(m, tile_rows, down, y), j = cut(n, unit, across, x);
        block(i, cut(m, tile_rows, down, y + 1) - i, j, cut(n, unit, across, x + 1) - j);
      }
    });
  }
};

/// y[i * ldy + j] = the dot product of row i of one matrix and row j of another, which has few.
template <class T, class Out>
struct Dots {
  using C = Compute<T>;
  static constexpr int most_columns = 5;  // at a time

  std::int64_t k;
  const T* rows;
  std::int64_t ld;
  const C* columns;
  std::int64_t ld_columns;
  Out* y;
  std::int64_t ldy;
  const C* bias;
  bool bias_of_row;
  bool relu, accumulate;

  void run(std::int64_t begin, std::int64_t end, int count) const {
    for (int j = 0; j < count;) {
      const int some = next_tile(count - j, most_columns);
      run_columns(begin, end, j, some);
      j += some;
    }
  }

 private:
  template <int Columns = 1>
  void run_columns(std::int64_t begin, std::int64_t end, int first, int count) const {
    if constexpr (Columns < most_columns) {
      if (count > Columns) return run_columns<Columns + 1>(begin, end, first, count);
    }
    constexpr int n = lanes<C>, at_once = Columns > n / 2 ? 1 : Columns > 1 || n < 8 ? n / Columns : 8;
    constexpr int sums = (at_once * Columns + n - 1) / n * n;
    const C* with = columns + first * ld_columns;
    for (std::int64_t i = begin; i < end; i += at_once) {
      const int some = end - i < at_once ? static_cast<int>(end - i) : at_once;
      const T* row[at_once];
      for (int r = 0; r < at_once; ++r) row[r] = rows + (i + (r < some ? r : 0)) * ld;
      Vector<C> sum[sums] = {};
      const auto add = [&](std::int64_t p, int steps) __attribute__((always_inline)) {
        Vector<C> factor[Columns];
#pragma GCC unroll 8
        for (int j = 0; j < Columns; ++j) factor[j] = load_first(with + j * ld_columns + p, steps);
#pragma GCC unroll 16
        for (int r = 0; r < at_once; ++r) {
          const Vector<C> x = load_first(row[r] + p, steps);
#pragma GCC unroll 8
          for (int j = 0; j < Columns; ++j) sum[r * Columns + j] += x * factor[j];
        }
      };
      std::int64_t p = 0;
      for (; p + n <= k; p += n) add(p, n);
      if (p < k) add(p, static_cast<int>(k - p));
      C total[sums];
      for (int part = 0; part < sums; part += n) store_vector(total + part, sums_of_lanes<C>(sum + part));
      for (int r = 0; r < some; ++r) {
        for (int j = 0; j < Columns; ++j) finish(i + r, first + j, total[r * Columns + j]);
      }
    }
  }

  void finish(std::int64_t i, int j, C sum) const {
    Out& to = y[i * ldy + j];
    if (accumulate) sum += load(to);
    if (bias) sum += bias[bias_of_row ? i : j];
    if (relu && sum < C(0)) sum = C(0);
    to = store<Out>(sum);
  }
};

/// C = (or +=) the products of each of m numbers and each of n: a sum over k of one term.
template <class Out>
struct Outer {
  using C = Compute<Out>;
  const C *a, *b;
  std::int64_t n;
  Out* c;
  std::int64_t ldc;
  bool accumulate;

  void run(std::int64_t begin, std::int64_t end) const {
    for (std::int64_t i = begin; i < end; ++i) {
      const auto row = [&](std::int64_t, std::int64_t j, int some) {
        const Vector<C> products = load_first(b + j, some) * a[i];
        return accumulate ? products + load_first(c + i * ldc + j, some) : products;
      };
      copy_loaded(1, n, row, c + i * ldc, 0);
    }
  }
};

/// n elements `step` apart as numbers of C side by side.
template <class T>
const Compute<T>* dense(const T* from, std::int64_t n, std::int64_t step, Scratch purpose) {
  if constexpr (std::is_same_v<T, Compute<T>>) {
    if (step == 1) return from;
  }
  auto* to = scratch<Compute<T>>(purpose, n);
  for (std::int64_t i = 0; i < n; ++i) to[i] = load(from[i * step]);
  return to;
}

template <class T, class Out>
void run_gemm(const Gemm& g) {
  const auto* bias = static_cast<const Out*>(g.bias);
  const Compute<T>* bias_c = bias ? dense(bias, g.n, 1, Scratch::bias) : nullptr;
  const bool relu = g.activation == Activation::relu, gelu = g.activation == Activation::gelu;
  const auto run_one = [&](std::int64_t i, bool parallel) {
    const T* a = static_cast<const T*>(g.a) + i * g.stride_a;
    const T* b = static_cast<const T*>(g.b) + i * g.stride_b;
    Out* c = static_cast<Out*>(g.c) + i * g.stride_c;
    const bool row_dots = g.m == 1 && g.trans_b;
    const bool few_columns = std::is_same_v<T, Compute<T>> && g.trans_b && g.n <= 10 && g.k >= 128;
    if (!gelu && (row_dots || (!g.trans_a && (g.n == 1 || few_columns)))) {
      const std::int64_t count = row_dots ? g.n : g.m, columns = row_dots ? 1 : g.n;
      const Compute<T>* x = row_dots ? dense(a, g.k, g.trans_a ? g.lda : 1, Scratch::rows)
                                     : dense(b, g.k, g.trans_b ? 1 : g.ldb, Scratch::rows);
      const Dots<T, Out> dots{
          g.k,  row_dots ? b : a, row_dots ? g.ldb : g.lda, x, g.ldb, c, row_dots ? 1 : g.ldc, bias_c, row_dots,
          relu, g.accumulate};
      const double flops = 2.0 * static_cast<double>(count * columns) * static_cast<double>(g.k);
      parallel_for(count, parallel ? grain_of(count, flops) : count,
                   [&](std::int64_t begin, std::int64_t end) { dots.run(begin, end, static_cast<int>(columns)); });
    } else if (g.k == 1 && !bias && g.activation == Activation::none) {
      const Outer<Out> outer{dense(a, g.m, g.trans_a ? 1 : g.lda, Scratch::rows),
                             dense(b, g.n, g.trans_b ? g.ldb : 1, Scratch::panel),
                             g.n,
                             c,
                             g.ldc,
                             g.accumulate};
      parallel_for(g.m, parallel ? grain_of(g.m, 2.0 * static_cast<double>(g.m * g.n)) : g.m,
                   [&](std::int64_t begin, std::int64_t end) { outer.run(begin, end); });
    } else {
      const Operand<T> rows{a, g.lda, !g.trans_a, g.k}, columns{b, g.ldb, g.trans_b, g.k};
      const Finish<Out> finish{gelu, g.saved ? static_cast<Out*>(g.saved) + i * g.stride_c : nullptr};
      Product<T, Out>{g.m, g.n, rows, columns, c, g.ldc, bias_c, relu, g.accumulate, finish}.run(parallel);
    }
  };
  if (g.batch >= num_threads() && g.batch > 1) {
    const double flops = 2.0 * static_cast<double>(g.m) * static_cast<double>(g.n) * static_cast<double>(g.k);
    parallel_for(g.batch, grain_of(g.batch, flops * static_cast<double>(g.batch)),
                 [&](std::int64_t begin, std::int64_t end) {
                   for (std::int64_t i = begin; i < end; ++i) run_one(i, false);
                 });
  } else {
    for (std::int64_t i = 0; i < g.batch; ++i) run_one(i, true);
  }
}

}  // namespace

template <>
void run(const Gemm& g) {
  visit_floating(g.dtype, g.out, [&]<class T, class Out>() { run_gemm<T, Out>(g); });
}

}  // namespace kernels::cpu::ANNEAL_LEVEL
}  // namespace v0
}  // namespace anneal
