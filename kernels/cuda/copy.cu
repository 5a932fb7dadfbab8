// What moves elements: copies and conversions, choices, constants.
#include <cstring>
#include <type_traits>

#include "anneal/kernels/cuda/map.h"

namespace anneal {
inline namespace v0 {
namespace kernels::ANNEAL_GPU {
namespace {

struct Same {
  template <class C>
  ANNEAL_DEVICE C operator()(C x) const {
    return x;
  }
};
struct Choose {
  template <class C>
  ANNEAL_DEVICE C operator()(bool condition, C a, C b) const {
    return condition ? a : b;
  }
};
template <class C>
struct Constant {
  C value;
  ANNEAL_DEVICE C operator()() const { return value; }
};

/// A copy whose source has its neighbours along another dimension than the result: tiles are read along one and written
/// along the other.
template <class T>
struct Transpose {
  static constexpr int threads = 256;
  static constexpr int tile = 32;
  Space<2> space;  // but for the two dimensions
  std::int64_t rows, columns;
  std::int64_t x_row, x_column, y_row, y_column;  // distances; x_row and y_column are small
  const T* x;
  T* y;

  ANNEAL_DEVICE void operator()(Block& block) const {
    T* const cells = block.shared<T>();  // a column of padding: rows start in different banks
    const std::int64_t across = (columns + tile - 1) / tile;
    const std::int64_t down = (rows + tile - 1) / tile;
    const std::int64_t items = space.numel() * across * down;
    for (std::int64_t item = block.index(); item < items; item += block.count()) {
      std::int64_t offset[2] = {};
      add_offsets(space, space.rank, item / (across * down), offset);
      const std::int64_t row = item / across % down * tile;
      const std::int64_t column = item % across * tile;
      const int lane = block.thread() % tile;
      for (int k = block.thread() / tile; k < tile; k += threads / tile) {
        if (row + lane < rows && column + k < columns) {
          cells[k * (tile + 1) + lane] = x[offset[0] + (row + lane) * x_row + (column + k) * x_column];
        }
      }
      block.sync();
      for (int k = block.thread() / tile; k < tile; k += threads / tile) {
        if (row + k < rows && column + lane < columns) {
          y[offset[1] + (row + k) * y_row + (column + lane) * y_column] = cells[lane * (tile + 1) + k];
        }
      }
      block.sync();
    }
  }
};

/// The dimension, other than the last, along which x has neighbours; -1 if it has them along the last, or none.
int neighbours(const Space<2>& space) {
  const int last = space.rank - 1;
  for (int d = 0; d < last; ++d) {
    if (space.stride[0][d] == 1 && space.size[d] >= 16 && space.size[last] >= 16 && space.stride[0][last] > 1) return d;
  }
  return -1;
}

template <class T>
void transpose(Stream stream, const Copy& a, int dim) {
  const int last = a.space.rank - 1;
  Space<2> rest = a.space;
  rest.rank = 0;
  for (int d = 0; d < last; ++d) {
    if (d == dim) continue;
    rest.size[rest.rank] = a.space.size[d];
    for (int operand = 0; operand < 2; ++operand) rest.stride[operand][rest.rank] = a.space.stride[operand][d];
    ++rest.rank;
  }
  const std::int64_t(&stride)[2][max_rank] = a.space.stride;
  const Transpose<T> kernel{
      rest,           a.space.size[dim], a.space.size[last],         stride[0][dim],      stride[0][last],
      stride[1][dim], stride[1][last],   static_cast<const T*>(a.x), static_cast<T*>(a.y)};
  constexpr int tile = Transpose<T>::tile;
  launch(stream, blocks_for(a.space.numel(), tile * tile), kernel, tile * (tile + 1) * sizeof(T));
}

/// Between any two types.
struct Convert {
  static constexpr int threads = 256;
  Copy copy;

  ANNEAL_DEVICE void operator()(Block& block) const {
    for_each(block, copy.space.numel(), [&](std::int64_t i) {
      std::int64_t offset[2] = {};
      add_offsets(copy.space, copy.space.rank, i, offset);
      visit(copy.from, [&]<class From> {
        const Compute<From> value = load(static_cast<const From*>(copy.x)[offset[0]]);
        visit(copy.to, [&]<class To> { static_cast<To*>(copy.y)[offset[1]] = store<To>(value); });
      });
    });
  }
};

}  // namespace

template <>
void run(const Copy& a, Stream stream) {
  if (a.from == a.to) {
    const int dim = neighbours(a.space);
    visit_bits(a.from, [&]<class T> {
      if (dim >= 0) transpose<T>(stream, a, dim);
      else map<true>(stream, a.space, Same{}, Same{}, static_cast<T*>(a.y), static_cast<const T*>(a.x));
    });
    return;
  }
  // Between the types of training, and from images, in vectors.
  bool done = false;
  for_each_type(TypeList<float, f16, bf16>{}, [&]<class To> {
    for_each_type(TypeList<float, f16, bf16, std::uint8_t>{}, [&]<class From> {
      if constexpr (!std::is_same_v<From, To>) {
        if (dtype_of<From> != a.from || dtype_of<To> != a.to) return;
        map<true>(stream, a.space, Same{}, Same{}, static_cast<To*>(a.y), static_cast<const From*>(a.x));
        done = true;
      }
    });
  });
  if (!done) launch(stream, blocks_for(a.space.numel(), Convert::threads), Convert{a});
}

template <>
void run(const Where& a, Stream stream) {
  visit_bits(a.dtype, [&]<class T> {
    map<true>(stream, a.space, Choose{}, Choose{}, static_cast<T*>(a.y), static_cast<const bool*>(a.condition),
              static_cast<const T*>(a.a), static_cast<const T*>(a.b));
  });
}

template <>
void run(const Fill& a, Stream stream) {
  std::uint64_t bits = 0;  // of the value, whatever its type
  visit(a.dtype, [&]<class T> {
    const T value = store<T>(a.value);
    std::memcpy(&bits, &value, sizeof value);
  });
  visit_bits(a.dtype, [&]<class T> {
    const Constant<T> value{static_cast<T>(bits)};
    map<true>(stream, a.space, value, value, static_cast<T*>(a.y));
  });
}

}  // namespace kernels::ANNEAL_GPU
}  // namespace v0
}  // namespace anneal
