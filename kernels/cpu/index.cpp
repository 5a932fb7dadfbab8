// Elements and rows by number.
#include <cstdint>
#include <type_traits>

#include "anneal/kernels/cpu/level.h"
#include "anneal/kernels/parallel.h"
#include "anneal/kernels/pointwise.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu::ANNEAL_LEVEL {
namespace {

constexpr std::int64_t grain = 32768;  // in elements

/// The position of the first index outside of [0, size), or -1.
std::int64_t find_bad(const std::int64_t* index, std::int64_t n, std::int64_t size) {
  const auto limit = static_cast<std::uint64_t>(size);
  for (std::int64_t begin = 0; begin < n; begin += 1024) {
    const std::int64_t end = n - begin < 1024 ? n : begin + 1024;
    bool bad = false;
    for (std::int64_t i = begin; i < end; ++i) bad |= static_cast<std::uint64_t>(index[i]) >= limit;
    if (!bad) continue;
    for (std::int64_t i = begin; i < end; ++i) {
      if (static_cast<std::uint64_t>(index[i]) >= limit) return i;
    }
  }
  return -1;
}

/// The dense operands of Gather and ScatterAdd as [outer, size[dim], inner], and where x's elements are.
class Lines {
 public:
  Lines(int rank, int dim, const std::int64_t* size, const std::int64_t* x_stride)
      : rank_(rank), dim_(dim), size_(size), x_stride_(x_stride) {
    for (int d = 0; d < dim; ++d) outer *= size[d];
    for (int d = dim + 1; d < rank; ++d) inner *= size[d];
    // Rank 0 is one line of one element.
    length = rank > 0 ? size[dim] : 1;
    stride = rank > 0 ? x_stride[dim] : 0;
  }

  std::int64_t outer = 1, length, inner = 1;
  /// The distance in x along the indexed dimension.
  std::int64_t stride;

  /// Where x's lines start: the offset of (outer, inner) at index 0.
  std::int64_t offset_of_outer(std::int64_t i) const { return offset(i, 0, dim_); }
  std::int64_t offset_of_inner(std::int64_t i) const { return offset(i, dim_ + 1, rank_); }

 private:
  std::int64_t offset(std::int64_t i, int begin, int end) const {
    std::int64_t sum = 0;
    for (int d = end - 1; d >= begin; --d) {
      sum += i % size_[d] * x_stride_[d];
      i /= size_[d];
    }
    return sum;
  }

  int rank_, dim_;
  const std::int64_t *size_, *x_stride_;
};

/// Calls body(x_offset, i) with the element of x and the position i in the dense operands, in parallel over lines;
/// those of one line are met in the order of i.
template <class Body>
void for_lines(const Lines& lines, const std::int64_t* index, const Body& body) {
  constexpr std::int64_t strip = 64;  // inner coordinates at a time, so that their offsets are found once
  const std::int64_t strips = (lines.inner + strip - 1) / strip;
  const std::int64_t strip_size = lines.length * (lines.inner < strip ? lines.inner : strip);
  parallel_for(lines.outer * strips, grain / (strip_size + 1) + 1, [&](std::int64_t from, std::int64_t to) {
    for (std::int64_t item = from; item < to; ++item) {
      const std::int64_t outer = item / strips;
      const std::int64_t begin = item % strips * strip;
      const std::int64_t count = lines.inner - begin < strip ? lines.inner - begin : strip;
      std::int64_t offset[strip];
      const std::int64_t outer_offset = lines.offset_of_outer(outer);
      for (std::int64_t j = 0; j < count; ++j) offset[j] = outer_offset + lines.offset_of_inner(begin + j);
      for (std::int64_t k = 0; k < lines.length; ++k) {
        const std::int64_t row = (outer * lines.length + k) * lines.inner + begin;
        for (std::int64_t j = 0; j < count; ++j) body(offset[j] + index[row + j] * lines.stride, row + j);
      }
    }
  });
}

}  // namespace

template <>
void run(const Gather& a) {
  const Lines lines(a.rank, a.dim, a.size, a.x_stride);
  if (const std::int64_t bad = find_bad(a.index, lines.outer * lines.length * lines.inner, a.x_size); bad >= 0) {
    *a.bad = bad;
    return;
  }
  visit_bits(a.dtype, [&]<class T> {
    const T* const x = static_cast<const T*>(a.x);
    T* const y = static_cast<T*>(a.y);
    for_lines(lines, a.index, [=](std::int64_t from, std::int64_t i) { y[i] = x[from]; });
  });
}

template <>
void run(const ScatterAdd& a) {
  const Lines lines(a.rank, a.dim, a.size, a.x_stride);
  if (const std::int64_t bad = find_bad(a.index, lines.outer * lines.length * lines.inner, a.x_size); bad >= 0) {
    *a.bad = bad;
    return;
  }
  visit(a.dtype, [&]<class T> {
    T* const x = static_cast<T*>(a.x);
    const T* const src = static_cast<const T*>(a.src);
    for_lines(lines, a.index,
              [=](std::int64_t to, std::int64_t i) { x[to] = store<T>(Add::fwd(load(x[to]), load(src[i]))); });
  });
}

template <>
void run(const Embedding& a) {
  if (const std::int64_t bad = find_bad(a.index, a.n, a.rows); bad >= 0) {
    *a.bad = bad;
    return;
  }
  const auto row_size = a.cols * static_cast<std::int64_t>(size_of(a.dtype));
  const char* const table = static_cast<const char*>(a.table);
  char* const y = static_cast<char*>(a.y);
  if (row_size == 0) return;
  parallel_for(a.n, grain / a.cols + 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      __builtin_memcpy(y + i * row_size, table + a.index[i] * row_size, static_cast<std::size_t>(row_size));
    }
  });
}

template <>
void run(const EmbeddingGrad& a) {
  const auto element = static_cast<std::int64_t>(size_of(a.dtype));
  if (!a.accumulate) {
    parallel_for(a.rows * a.cols, grain, [&](std::int64_t begin, std::int64_t end) {
      __builtin_memset(static_cast<char*>(a.dtable) + begin * element, 0,
                       static_cast<std::size_t>((end - begin) * element));
    });
  }
  visit_floating(a.dtype, [&]<class T> {
    T* const dtable = static_cast<T*>(a.dtable);
    const T* const dy = static_cast<const T*>(a.dy);
    // Rows may meet, columns do not: each thread takes some columns of all rows, whole cache lines where it can.
    constexpr std::int64_t line = 64 / static_cast<std::int64_t>(sizeof(T));
    const std::int64_t n_lines = (a.cols + line - 1) / line;
    parallel_for(n_lines, grain / (a.n * line + 1) + 1, [&](std::int64_t from, std::int64_t to) {
      const std::int64_t begin = from * line;
      const std::int64_t end = to * line < a.cols ? to * line : a.cols;
      for (std::int64_t i = 0; i < a.n; ++i) {
        if (a.index[i] == a.padding) continue;
        T* const __restrict row = dtable + a.index[i] * a.cols;
        const T* const step = dy + i * a.cols;
        for (std::int64_t j = begin; j < end; ++j) row[j] = store<T>(load(row[j]) + load(step[j]));
      }
    });
  });
}

}  // namespace kernels::cpu::ANNEAL_LEVEL
}  // namespace v0
}  // namespace anneal
