// Elements and rows by number. Indices that are out of range are reported, and read as 0 or left out.
#include <bit>
#include <type_traits>

#include "anneal/kernels/cuda/model.h"
#include "anneal/kernels/pointwise.h"

namespace anneal {
inline namespace v0 {
namespace kernels::ANNEAL_GPU {
namespace {

ANNEAL_HD bool in_range(std::int64_t index, std::int64_t size) {
  return static_cast<std::uint64_t>(index) < static_cast<std::uint64_t>(size);
}

/// The dense operands of Gather and ScatterAdd as [outer, length, inner], and where x's elements are.
template <class Args>
struct Lines {
  Args a;
  std::int64_t outer = 1, length, inner = 1, stride;

  explicit Lines(const Args& args) : a(args) {
    for (int d = 0; d < a.dim; ++d) outer *= a.size[d];
    for (int d = a.dim + 1; d < a.rank; ++d) inner *= a.size[d];
    // Rank 0 is one line of one element.
    length = a.rank > 0 ? a.size[a.dim] : 1;
    stride = a.rank > 0 ? a.x_stride[a.dim] : 0;
  }

  /// Where x's line starts.
  ANNEAL_DEVICE std::int64_t start(std::int64_t outer_at, std::int64_t inner_at) const {
    return offset(outer_at, 0, a.dim) + offset(inner_at, a.dim + 1, a.rank);
  }

 private:
  ANNEAL_DEVICE std::int64_t offset(std::int64_t i, int begin, int end) const {
    std::int64_t sum = 0;
    for (int d = end - 1; d >= begin; --d) {
      const Division at = divide(i, a.size[d]);
      sum += at.rest * a.x_stride[d];
      i = at.quotient;
    }
    return sum;
  }
};

template <class T>
struct GatherElements {
  static constexpr int threads = 256;
  Lines<Gather> lines;

  ANNEAL_DEVICE void operator()(Block& block) const {
    const Gather& a = lines.a;
    const auto* const x = static_cast<const T*>(a.x);
    for_each(block, lines.outer * lines.length * lines.inner, [&](std::int64_t i) {
      const std::int64_t index = a.index[i];
      const bool good = in_range(index, a.x_size);
      if (!good) report(a.bad, i);
      const Division line = divide(i, lines.inner);
      const std::int64_t start = lines.start(divide(line.quotient, lines.length).quotient, line.rest);
      static_cast<T*>(a.y)[i] = good ? x[start + index * lines.stride] : T(0);
    });
  }
};

/// A thread a line, as its elements may meet.
template <class T>
struct ScatterLines {
  static constexpr int threads = 256;
  Lines<ScatterAdd> lines;

  ANNEAL_DEVICE void operator()(Block& block) const {
    const ScatterAdd& a = lines.a;
    const auto* const src = static_cast<const T*>(a.src);
    for_each(block, lines.outer * lines.inner, [&](std::int64_t line) {
      const auto [outer, inner] = divide(line, lines.inner);
      T* const x = static_cast<T*>(a.x) + lines.start(outer, inner);
      for (std::int64_t k = 0; k < lines.length; ++k) {
        const std::int64_t i = (outer * lines.length + k) * lines.inner + inner;
        const std::int64_t index = a.index[i];
        if (in_range(index, a.x_size)) {
          T& to = x[index * lines.stride];
          to = store<T>(Add::fwd(load(to), load(src[i])));
        } else {
          report(a.bad, i);
        }
      }
    });
  }
};

/// Rows as words of the largest type that divides them; a thread a word.
template <class Word>
struct EmbeddingRows {
  static constexpr int threads = 256;
  std::int64_t n, rows, words;
  const Word* table;
  const std::int64_t* index;
  Word* y;
  std::int64_t* bad;

  ANNEAL_DEVICE void operator()(Block& block) const {
    for_each(block, n * words, [&](std::int64_t i) {
      const auto [at, word] = divide(i, words);
      const bool good = in_range(index[at], rows);
      if (!good && word == 0) report(bad, at);
      store_vector(y + i, good ? load_vector<1>(table + index[at] * words + word) : Vector<Word, 1>{});
    });
  }
};

// ---- the gradient of an embedding: positions are sorted by row, stably, then each run of equal rows is added up ----

/// A position i and its row, or `rows` if it is to be left out.
struct Entry {
  std::int64_t row, position;
};

struct ListEntries {
  static constexpr int threads = 256;
  std::int64_t n, rows, padding;
  const std::int64_t* index;
  Entry* entries;

  ANNEAL_DEVICE void operator()(Block& block) const {
    for_each(block, n, [&](std::int64_t i) {
      const bool used = in_range(index[i], rows) && index[i] != padding;
      entries[i] = {used ? index[i] : rows, i};
    });
  }
};

/// Radix sort, four bits a pass. Each block has a tile of entries, and each of its threads some neighbours of those, so
/// that ranks are sums of counts in a fixed order.
struct SortPass {
  static constexpr int threads = 256;
  static constexpr int digits = 16, digit_bits = 4;
  static constexpr int each = 8;  // entries a thread
  static constexpr int tile = threads * each;
  std::int64_t n, tiles;
  int shift;
  const Entry* from;
  std::int64_t* counts;  // [digits, tiles]

  ANNEAL_DEVICE int digit(const Entry& e) const { return static_cast<int>(e.row >> shift) & (digits - 1); }
  /// Calls f(entry) for a thread's entries, in order.
  template <class F>
  ANNEAL_DEVICE void each_entry(const Block& block, const F& f) const {
    const std::int64_t begin = block.index() * tile + block.thread() * each;
    for (std::int64_t i = begin; i < begin + each && i < n; ++i) f(from[i]);
  }
};

struct CountDigits : SortPass {
  ANNEAL_DEVICE void operator()(Block& block) const {
    auto* const count = block.shared<std::int32_t>();
    if (block.thread() < digits) count[block.thread()] = 0;
    block.sync();
    each_entry(block, [&](const Entry& e) { atomic_add(count + digit(e), std::int32_t{1}); });
    block.sync();
    if (block.thread() < digits) counts[block.thread() * tiles + block.index()] = count[block.thread()];
  }
};

/// counts[i] = counts[0] + ... + counts[i - 1]; one block.
struct ScanCounts {
  static constexpr int threads = 1024;
  std::int64_t n;
  std::int64_t* counts;

  ANNEAL_DEVICE void operator()(Block& block) const {
    auto* const sums = block.shared<std::int64_t>();  // of each thread's part
    const std::int64_t part = (n + threads - 1) / threads;
    const std::int64_t begin = block.thread() * part < n ? block.thread() * part : n;
    const std::int64_t end = begin + part < n ? begin + part : n;
    std::int64_t sum = 0;
    for (std::int64_t i = begin; i < end; ++i) sum += counts[i];
    sums[block.thread()] = sum;
    for (int distance = 1; distance < threads; distance *= 2) {
      block.sync();
      const std::int64_t before = block.thread() >= distance ? sums[block.thread() - distance] : 0;
      block.sync();
      sums[block.thread()] += before;
    }
    std::int64_t total = sums[block.thread()] - sum;
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t count = counts[i];
      counts[i] = total;
      total += count;
    }
  }
};

struct MoveEntries : SortPass {
  Entry* to;

  ANNEAL_DEVICE void operator()(Block& block) const {
    // Where each thread's next entry of each digit goes.
    auto* const next = block.shared<std::int32_t>();  // [digits, threads + 1]
    const auto of = [&](int digit, int thread) -> std::int32_t& { return next[digit * (threads + 1) + thread]; };
    for (int d = 0; d < digits; ++d) of(d, block.thread()) = 0;
    each_entry(block, [&](const Entry& e) { ++of(digit(e), block.thread()); });
    block.sync();
    // A warp adds up the threads before each for two digits.
    for (int d = block.thread() / 32; d < digits; d += threads / 32) {
      std::int32_t before = 0;
      for (int t = block.thread() % 32; t < threads; t += 32) {
        const std::int32_t count = of(d, t);
        std::int32_t sum = count;
        for (int distance = 1; distance < 32; distance *= 2) {
          const std::int32_t other =
              block.shuffle(sum, block.thread() % 32 >= distance ? block.thread() % 32 - distance : 0);
          if (block.thread() % 32 >= distance) sum += other;
        }
        of(d, t) = before + sum - count;
        before += block.shuffle(sum, 31);
      }
    }
    block.sync();
    each_entry(block, [&](const Entry& e) {
      const int d = digit(e);
      to[counts[d * tiles + block.index()] + of(d, block.thread())++] = e;
    });
  }
};

/// A thread some columns of an entry: if it is the first one of its row it adds up them all.
template <class T, int width>
struct AddRuns {
  static constexpr int threads = 256;
  std::int64_t n, rows, cols;
  const Entry* entries;
  const T* dy;
  T* dtable;

  ANNEAL_DEVICE void operator()(Block& block) const {
    const std::int64_t vectors = cols / width;
    for_each(block, n * vectors, [&](std::int64_t i) {
      const Division place = divide(i, vectors);
      std::int64_t at = place.quotient;
      const std::int64_t column = place.rest * width, row = entries[at].row;
      if (row == rows || (at > 0 && entries[at - 1].row == row)) return;
      T* const to = dtable + row * cols + column;
      const Vector<T, width> old = load_vector<width>(to);
      Compute<T> sum[width];
      for (int k = 0; k < width; ++k) sum[k] = load(old[k]);
      for (; at < n && entries[at].row == row; ++at) {
        const Vector<T, width> v = load_vector<width>(dy + entries[at].position * cols + column);
        for (int k = 0; k < width; ++k) sum[k] += load(v[k]);
      }
      Vector<T, width> result;
      for (int k = 0; k < width; ++k) result[k] = store<T>(sum[k]);
      store_vector(to, result);
    });
  }
};

/// The positions of `a.index`, in the workspace, sorted by row.
const Entry* sort(const EmbeddingGrad& a, Stream stream) {
  const std::int64_t tiles = (a.n + SortPass::tile - 1) / SortPass::tile;
  const std::int64_t n_counts = SortPass::digits * tiles;
  auto* from = static_cast<Entry*>(workspace(stream, static_cast<std::size_t>(2 * a.n) * sizeof(Entry) +
                                                         static_cast<std::size_t>(n_counts) * sizeof(std::int64_t)));
  Entry* to = from + a.n;
  auto* const counts = reinterpret_cast<std::int64_t*>(to + a.n);
  launch(stream, blocks_for(a.n, ListEntries::threads), ListEntries{a.n, a.rows, a.padding, a.index, from});
  const int bits = static_cast<int>(std::bit_width(static_cast<std::uint64_t>(a.rows)));
  for (int shift = 0; shift < bits; shift += SortPass::digit_bits) {
    const SortPass pass{a.n, tiles, shift, from, counts};
    launch(stream, tiles, CountDigits{pass}, SortPass::digits * sizeof(std::int32_t));
    launch(stream, 1, ScanCounts{n_counts, counts}, ScanCounts::threads * sizeof(std::int64_t));
    launch(stream, tiles, MoveEntries{pass, to}, SortPass::digits * (SortPass::threads + 1) * sizeof(std::int32_t));
    std::swap(from, to);
  }
  return from;
}

}  // namespace

template <>
void run(const Gather& a, Stream stream) {
  const Lines<Gather> lines(a);
  visit_bits(a.dtype, [&]<class T> {
    using Kernel = GatherElements<T>;
    launch(stream, blocks_for(lines.outer * lines.length * lines.inner, Kernel::threads), Kernel{lines});
  });
}

template <>
void run(const ScatterAdd& a, Stream stream) {
  const Lines<ScatterAdd> lines(a);
  visit(a.dtype, [&]<class T> {
    using Kernel = ScatterLines<T>;
    launch(stream, blocks_for(lines.outer * lines.inner, Kernel::threads), Kernel{lines});
  });
}

template <>
void run(const Embedding& a, Stream stream) {
  const std::int64_t bytes = a.cols * static_cast<std::int64_t>(size_of(a.dtype));
  const auto rows_of = [&]<class Word> {
    constexpr auto size = static_cast<std::int64_t>(sizeof(Word));
    const auto misfit = static_cast<std::uintptr_t>(bytes) | reinterpret_cast<std::uintptr_t>(a.table) |
                        reinterpret_cast<std::uintptr_t>(a.y);
    if (misfit % sizeof(Word) != 0) return false;
    using Kernel = EmbeddingRows<Word>;
    launch(
        stream, blocks_for(a.n * (bytes / size), Kernel::threads),
        Kernel{a.n, a.rows, bytes / size, static_cast<const Word*>(a.table), a.index, static_cast<Word*>(a.y), a.bad});
    return true;
  };
  if (rows_of.operator()<Vector<std::uint64_t, 2>>()) return;
  visit_bits(a.dtype, [&]<class Word> { rows_of.template operator()<Word>(); });
}

template <>
void run(const EmbeddingGrad& a, Stream stream) {
  if (!a.accumulate) {
    Space<1> all{1, {a.rows * a.cols}, {{1}}};
    run(Fill{a.dtype, all, 0, a.dtable}, stream);
  }
  if (a.n * a.cols == 0) return;
  const Entry* const entries = sort(a, stream);
  visit_floating(a.dtype, [&]<class T> {
    const T* const dy = static_cast<const T*>(a.dy);
    T* const dtable = static_cast<T*>(a.dtable);
    const auto add = [&]<int width>(std::integral_constant<int, width>) {
      using Kernel = AddRuns<T, width>;
      launch(stream, blocks_for(a.n * (a.cols / width), Kernel::threads),
             Kernel{a.n, a.rows, a.cols, entries, dy, dtable});
    };
    constexpr int width = vector_size<T>;
    if (a.cols % width == 0 && aligned(dy) && aligned(dtable)) add(std::integral_constant<int, width>{});
    else add(std::integral_constant<int, 1>{});
  });
}

}  // namespace kernels::ANNEAL_GPU
}  // namespace v0
}  // namespace anneal
