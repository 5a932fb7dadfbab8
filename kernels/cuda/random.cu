// Random numbers: each thread makes the four elements of one of philox's blocks, or as many of them as are asked for.
#include <limits>
#include <type_traits>

#include "anneal/kernels/cuda/model.h"
#include "anneal/kernels/philox.h"

namespace anneal {
inline namespace v0 {
namespace kernels::ANNEAL_GPU {
namespace {

constexpr int group = 4;
/// How many of them are loaded or stored at once.
template <class T>
constexpr int width = group < vector_size<T> ? group : vector_size<T>;

/// Elements [0, n) at `offset` in a stream, by philox's blocks.
struct Span {
  std::int64_t n;
  std::uint64_t seed, offset;
  bool vectors;  ///< whole blocks are at addresses that vectors can be at

  ANNEAL_HD std::int64_t lead() const { return static_cast<std::int64_t>(offset % group); }
  ANNEAL_HD std::int64_t blocks() const { return n > 0 ? (lead() + n + group - 1) / group : 0; }

  /// Calls f(counter, from, begin, end) for each block: its word k is for element from + k, k in [begin, end).
  template <class F>
  ANNEAL_DEVICE void each(const Block& block, const F& f) const {
    for_each(block, blocks(), [&](std::int64_t i) {
      const std::int64_t from = i * group - lead(), left = n - from;
      f(offset / group + static_cast<std::uint64_t>(i), from, from < 0 ? static_cast<int>(-from) : 0,
        left < group ? static_cast<int>(left) : group);
    });
  }
};

template <class... T>
Span span_of(std::int64_t n, std::uint64_t seed, std::uint64_t offset, const T*... p) {
  const bool vectors = ((reinterpret_cast<std::uintptr_t>(p) % (width<T> * sizeof(T)) == 0) && ...);
  return {n, seed, offset, vectors && offset % group == 0};
}

template <class T>
ANNEAL_DEVICE void read(Vector<T, group>& v, const T* x, bool vectors, int begin, int end) {
  for (int k = 0; k < group; k += width<T>) {
    if (vectors && end == group) {
      const Vector<T, width<T>> part = load_vector<width<T>>(x + k);
      for (int j = 0; j < width<T>; ++j) v[k + j] = part[j];
    } else {
      for (int j = k; j < k + width<T>; ++j) {
        if (j >= begin && j < end) v[j] = x[j];
      }
    }
  }
}
template <class T>
ANNEAL_DEVICE void write(const Vector<T, group>& v, T* y, bool vectors, int begin, int end) {
  for (int k = 0; k < group; k += width<T>) {
    if (vectors && end == group) {
      Vector<T, width<T>> part;
      for (int j = 0; j < width<T>; ++j) part[j] = v[k + j];
      store_vector(y + k, part);
    } else {
      for (int j = k; j < k + width<T>; ++j) {
        if (j >= begin && j < end) y[j] = v[j];
      }
    }
  }
}

/// Uniform and normal numbers: shift + scale * draw. What rounds up to `limit` becomes `shift`.
template <class T>
struct Draw {
  static constexpr int threads = 256;
  using C = Compute<T>;
  Span span;
  bool normal;
  C shift, scale, limit;
  T* y;

  ANNEAL_DEVICE void operator()(Block& block) const {
    span.each(block, [&](std::uint64_t counter, std::int64_t from, int begin, int end) {
      C draws[group];
      const philox::Block words = philox::block(span.seed, counter);
      if constexpr (std::is_same_v<C, float>) {
        for (int k = 0; k < group; ++k) draws[k] = philox::uniform(words.word[k]);
      } else {
        const philox::Block low = philox::block(span.seed, counter, 1);
        for (int k = 0; k < group; ++k) {
          draws[k] = philox::uniform(static_cast<std::uint64_t>(words.word[k]) << 32 | low.word[k]);
        }
      }
      if (normal) {
        for (int k = 0; k < group; k += 2) {
          const philox::Pair<C> pair = philox::normal(draws[k], draws[k + 1]);
          draws[k] = pair.first;
          draws[k + 1] = pair.second;
        }
      }
      Vector<T, group> v;
      for (int k = 0; k < group; ++k) {
        const T value = store<T>(shift + scale * draws[k]);
        v[k] = load(value) < limit ? value : store<T>(shift);
      }
      write(v, y + from, span.vectors, begin, end);
    });
  }
};

/// Integers low + floor(word * range / 2^64): uniform but for a bias of range / 2^64.
template <class T>
struct DrawInteger {
  static constexpr int threads = 256;
  Span span;
  std::int64_t low;
  std::uint64_t range;
  T* y;

  ANNEAL_DEVICE void operator()(Block& block) const {
    __extension__ using Wide = unsigned __int128;
    span.each(block, [&](std::uint64_t counter, std::int64_t from, int begin, int end) {
      const philox::Block high = philox::block(span.seed, counter), rest = philox::block(span.seed, counter, 1);
      Vector<T, group> v;
      for (int k = 0; k < group; ++k) {
        const std::uint64_t word = static_cast<std::uint64_t>(high.word[k]) << 32 | rest.word[k];
        v[k] = store<T>(low + static_cast<std::int64_t>((static_cast<Wide>(word) * range) >> 64));
      }
      write(v, y + from, span.vectors, begin, end);
    });
  }
};

template <class T>
struct Drop {
  static constexpr int threads = 256;
  Span span;
  std::uint32_t threshold;
  Compute<T> scale;
  const T* x;
  T* y;

  ANNEAL_DEVICE void operator()(Block& block) const {
    span.each(block, [&](std::uint64_t counter, std::int64_t from, int begin, int end) {
      const philox::Block words = philox::block(span.seed, counter);
      Vector<T, group> v{};
      read(v, x + from, span.vectors, begin, end);
      for (int k = 0; k < group; ++k) {
        v[k] = store<T>(philox::keeps(words.word[k], threshold) ? load(v[k]) * scale : Compute<T>(0));
      }
      write(v, y + from, span.vectors, begin, end);
    });
  }
};

template <class K>
void launch_over(Stream stream, const K& kernel) {
  launch(stream, blocks_for(kernel.span.blocks(), K::threads), kernel);
}

}  // namespace

template <>
void run(const Random& a, Stream stream) {
  if (a.distribution == Distribution::integer) {
    const auto low = static_cast<std::int64_t>(a.a);
    const auto range = static_cast<std::uint64_t>(static_cast<std::int64_t>(a.b) - low);
    visit(a.dtype, [&]<class T> {
      T* const y = static_cast<T*>(a.y);
      launch_over(stream, DrawInteger<T>{span_of(a.n, a.seed, a.offset, y), low, range, y});
    });
    return;
  }
  visit_floating(a.dtype, [&]<class T> {
    using C = Compute<T>;
    const bool uniform = a.distribution == Distribution::uniform;
    const C limit = uniform ? load(store<T>(a.b)) : std::numeric_limits<C>::infinity();
    T* const y = static_cast<T*>(a.y);
    launch_over(stream, Draw<T>{span_of(a.n, a.seed, a.offset, y), !uniform, static_cast<C>(a.a),
                                static_cast<C>(uniform ? a.b - a.a : a.b), limit, y});
  });
}

template <>
void run(const Dropout& a, Stream stream) {
  visit_floating(a.dtype, [&]<class T> {
    const T* const x = static_cast<const T*>(a.x);
    T* const y = static_cast<T*>(a.y);
    launch_over(stream, Drop<T>{span_of(a.n, a.seed, a.offset, x, y), philox::drop_threshold(a.p),
                                static_cast<Compute<T>>(1 / (1 - a.p)), x, y});
  });
}

}  // namespace kernels::ANNEAL_GPU
}  // namespace v0
}  // namespace anneal
