// Reductions of [outer, reduced, inner]. A piece is some rows of the middle dimension for some columns of the inner
// one. Within a piece numbers are folded in lanes or columns of the computing type, a block of rows at a time, and
// blocks into a wider one (double for floats); the order is a function of the shape alone.
#include <cstdint>
#include <limits>
#include <type_traits>

#include "anneal/kernels/cpu/level.h"
#include "anneal/kernels/parallel.h"
#include "anneal/kernels/pointwise.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu::ANNEAL_LEVEL {
namespace {

constexpr std::int64_t lanes = 64;                          // when inner is 1: partial results side by side
constexpr std::int64_t tile = 128;                          // columns at a time, when it is not
constexpr std::int64_t block_rows = 32;                     // numbers folded one by one in the computing type
constexpr std::int64_t chunk_size = std::int64_t{1} << 16;  // elements of a piece, where one output is cut into many
constexpr std::int64_t max_chunks = 64;
constexpr std::int64_t grain = 32768;

template <class C>
using Wide = std::conditional_t<std::is_floating_point_v<C>, double, C>;

/// What folding nothing gives.
template <class Op, class C>
constexpr C identity() {
  if constexpr (std::is_same_v<Op, Add>) return C(0);
  else if constexpr (std::is_same_v<Op, Mul>) return C(1);
  else if constexpr (std::is_floating_point_v<C>)
    return std::is_same_v<Op, Maximum> ? -__builtin_inf() : __builtin_inf();
  else return std::is_same_v<Op, Maximum> ? std::numeric_limits<C>::lowest() : std::numeric_limits<C>::max();
}

/// The type of lanes. Products leave float's range long before they leave double's.
template <class Op, class C>
using Lane = std::conditional_t<std::is_same_v<Op, Mul>, Wide<C>, C>;

/// Folds n neighbours.
template <class Op, class T>
Wide<Compute<T>> fold_row(const T* x, std::int64_t n) {
  using L = Lane<Op, Compute<T>>;
  using W = Wide<Compute<T>>;
  W total = identity<Op, W>();
  if (n < lanes / 4) {  // clearing and folding the lanes would take longer
    for (std::int64_t i = 0; i < n; ++i) total = Op::fwd(total, static_cast<W>(load(x[i])));
    return total;
  }
  for (std::int64_t begin = 0; begin < n; begin += block_rows * lanes) {
    const std::int64_t end = n - begin < block_rows * lanes ? n : begin + block_rows * lanes;
    alignas(64) L lane[lanes];
    for (std::int64_t j = 0; j < lanes; ++j) lane[j] = identity<Op, L>();
    std::int64_t i = begin;
    for (; i + lanes <= end; i += lanes) {
      for (std::int64_t j = 0; j < lanes; ++j) lane[j] = Op::fwd(lane[j], static_cast<L>(load(x[i + j])));
    }
    for (std::int64_t j = 0; i + j < end; ++j) lane[j] = Op::fwd(lane[j], static_cast<L>(load(x[i + j])));
    for (std::int64_t width = lanes / 2; width > 0; width /= 2) {
      for (std::int64_t j = 0; j < width; ++j) lane[j] = Op::fwd(lane[j], lane[j + width]);
    }
    total = Op::fwd(total, static_cast<W>(lane[0]));
  }
  return total;
}

/// Folds each of `width` columns of `rows` rows into `total`.
template <class Op, class T>
void fold_columns(const T* x, std::int64_t rows, std::int64_t stride, std::int64_t width,
                  Wide<Compute<T>>* __restrict total) {
  using L = Lane<Op, Compute<T>>;
  using W = Wide<Compute<T>>;
  for (std::int64_t j = 0; j < width; ++j) total[j] = identity<Op, W>();
  for (std::int64_t begin = 0; begin < rows; begin += block_rows) {
    const std::int64_t end = rows - begin < block_rows ? rows : begin + block_rows;
    alignas(64) L column[tile];
    for (std::int64_t j = 0; j < tile; ++j) column[j] = identity<Op, L>();
    for (std::int64_t r = begin; r < end; ++r) {
      const T* const row = x + r * stride;
      if (width == tile) {
        for (std::int64_t j = 0; j < tile; ++j) column[j] = Op::fwd(column[j], static_cast<L>(load(row[j])));
      } else {
        for (std::int64_t j = 0; j < width; ++j) column[j] = Op::fwd(column[j], static_cast<L>(load(row[j])));
      }
    }
    for (std::int64_t j = 0; j < width; ++j) total[j] = Op::fwd(total[j], static_cast<W>(column[j]));
  }
}

template <class Op, class T, class Out>
void reduce(const Reduce& a) {
  using W = Wide<Compute<T>>;
  const T* const x = static_cast<const T*>(a.x);
  Out* const y = static_cast<Out*>(a.y);
  const std::int64_t tile_width = a.inner < tile ? a.inner : tile;
  const std::int64_t tiles = (a.inner + tile - 1) / tile;
  const std::int64_t items = a.outer * tiles;

  // An item is a tile of an outer index.
  const auto fold = [&](std::int64_t item, std::int64_t row, std::int64_t rows, W* total) {
    const std::int64_t column = item % tiles * tile;
    const T* const start = x + (item / tiles * a.reduced + row) * a.inner + column;
    if (a.inner == 1) *total = fold_row<Op>(start, rows);
    else fold_columns<Op>(start, rows, a.inner, a.inner - column < tile ? a.inner - column : tile, total);
  };
  const auto finish = [&](std::int64_t item, W* total) {
    const std::int64_t column = item % tiles * tile;
    for (std::int64_t j = 0; j < tile && column + j < a.inner; ++j) {
      if constexpr (std::is_floating_point_v<W>) {
        if (a.op == Reduction::mean) total[j] /= static_cast<W>(a.reduced);
      }
      y[item / tiles * a.inner + column + j] = store<Out>(total[j]);
    }
  };

  const std::int64_t item_size = a.reduced * tile_width;
  if (items >= 16 || item_size < 2 * chunk_size) {
    parallel_for(items, item_size > 0 ? grain / item_size + 1 : grain, [&](std::int64_t begin, std::int64_t end) {
      alignas(64) W total[tile];
      for (std::int64_t item = begin; item < end; ++item) {
        fold(item, 0, a.reduced, total);
        finish(item, total);
      }
    });
    return;
  }
  // Few outputs of many numbers: cut the rows as well.
  const std::int64_t wanted = item_size / chunk_size;
  const std::int64_t chunks = wanted < max_chunks ? wanted : max_chunks;
  for (std::int64_t item = 0; item < items; ++item) {
    alignas(64) W partial[max_chunks][tile];
    parallel_for(chunks, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t c = begin; c < end; ++c) {
        const std::int64_t row = a.reduced * c / chunks;
        fold(item, row, a.reduced * (c + 1) / chunks - row, partial[c]);
      }
    });
    for (std::int64_t c = 1; c < chunks; ++c) {
      for (std::int64_t j = 0; j < tile_width; ++j) partial[0][j] = Op::fwd(partial[0][j], partial[c][j]);
    }
    finish(item, partial[0]);
  }
}

template <class C>
ANNEAL_HD bool better(bool largest, C candidate, C best) {
  if (math::is_nan(best)) return false;
  return math::is_nan(candidate) || (largest ? candidate > best : candidate < best);
}

}  // namespace

template <>
void run(const Reduce& a) {
  const auto by_op = [&]<class T, class Out> {
    switch (a.op) {
      case Reduction::max: return reduce<Maximum, T, Out>(a);
      case Reduction::min: return reduce<Minimum, T, Out>(a);
      case Reduction::prod: return reduce<Mul, T, Out>(a);
      default: return reduce<Add, T, Out>(a);
    }
  };
  if (is_floating(a.dtype)) visit_floating(a.dtype, a.out, by_op);
  else visit(a.dtype, [&]<class T> { by_op.template operator()<T, T>(); });
}

template <>
void run(const ArgReduce& a) {
  visit(a.dtype, [&]<class T> {
    using C = Compute<T>;
    const T* const x = static_cast<const T*>(a.x);
    const std::int64_t tiles = (a.inner + tile - 1) / tile;
    const std::int64_t item_size = a.reduced * (a.inner < tile ? a.inner : tile);
    parallel_for(a.outer * tiles, grain / (item_size + 1) + 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t column = item % tiles * tile;
        const std::int64_t width = a.inner - column < tile ? a.inner - column : tile;
        const T* const start = x + item / tiles * a.reduced * a.inner + column;
        std::int64_t* const y = a.y + item / tiles * a.inner + column;
        if (a.inner == 1) {
          // The extreme value first, in lanes, then where it is.
          const auto extreme =
              static_cast<C>(a.largest ? fold_row<Maximum>(start, a.reduced) : fold_row<Minimum>(start, a.reduced));
          std::int64_t i = 0;
          while (load(start[i]) != extreme && !math::is_nan(load(start[i]))) ++i;
          *y = i;
          continue;
        }
        alignas(64) C best[tile];
        for (std::int64_t j = 0; j < width; ++j) {
          best[j] = load(start[j]);
          y[j] = 0;
        }
        for (std::int64_t i = 1; i < a.reduced; ++i) {
          for (std::int64_t j = 0; j < width; ++j) {
            const C value = load(start[i * a.inner + j]);
            const bool take = better(a.largest, value, best[j]);
            best[j] = take ? value : best[j];
            y[j] = take ? i : y[j];
          }
        }
      }
    });
  });
}

}  // namespace kernels::cpu::ANNEAL_LEVEL
}  // namespace v0
}  // namespace anneal
