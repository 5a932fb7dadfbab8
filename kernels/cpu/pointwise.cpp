// Functions of each element. A space is run through in blocks: each operand's next elements are brought into a small
// buffer of the type that is computed with, unless they lie so in memory; one vectorised loop computes; the results are
// written out. So a function is compiled once a computing type, whatever the strides and storage types, and an
// element's value depends neither on its place in a vector nor on where threads cut.
#include "anneal/kernels/pointwise.h"

#include <cstdint>
#include <type_traits>
#include <utility>

#include "anneal/kernels/cpu/lanes.h"
#include "anneal/kernels/parallel.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu::ANNEAL_LEVEL {
namespace {

constexpr std::int64_t block_size = 256;
constexpr std::int64_t group_size = 32;             // loops run over whole groups, past the last element if need be
constexpr std::int64_t grain = 32768 / block_size;  // in blocks

constexpr std::int64_t whole_groups(std::int64_t n) { return (n + group_size - 1) / group_size * group_size; }

/// Calls body(i) for i in [0, n), n a multiple of group_size: the inner loop is the one to vectorise.
template <class Body>
ANNEAL_HD void for_groups(std::int64_t n, const Body& body) {
  for (std::int64_t begin = 0; begin < n; begin += group_size) {
    ANNEAL_LANES
    for (std::int64_t i = 0; i < group_size; ++i) body(begin + i);
  }
}

/// Walks the elements of one operand of a space, in the order of the space. Dimensions are merged where its strides
/// allow, so that a dense operand is one row even where another one is broadcast.
class Cursor {
 public:
  Cursor(int rank, const std::int64_t* size, const std::int64_t* stride, std::int64_t position) {
    for (int d = rank - 1; d >= 0; --d) {
      if (size[d] == 1) continue;
      if (rank_ > 0 && stride[d] == stride_[rank_ - 1] * size_[rank_ - 1]) {
        size_[rank_ - 1] *= size[d];
      } else {
        size_[rank_] = size[d];
        stride_[rank_++] = stride[d];
      }
    }
    if (rank_ == 0) size_[rank_++] = 1;
    for (int d = 0; d < rank_; ++d) {
      index_[d] = position % size_[d];
      position /= size_[d];
      offset_ += index_[d] * stride_[d];
    }
  }

  /// Calls body(offset, stride, done, count) for each piece of a row among the next n elements.
  template <class Body>
  ANNEAL_HD void next(std::int64_t n, const Body& body) {
    for (std::int64_t done = 0; done < n;) {
      const std::int64_t left = size_[0] - index_[0];
      const std::int64_t count = left < n - done ? left : n - done;
      body(offset_, stride_[0], done, count);
      done += count;
      index_[0] += count;
      offset_ += count * stride_[0];
      for (int d = 0; index_[d] == size_[d] && d + 1 < rank_; ++d) {
        offset_ += stride_[d + 1] - size_[d] * stride_[d];
        index_[d] = 0;
        ++index_[d + 1];
      }
    }
  }

  /// Whether the next n elements are neighbours in memory, and where they start if so.
  bool dense(std::int64_t n) const { return stride_[0] == 1 && size_[0] - index_[0] >= n; }
  std::int64_t offset() const { return offset_; }

 private:
  // Innermost first.
  int rank_ = 0;
  std::int64_t size_[max_rank + 1];
  std::int64_t stride_[max_rank + 1] = {};
  std::int64_t index_[max_rank + 1];
  std::int64_t offset_ = 0;
};

template <class T>
void read(const T* x, std::int64_t stride, std::int64_t n, Compute<T>* __restrict y) {
  if (stride == 1) {
    for (std::int64_t i = 0; i < n; ++i) y[i] = load(x[i]);
  } else if (stride == 0) {
    const Compute<T> value = load(*x);
    for (std::int64_t i = 0; i < n; ++i) y[i] = value;
  } else {
    for (std::int64_t i = 0; i < n; ++i) y[i] = load(x[i * stride]);
  }
}

template <class T, class C>
void write(const C* __restrict x, T* y, std::int64_t stride, std::int64_t n) {
  if (stride == 1) {
    for (std::int64_t i = 0; i < n; ++i) y[i] = store<T>(x[i]);
  } else {
    for (std::int64_t i = 0; i < n; ++i) y[i * stride] = store<T>(x[i]);
  }
}

/// One operand that is read.
template <class T>
class Input {
 public:
  template <int N>
  Input(const Space<N>& space, int operand, const void* x, std::int64_t position)
      : cursor_(space.rank, space.size, space.stride[operand], position), x_(static_cast<const T*>(x)) {}

  /// The next n elements, readable up to whole_groups(n).
  const Compute<T>* next(std::int64_t n) {
    const Compute<T>* in_place = nullptr;
    const bool direct = std::is_same_v<T, Compute<T>> && n % group_size == 0 && cursor_.dense(n);
    cursor_.next(n, [&](std::int64_t offset, std::int64_t stride, std::int64_t done, std::int64_t count) {
      if constexpr (std::is_same_v<T, Compute<T>>) {
        if (direct) {
          in_place = x_ + offset;
          return;
        }
      }
      read(x_ + offset, stride, count, buffer_ + done);
    });
    if (direct) return in_place;
    for (std::int64_t i = n; i < whole_groups(n); ++i) buffer_[i] = Compute<T>(1);
    return buffer_;
  }

 private:
  Cursor cursor_;
  const T* x_;
  alignas(64) Compute<T> buffer_[block_size];
};

/// y = f(x...) over a space whose last operand is y: `f(n, x..., y)` computes n elements, n a multiple of group_size,
/// of type C from those of the types Compute<X>. Without f (null) y = x, converted.
template <class Y, class C, class... X, int N, class F, class... Pointers>
void map(const Space<N>& space, F f, void* y, Pointers... x) {
  static_assert(N == sizeof...(X) + 1 && sizeof...(X) == sizeof...(Pointers));
  const std::int64_t numel = space.numel();
  parallel_for((numel + block_size - 1) / block_size, grain, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t first = begin * block_size;
    const std::int64_t last = end * block_size < numel ? end * block_size : numel;
    [&]<int... I>(std::integer_sequence<int, I...>) {
      Cursor output(space.rank, space.size, space.stride[N - 1], first);
      [&](Input<X>&&... input) {
        alignas(64) C buffer[block_size];
        for (std::int64_t position = first; position < last; position += block_size) {
          const std::int64_t n = last - position < block_size ? last - position : block_size;
          const auto write_all = [&](const C* result) {
            output.next(n, [&](std::int64_t offset, std::int64_t stride, std::int64_t done, std::int64_t count) {
              write(result + done, static_cast<Y*>(y) + offset, stride, count);
            });
          };
          if constexpr (std::is_null_pointer_v<F>) {
            write_all((input.next(n), ...));
          } else if (std::is_same_v<Y, C> && n % group_size == 0 && output.dense(n)) {
            f(whole_groups(n), input.next(n)..., static_cast<C*>(y) + output.offset());
            output.next(n, [](auto...) {});
          } else {
            f(whole_groups(n), input.next(n)..., buffer);
            write_all(buffer);
          }
        }
      }(Input<X>(space, I, x, first)...);
    }
    (std::make_integer_sequence<int, N - 1>{});
  });
}

// ---- what is computed on a block; y may be an operand's memory ----

template <class Op, class C>
void unary(std::int64_t n, const C* x, C* y) {
  for_groups(n, [=](std::int64_t i) { y[i] = Op::fwd(x[i]); });
}
template <class Op, class C>
void unary_grad(std::int64_t n, const C* dy, const C* saved, C* dx) {
  for_groups(n, [=](std::int64_t i) { dx[i] = dy[i] * Op::grad(saved[i]); });
}
template <class Op, class C>
void unary_grad_grad(std::int64_t n, const C* g, const C* dy, const C* saved, C* out) {
  for_groups(n, [=](std::int64_t i) { out[i] = g[i] * dy[i] * Op::grad2(saved[i]); });
}
template <class Op, class C>
void binary(std::int64_t n, const C* a, const C* b, C* y) {
  for_groups(n, [=](std::int64_t i) { y[i] = Op::fwd(a[i], b[i]); });
}
template <class Op, class C>
void compare(std::int64_t n, const C* a, const C* b, bool* y) {
  for_groups(n, [=](std::int64_t i) { y[i] = Op::fwd(a[i], b[i]); });
}
template <class C>
void where(std::int64_t n, const bool* condition, const C* a, const C* b, C* y) {
  for_groups(n, [=](std::int64_t i) { y[i] = condition[i] ? a[i] : b[i]; });
}
/// What f.operator()<Op>() gives for the op with this number.
template <class First, class... Rest, class F>
auto pick(TypeList<First, Rest...>, int id, F f) {
  const decltype(f.template operator()<First>()) table[] = {f.template operator()<First>(),
                                                            f.template operator()<Rest>()...};
  return table[id];
}

}  // namespace

template <>
void run(const Unary& a) {
  visit_floating(a.dtype, [&]<class T> {
    using C = Compute<T>;
    map<T, C, T>(a.space, pick(UnaryOps{}, a.op, []<class Op> { return &unary<Op, C>; }), a.y, a.x);
  });
}

template <>
void run(const UnaryGrad& a) {
  visit_floating(a.dtype, [&]<class T> {
    using C = Compute<T>;
    map<T, C, T, T>(a.space, pick(UnaryOps{}, a.op, []<class Op> { return &unary_grad<Op, C>; }), a.dx, a.dy, a.saved);
  });
}

template <>
void run(const UnaryGradGrad& a) {
  visit_floating(a.dtype, [&]<class T> {
    using C = Compute<T>;
    map<T, C, T, T, T>(a.space, pick(UnaryOps{}, a.op, []<class Op> { return &unary_grad_grad<Op, C>; }), a.out, a.g,
                       a.dy, a.saved);
  });
}

template <>
void run(const Binary& a) {
  visit(a.dtype, [&]<class T> {
    using C = Compute<T>;
    map<T, C, T, T>(a.space, pick(BinaryOps{}, a.op, []<class Op> { return &binary<Op, C>; }), a.y, a.a, a.b);
  });
}

template <>
void run(const Compare& a) {
  visit(a.dtype, [&]<class T> {
    using C = Compute<T>;
    map<bool, bool, T, T>(a.space, pick(CompareOps{}, a.op, []<class Op> { return &compare<Op, C>; }), a.y, a.a, a.b);
  });
}

template <>
void run(const Where& a) {
  visit_bits(a.dtype, [&]<class T> { map<T, T, bool, T, T>(a.space, &where<T>, a.y, a.condition, a.a, a.b); });
}

template <>
void run(const Copy& a) {
  if (a.from == a.to) {
    visit_bits(a.from, [&]<class T> { map<T, T, T>(a.space, nullptr, a.y, a.x); });
    return;
  }
  visit(a.from, [&]<class From> {
    visit(a.to, [&]<class To> {
      using C = Compute<From>;
      map<To, C, From>(a.space, nullptr, a.y, a.x);
    });
  });
}

template <>
void run(const Fill& a) {
  visit(a.dtype, [&]<class T> {
    using C = Compute<T>;
    const C value = load(store<T>(a.value));
    map<T, C>(
        a.space, [value](std::int64_t n, C* y) { for_groups(n, [=](std::int64_t i) { y[i] = value; }); }, a.y);
  });
}

}  // namespace kernels::cpu::ANNEAL_LEVEL
}  // namespace v0
}  // namespace anneal
