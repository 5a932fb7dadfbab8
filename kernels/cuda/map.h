// Functions of each element: y = f(x...) over a Space.
#pragma once

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <utility>

#include "anneal/kernels/cuda/model.h"

namespace anneal {
inline namespace v0 {
namespace kernels::ANNEAL_GPU {

/// Splits i into coordinates of the dimensions [0, rank) of `size`, and adds up their distances for each operand.
template <class Index, int Operands>
ANNEAL_DEVICE void add_offsets(const Space<Operands>& space, int rank, Index i, std::int64_t (&offset)[Operands]) {
  for (int d = rank - 1; d >= 0; --d) {
    const auto size = static_cast<Index>(space.size[d]);
    const Index rest = d > 0 ? i / size : 0;
    const auto at = static_cast<std::int64_t>(i - rest * size);
    for (int operand = 0; operand < Operands; ++operand) offset[operand] += at * space.stride[operand][d];
    i = rest;
  }
}

/// Each thread computes `width` neighbours of the innermost dimension at a time. If that is more than one, every
/// operand has stride 0 or 1 there, and its vectors are aligned (see `fits`). A space of several dimensions has less
/// than 2^31 elements, as divisions of 64 bits are slow.
template <int width, class F, class Y, class... X>
struct Map {
  static constexpr int threads = 256;
  static constexpr int operands = sizeof...(X) + 1;
  Space<operands> space;
  F f;
  Y* y;
  const void* x[operands];  // the last one is unused: an array has to have an element

  ANNEAL_DEVICE void operator()(Block& block) const {
    const int last = space.rank - 1;
    const std::int64_t inner = space.size[last];
    const std::int64_t vectors = (inner + width - 1) / width;
    std::int64_t rows = 1;
    for (int d = 0; d < last; ++d) rows *= space.size[d];
    for_each(block, rows * vectors, [&](std::int64_t i) {
      std::int64_t offset[operands] = {};
      if (last > 0) {
        const std::uint32_t row = static_cast<std::uint32_t>(i) / static_cast<std::uint32_t>(vectors);
        i -= row * vectors;
        add_offsets(space, last, row, offset);
      }
      for (int operand = 0; operand < operands; ++operand) offset[operand] += i * width * space.stride[operand][last];
      const std::int64_t left = inner - i * width;
      compute(offset, left < width ? static_cast<int>(left) : width, std::make_integer_sequence<int, operands - 1>{});
    });
  }

 private:
  template <int... I>
  ANNEAL_DEVICE void compute(const std::int64_t (&offset)[operands], int n, std::integer_sequence<int, I...>) const {
    apply(y + offset[operands - 1], n, read(static_cast<const X*>(x[I]) + offset[I], n, I)...);
  }
  template <class T>
  ANNEAL_DEVICE Vector<T, width> read(const T* from, int n, int operand) const {
    const bool dense = width > 1 && space.stride[operand][space.rank - 1] == 1;
    if (dense && n == width) return load_vector<width>(from);
    Vector<T, width> v;
    for (int k = 0; k < width; ++k) v[k] = from[dense && k < n ? k : 0];
    return v;
  }
  ANNEAL_DEVICE void apply(Y* to, int n, const Vector<X, width>&... v) const {
    Vector<Y, width> result;
    for (int k = 0; k < width; ++k) result[k] = store<Y>(f(load(v[k])...));
    if (n == width) {
      store_vector(to, result);
    } else {
      for (int k = 0; k < width; ++k) {
        if (k < n) to[k] = result[k];
      }
    }
  }
};

/// Whether an operand of type T can be gone through in vectors of this width.
template <class T, int Operands>
bool fits(const Space<Operands>& space, int operand, const void* p, int width) {
  const int last = space.rank - 1;
  const std::int64_t* const stride = space.stride[operand];
  if (last > 0 && space.size[last] % width != 0) return false;
  if (stride[last] == 0 && operand < Operands - 1) return true;
  bool all =
      stride[last] == 1 && reinterpret_cast<std::uintptr_t>(p) % (static_cast<std::size_t>(width) * sizeof(T)) == 0;
  for (int d = 0; d < last; ++d) all = all && stride[d] % width == 0;
  return all;
}

/// The space without dimensions of size 1, but with one dimension at least.
template <int Operands>
Space<Operands> squeeze(const Space<Operands>& space) {
  Space<Operands> result{};
  for (int d = 0; d < space.rank; ++d) {
    if (space.size[d] == 1) continue;
    result.size[result.rank] = space.size[d];
    for (int operand = 0; operand < Operands; ++operand) {
      result.stride[operand][result.rank] = space.stride[operand][d];
    }
    ++result.rank;
  }
  if (result.rank > 0) return result;
  result.rank = 1;
  result.size[0] = 1;
  for (auto& stride : result.stride) stride[0] = 1;
  return result;
}

/// y = f(x...) over a space; X and Y are the types of the elements. In vectors if `vectors` and the operands allow it;
/// else with `any`, which computes the same as f.
template <bool vectors, class Y, class... X, int Operands, class F, class G>
void map(Stream stream, Space<Operands> space, const F& f, const G& any, Y* y, const X*... x) {
  space = squeeze(space);
  const std::int64_t numel = space.numel();
  if (space.rank > 1 && numel >= std::int64_t{1} << 31) {  // half and half of the largest of the outer dimensions
    const auto dim = std::max_element(space.size, space.size + space.rank - 1) - space.size;
    const std::int64_t size = space.size[dim], half = size / 2;
    space.size[dim] = half;
    map<vectors>(stream, space, f, any, y, x...);
    space.size[dim] = size - half;
    int operand = 0;
    const auto moved = [&](auto* p) { return p + half * space.stride[operand++][dim]; };
    const std::tuple<const X*...> from{moved(x)...};
    std::apply([&](const X*... p) { map<vectors>(stream, space, f, any, moved(y), p...); }, from);
    return;
  }
  if constexpr (vectors) {
    constexpr int width = std::min({vector_size<Y>, vector_size<X>...});
    int operand = 0;
    const bool all = (fits<X>(space, operand++, x, width) && ...);
    if (all && fits<Y>(space, Operands - 1, y, width)) {
      using Kernel = Map<width, F, Y, X...>;
      launch(stream, blocks_for(numel, std::int64_t{Kernel::threads} * width), Kernel{space, f, y, {x..., nullptr}});
      return;
    }
  }
  using Kernel = Map<1, G, Y, X...>;
  launch(stream, blocks_for(numel, Kernel::threads), Kernel{space, any, y, {x..., nullptr}});
}

/// Calls f.operator()<Op>() for the op of this number.
template <class... Ops, class F>
ANNEAL_HD void for_op(TypeList<Ops...>, int id, const F& f) {
  int i = 0;
  ((i++ == id ? f.template operator()<Ops>() : void()), ...);
}

}  // namespace kernels::ANNEAL_GPU
}  // namespace v0
}  // namespace anneal
