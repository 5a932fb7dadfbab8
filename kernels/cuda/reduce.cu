// Reductions of [outer, reduced, inner]. Floats are folded in runs of a few, and the runs in double; the order is a
// function of the shape and of whether rows can be read in vectors. Where outputs are few, the reduced dimension is cut
// into chunks whose totals a second kernel folds.
#include <bit>
#include <limits>
#include <type_traits>

#include "anneal/kernels/cuda/model.h"
#include "anneal/kernels/pointwise.h"

namespace anneal {
inline namespace v0 {
namespace kernels::ANNEAL_GPU {
namespace {

/// What elements are compared and folded as: bytes as integers, for shuffles.
template <class T>
using Number = std::conditional_t<sizeof(T) == 1, std::int32_t, Compute<T>>;
template <class T>
using Total = std::conditional_t<std::is_floating_point_v<Number<T>>, double, Number<T>>;

template <class C>
ANNEAL_HD C lowest() {
  if constexpr (std::is_floating_point_v<C>) return -std::numeric_limits<C>::infinity();
  else return std::numeric_limits<C>::lowest();
}
template <class C>
ANNEAL_HD C highest() {
  if constexpr (std::is_floating_point_v<C>) return std::numeric_limits<C>::infinity();
  else return std::numeric_limits<C>::max();
}

/// Sums, the reduction that training is full of.
struct Sum {
  template <class T>
  using Run = Number<T>;
  template <class C>
  ANNEAL_DEVICE C identity() const {
    return C(0);
  }
  template <class C>
  ANNEAL_DEVICE C operator()(C a, C b) const {
    return Add::fwd(a, b);
  }
};
/// Any reduction.
struct Fold {
  template <class T>
  using Run = Total<T>;  // products leave float's range long before they leave double's
  Reduction op;
  template <class C>
  ANNEAL_DEVICE C identity() const {
    return op == Reduction::max ? lowest<C>() : op == Reduction::min ? highest<C>() : C(op == Reduction::prod);
  }
  template <class C>
  ANNEAL_DEVICE C operator()(C a, C b) const {
    switch (op) {
      case Reduction::max: return Maximum::fwd(a, b);
      case Reduction::min: return Minimum::fwd(a, b);
      case Reduction::prod: return Mul::fwd(a, b);
      default: return Add::fwd(a, b);
    }
  }
};

/// Over the values of a group of neighbouring threads: a power of two up to 32, or the block.
template <class C, class Op>
ANNEAL_DEVICE C group_reduce(Block& block, int group, C value, const Op& op) {
  if (group > 32) return block_reduce(block, value, op);
  for (int mask = group / 2; mask > 0; mask /= 2) value = op(value, block.shuffle_xor(value, mask));
  return value;
}

/// Where totals go: into the result, or into the partial totals [chunks, outputs].
template <class T>
struct Sink {
  bool mean, wide;
  std::int64_t outputs, reduced;
  Total<T>* partial;
  void* y;

  ANNEAL_DEVICE void put(std::int64_t chunk, std::int64_t output, Total<T> total) const {
    if (partial) {
      partial[chunk * outputs + output] = total;
      return;
    }
    if constexpr (std::is_floating_point_v<Total<T>>) {
      if (mean) total /= static_cast<Total<T>>(reduced);
    }
    if constexpr (std::is_same_v<T, bool>) total = total > 0;  // as is the largest, or the smallest, of none
    if (wide) static_cast<float*>(y)[output] = static_cast<float>(total);
    else static_cast<T*>(y)[output] = store<T>(total);
  }
};

/// inner is 1: a group of threads folds a chunk of a row.
template <class T, class F>
struct FoldRows {
  static constexpr int threads = 256;
  static constexpr int width = vector_size<T>;
  F fold;
  Sink<T> sink;
  const T* x;
  std::int64_t length, chunks, chunk_size;
  int group;
  bool vectors;

  ANNEAL_DEVICE void operator()(Block& block) const {
    const int groups = threads / group;
    const std::int64_t items = sink.outputs * chunks;
    for (std::int64_t first = block.index() * groups; first < items; first += block.count() * groups) {
      const std::int64_t item = first + block.thread() / group;
      const auto [row, chunk] = divide(item, chunks);
      Total<T> total = fold.template identity<Total<T>>();
      if (item < items) {
        const std::int64_t begin = chunk * chunk_size, end = begin + chunk_size;
        total = member(x + row * length, begin, end < length ? end : length, block.thread() % group);
      }
      total = group_reduce(block, group, total, fold);
      if (item < items && block.thread() % group == 0) sink.put(chunk, row, total);
    }
  }

 private:
  /// What one member of the group folds.
  ANNEAL_DEVICE Total<T> member(const T* row, std::int64_t begin, std::int64_t end, int member) const {
    using Run = typename F::template Run<T>;
    Total<T> total = fold.template identity<Total<T>>();
    if (!vectors) {
      for (std::int64_t i = begin + member; i < end; i += group) {
        total = fold(total, static_cast<Total<T>>(load(row[i])));
      }
      return total;
    }
    for (std::int64_t i = begin + member * width; i < end; i += group * width) {
      const Vector<T, width> v = load_vector<width>(row + i);
      auto run = static_cast<Run>(load(v[0]));
      for (int k = 1; k < width; ++k) run = fold(run, static_cast<Run>(load(v[k])));
      total = fold(total, static_cast<Total<T>>(run));
    }
    return total;
  }
};

/// A block folds a chunk of `width` columns, its threads neighbours in a row, and several rows at a time.
template <class T, class F>
struct FoldColumns {
  static constexpr int threads = 256;
  static constexpr int run_size = 8;
  F fold;
  Sink<T> sink;
  const T* x;
  std::int64_t inner, tiles, chunks, chunk_size;
  int width;

  ANNEAL_DEVICE void operator()(Block& block) const {
    using Run = typename F::template Run<T>;
    Total<T>* const totals = block.shared<Total<T>>();
    const int lane = block.thread() % width, first = block.thread() / width, step = threads / width;
    const std::int64_t items = sink.outputs / inner * tiles * chunks;
    for (std::int64_t item = block.index(); item < items; item += block.count()) {
      const auto [all_tiles, chunk] = divide(item, chunks);
      const auto [outer, tile] = divide(all_tiles, tiles);
      const std::int64_t column = tile * width + lane;
      const std::int64_t begin = chunk * chunk_size;
      const std::int64_t end = begin + chunk_size < sink.reduced ? begin + chunk_size : sink.reduced;
      const T* const from = x + outer * sink.reduced * inner + column;
      Total<T> total = fold.template identity<Total<T>>();
      if (column < inner) {
        for (std::int64_t r = begin + first; r < end; r += run_size * step) {
          auto run = static_cast<Run>(load(from[r * inner]));
          for (int k = 1; k < run_size; ++k) {
            if (r + k * step < end) run = fold(run, static_cast<Run>(load(from[(r + k * step) * inner])));
          }
          total = fold(total, static_cast<Total<T>>(run));
        }
      }
      totals[block.thread()] = total;
      block.sync();
      if (first == 0 && column < inner) {
        for (int k = 1; k < step; ++k) total = fold(total, totals[k * width + lane]);
        sink.put(chunk, outer * inner + column, total);
      }
      block.sync();
    }
  }
};

template <class T, class F>
struct FoldChunks {
  static constexpr int threads = 256;
  F fold;
  Sink<T> sink;  // of the result
  const Total<T>* partial;
  std::int64_t chunks;

  ANNEAL_DEVICE void operator()(Block& block) const {
    for_each(block, sink.outputs, [&](std::int64_t i) {
      Total<T> total = partial[i];
      for (std::int64_t c = 1; c < chunks; ++c) total = fold(total, partial[c * sink.outputs + i]);
      sink.put(0, i, total);
    });
  }
};

constexpr std::int64_t round_up(std::int64_t n, std::int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

/// Into how many chunks to cut n, so that `items` times as many blocks fill a device, of at least `least` each.
std::int64_t chunks_for(std::int64_t n, std::int64_t items, std::int64_t least) {
  constexpr std::int64_t enough = 1024;
  return items >= enough / 2
             ? 1
             : std::max<std::int64_t>(1, std::min(n / least, enough / std::max<std::int64_t>(items, 1)));
}

template <class T, class F>
void reduce(const Reduce& a, const F& fold, Stream stream) {
  const T* const x = static_cast<const T*>(a.x);
  const std::int64_t outputs = a.outer * a.inner;
  const Sink<T> result{a.op == Reduction::mean, a.out != a.dtype, outputs, a.reduced, nullptr, a.y};
  Sink<T> sink = result;
  const auto partial = [&](std::int64_t chunks) {
    if (chunks == 1) return;
    const auto bytes = static_cast<std::size_t>(chunks * outputs) * sizeof(Total<T>);
    sink.partial = static_cast<Total<T>*>(workspace(stream, bytes));
  };
  std::int64_t chunks = 1;
  if (a.inner == 1) {
    using Kernel = FoldRows<T, F>;
    constexpr int width = Kernel::width;
    const bool vectors = a.reduced % width == 0 && aligned(x);
    int group = 1;
    while (group < 32 && group * (vectors ? width : 1) < a.reduced) group *= 2;
    if (a.reduced >= 4096) group = Kernel::threads;
    if (group == Kernel::threads) chunks = chunks_for(a.reduced, outputs, 8192);
    const std::int64_t size = round_up((a.reduced + chunks - 1) / chunks, width);
    chunks = size > 0 ? (a.reduced + size - 1) / size : 1;
    partial(chunks);
    launch(stream, blocks_for(outputs * chunks, Kernel::threads / group),
           Kernel{fold, sink, x, a.reduced, chunks, size, group, vectors});
  } else {
    using Kernel = FoldColumns<T, F>;
    int width = static_cast<int>(std::bit_ceil(static_cast<std::uint64_t>(std::clamp<std::int64_t>(a.inner, 1, 32))));
    while (width < Kernel::threads && width < a.inner && Kernel::threads / width > a.reduced) width *= 2;
    const std::int64_t tiles = (a.inner + width - 1) / width;
    chunks = chunks_for(a.reduced, a.outer * tiles, 256);
    const std::int64_t size = (a.reduced + chunks - 1) / chunks;
    chunks = size > 0 ? (a.reduced + size - 1) / size : 1;
    partial(chunks);
    launch(stream, blocks_for(a.outer * tiles * chunks, 1), Kernel{fold, sink, x, a.inner, tiles, chunks, size, width},
           Kernel::threads * sizeof(Total<T>));
  }
  if (chunks == 1) return;
  using Last = FoldChunks<T, F>;
  launch(stream, blocks_for(outputs, Last::threads), Last{fold, result, sink.partial, chunks});
}

/// inner is 1: a group of threads finds the extreme value of a row, then where it is first.
template <class T>
struct ArgRows {
  static constexpr int threads = 256;
  Fold fold;
  const T* x;
  std::int64_t rows, length;
  int group;
  std::int64_t* y;

  ANNEAL_DEVICE void operator()(Block& block) const {
    using C = Number<T>;
    const int groups = threads / group, member = block.thread() % group;
    for (std::int64_t first = block.index() * groups; first < rows; first += block.count() * groups) {
      const std::int64_t row = first + block.thread() / group;
      const std::int64_t n = row < rows ? length : 0;
      const T* const from = x + row * length;
      C extreme = fold.identity<C>();
      for (std::int64_t i = member; i < n; i += group) extreme = fold(extreme, static_cast<C>(load(from[i])));
      extreme = group_reduce(block, group, extreme, fold);
      std::int64_t position = length;
      for (std::int64_t i = member; i < n && position == length; i += group) {
        const auto value = static_cast<C>(load(from[i]));
        if (value == extreme || math::is_nan(value)) position = i;
      }
      position = group_reduce(block, group, position, Fold{Reduction::min});
      if (row < rows && member == 0) y[row] = position;
    }
  }
};

/// A thread a column.
template <class T>
struct ArgColumns {
  static constexpr int threads = 256;
  bool largest;
  const T* x;
  std::int64_t outer, reduced, inner;
  std::int64_t* y;

  ANNEAL_DEVICE void operator()(Block& block) const {
    for_each(block, outer * inner, [&](std::int64_t i) {
      const Division at = divide(i, inner);
      const T* const from = x + at.quotient * reduced * inner + at.rest;
      Compute<T> best = load(from[0]);
      std::int64_t position = 0;
      for (std::int64_t r = 1; r < reduced; ++r) {
        const Compute<T> value = load(from[r * inner]);
        const bool take = !math::is_nan(best) && (math::is_nan(value) || (largest ? value > best : value < best));
        best = take ? value : best;
        position = take ? r : position;
      }
      y[i] = position;
    });
  }
};

}  // namespace

template <>
void run(const Reduce& a, Stream stream) {
  visit(a.dtype, [&]<class T> {
    const bool sum = a.op == Reduction::sum || a.op == Reduction::mean;
    if constexpr (std::is_floating_point_v<Compute<T>>) {
      if (sum) return reduce<T>(a, Sum{}, stream);
    }
    // Bools add by or: their number could wrap around to 0.
    reduce<T>(a, Fold{sum && std::is_same_v<T, bool> ? Reduction::max : a.op}, stream);
  });
}

template <>
void run(const ArgReduce& a, Stream stream) {
  visit(a.dtype, [&]<class T> {
    const T* const x = static_cast<const T*>(a.x);
    if (a.inner == 1) {
      using Kernel = ArgRows<T>;
      int group = 1;
      while (group < 32 && group < a.reduced) group *= 2;
      if (a.reduced >= 2048) group = Kernel::threads;
      launch(stream, blocks_for(a.outer, Kernel::threads / group),
             Kernel{{a.largest ? Reduction::max : Reduction::min}, x, a.outer, a.reduced, group, a.y});
    } else {
      using Kernel = ArgColumns<T>;
      launch(stream, blocks_for(a.outer * a.inner, Kernel::threads),
             Kernel{a.largest, x, a.outer, a.reduced, a.inner, a.y});
    }
  });
}

}  // namespace kernels::ANNEAL_GPU
}  // namespace v0
}  // namespace anneal
