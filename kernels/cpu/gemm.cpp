// Matrix multiplication. C is cut over threads by rows if it is tall, else by columns; sums over k are never cut.
#include "anneal/kernels/cpu/gemm.h"

#include "anneal/kernels/cpu/level.h"
#include "anneal/kernels/parallel.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu::ANNEAL_LEVEL {
namespace {

constexpr std::int64_t tall = 96;          // from here on rows are cut over threads
constexpr std::int64_t packed_rows = 240;  // of A, at a time
constexpr std::int64_t wide = 512;         // columns of a product that is converted afterwards

/// Rows of op(A) as numbers of C side by side: A itself where it is that already, else a copy.
template <class T>
struct RowsOf {
  const T* data;
  std::int64_t ld;
  bool transposed;

  bool packs() const { return transposed || !std::is_same_v<T, Compute<T>>; }
  Panel<Compute<T>> operator()(std::int64_t i, std::int64_t rows, std::int64_t k, std::int64_t depth) const {
    if constexpr (std::is_same_v<T, Compute<T>>) {
      if (!transposed) return {data + i * ld + k, ld};
    }
    const std::int64_t to_ld = (depth + lanes<float> - 1) / lanes<float> * lanes<float> + lanes<float>;
    auto* to = scratch<Compute<T>>(Scratch::rows, rows * to_ld);
    if (transposed) transpose_matrix(depth, rows, data + k * ld + i, ld, to, to_ld);
    else copy_matrix(rows, depth, data + i * ld + k, ld, to, to_ld);
    return {to, to_ld};
  }
};

/// Panels of op(B).
template <class T>
struct PanelsOf {
  const T* data;
  std::int64_t ld;
  bool transposed;

  Panel<Compute<T>> operator()(std::int64_t k, std::int64_t depth, std::int64_t j, int columns,
                               std::int64_t rows) const {
    using C = Compute<T>;
    const int width = (columns + lanes<C> - 1) / lanes<C> * lanes<C>;
    if constexpr (std::is_same_v<T, C>) {
      // A copy pays from some dozen rows on.
      if (!transposed && columns == width && rows <= 24) return {data + k * ld + j, ld};
    }
    C* to = scratch<C>(Scratch::panel, depth * width);
    if (transposed) transpose_matrix(columns, depth, data + j * ld + k, ld, to, width);
    else copy_matrix(depth, columns, data + k * ld + j, ld, to, width);
    return {to, width};
  }
};

/// One product: pointers of one member of the batch, and the bias as numbers of C.
template <class T, class Out>
struct Product {
  using C = Compute<T>;
  std::int64_t m, n, k;
  RowsOf<T> a;
  PanelsOf<T> b;
  Out* c;
  std::int64_t ldc;
  const C* bias;
  bool relu, accumulate;

  /// With few rows copying a transposed B costs more than it gives: C^T = B^T A^T copies A instead.
  bool flipped() const { return m >= 12 && m < tall && b.transposed && !a.transposed && !accumulate; }

  /// C's rows [i, i + rows) and columns [j, j + columns).
  void block(std::int64_t i, std::int64_t rows, std::int64_t j, std::int64_t columns) const {
    if (flipped()) return flipped_block(j, columns);
    const RowsOf<T> from{a.data + i * (a.transposed ? 1 : a.ld), a.ld, a.transposed};
    const PanelsOf<T> with{b.data + j * (b.transposed ? b.ld : 1), b.ld, b.transposed};
    Out* to = c + i * ldc + j;
    const C* bias_at = bias ? bias + j : nullptr;
    if constexpr (std::is_same_v<Out, C>) {
      multiply(rows, columns, k, a.packs() ? packed_rows : rows, from, with, to, ldc,
               Epilogue<C>{accumulate, nullptr, bias_at, relu});
    } else if (rows > packed_rows || columns > wide) {
      for (std::int64_t y = 0; y < rows; y += packed_rows) {
        for (std::int64_t x = 0; x < columns; x += wide) {
          block(i + y, rows - y < packed_rows ? rows - y : packed_rows, j + x, columns - x < wide ? columns - x : wide);
        }
      }
    } else {
      C* product = scratch<C>(Scratch::product, rows * wide);
      if (accumulate) copy_matrix(rows, columns, to, ldc, product, wide);
      multiply(rows, columns, k, packed_rows, from, with, product, wide,
               Epilogue<C>{accumulate, nullptr, bias_at, relu});
      copy_matrix(rows, columns, product, wide, to, ldc);
    }
  }

  void flipped_block(std::int64_t j, std::int64_t columns) const {
    const std::int64_t ld = (m + lanes<C> - 1) / lanes<C> * lanes<C>;
    const PanelsOf<T> with{a.data, a.ld, true};
    C* product = scratch<C>(Scratch::product, packed_rows * ld);
    for (const std::int64_t end = j + columns; j < end; j += packed_rows) {
      const std::int64_t rows = end - j < packed_rows ? end - j : packed_rows;
      multiply(rows, m, k, rows, RowsOf<T>{b.data + j * b.ld, b.ld, false}, with, product, ld,
               Epilogue<C>{false, bias ? bias + j : nullptr, nullptr, relu});
      transpose_matrix(rows, m, product, ld, c + j, ldc);
    }
  }

  /// All of C, on as many threads as its size is worth.
  void run(bool parallel) const {
    if (m == 0 || n == 0) return;
    if (!parallel) return block(0, m, 0, n);
    const double flops = 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
    const bool by_rows = m >= tall;
    const std::int64_t size = by_rows ? m : n, unit = by_rows || flipped() ? tile_rows : lanes<C>;
    const std::int64_t units = (size + unit - 1) / unit;
    parallel_for(units, grain_of(units, flops), [&](std::int64_t begin, std::int64_t end) {
      const std::int64_t from = begin * unit, to = end * unit < size ? end * unit : size;
      if (by_rows) block(from, to - from, 0, n);
      else block(0, m, from, to - from);
    });
  }
};

/// y[i * ldy] = the dot product of x and row i of a matrix, for as many rows at a time as a vector has lanes.
template <class T, class Out>
struct Dots {
  using C = Compute<T>;
  std::int64_t k;
  const T* rows;
  std::int64_t ld;
  const C* x;
  Out* y;
  std::int64_t ldy;
  const C* bias;
  std::int64_t bias_step;
  bool relu, accumulate;

  void run(std::int64_t begin, std::int64_t end) const {
    constexpr int n = lanes<C>, at_once = n < 8 ? n : 8;
    for (std::int64_t i = begin; i < end; i += at_once) {
      const int some = end - i < at_once ? static_cast<int>(end - i) : at_once;
      const T* row[at_once];
      for (int r = 0; r < at_once; ++r) row[r] = rows + (i + (r < some ? r : 0)) * ld;
      Vector<C> sum[n] = {};
      std::int64_t p = 0;
      for (; p + n <= k; p += n) {
        const Vector<C> with = load_vector(x + p);
#pragma GCC unroll 8
        for (int r = 0; r < at_once; ++r) sum[r] += load_vector(row[r] + p) * with;
      }
      if (p < k) {
        const int rest = static_cast<int>(k - p);
        const Vector<C> with = load_first(x + p, rest);
        for (int r = 0; r < at_once; ++r) sum[r] += load_first(row[r] + p, rest) * with;
      }
      transpose<C>(sum);
      for (int step = n / 2; step > 0; step /= 2) {
        for (int s = 0; s < step; ++s) sum[s] += sum[s + step];
      }
      C total[n];
      store_vector(total, sum[0]);
      for (int r = 0; r < some; ++r) finish(i + r, total[r]);
    }
  }

  void finish(std::int64_t i, C sum) const {
    if (accumulate) sum += load(y[i * ldy]);
    if (bias) sum += bias[i * bias_step];
    if (relu && sum < C(0)) sum = C(0);
    y[i * ldy] = store<Out>(sum);
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
  const bool relu = g.activation == Activation::relu;
  const auto run_one = [&](std::int64_t i, bool parallel) {
    const T* a = static_cast<const T*>(g.a) + i * g.stride_a;
    const T* b = static_cast<const T*>(g.b) + i * g.stride_b;
    Out* c = static_cast<Out*>(g.c) + i * g.stride_c;
    const bool row_dots = g.m == 1 && g.trans_b, column_dots = g.n == 1 && !g.trans_a;
    if (row_dots || column_dots) {
      const std::int64_t count = row_dots ? g.n : g.m;
      const Compute<T>* x = row_dots ? dense(a, g.k, g.trans_a ? g.lda : 1, Scratch::rows)
                                     : dense(b, g.k, g.trans_b ? 1 : g.ldb, Scratch::rows);
      const Dots<T, Out> dots{
          g.k,  row_dots ? b : a, row_dots ? g.ldb : g.lda, x, c, row_dots ? 1 : g.ldc, bias_c, row_dots ? 1 : 0,
          relu, g.accumulate};
      const double flops = 2.0 * static_cast<double>(count) * static_cast<double>(g.k);
      parallel_for(count, parallel ? grain_of(count, flops) : count,
                   [&](std::int64_t begin, std::int64_t end) { dots.run(begin, end); });
    } else {
      // A single row or column is the same transposed, if its distances say so.
      const bool outer = g.k == 1;
      const RowsOf<T> rows{a, outer && g.trans_a ? 1 : g.lda, g.trans_a && !outer};
      const PanelsOf<T> panels{b, g.ldb, g.trans_b && !(outer && g.ldb == 1)};
      Product<T, Out>{g.m, g.n, g.k, rows, panels, c, g.ldc, bias_c, relu, g.accumulate}.run(parallel);
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
