// Sizes and strides, kept inline: at most 8 dimensions.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <ostream>
#include <span>

#include "anneal/kernels/kernels.h"

namespace anneal {
inline namespace v0 {

/// A short list of integers: a tensor's sizes (or strides), outermost first. `{}` is a scalar's.
class Shape {
 public:
  static constexpr int max_rank = kernels::max_rank;

  Shape() = default;
  Shape(std::initializer_list<std::int64_t> sizes) : Shape(std::span(sizes.begin(), sizes.size())) {}
  /// Throws Error for more than 8 dimensions.
  explicit Shape(std::span<const std::int64_t> sizes);

  int rank() const { return rank_; }
  /// Negative dimensions count from the end. Throws Error when there is no such dimension.
  std::int64_t operator[](int dim) const { return sizes_[static_cast<std::size_t>(wrap(dim))]; }
  std::int64_t& operator[](int dim) { return sizes_[static_cast<std::size_t>(wrap(dim))]; }
  const std::int64_t* begin() const { return sizes_.data(); }
  const std::int64_t* end() const { return sizes_.data() + rank_; }
  /// The product of the sizes; 1 for a scalar.
  std::int64_t numel() const {
    std::int64_t n = 1;
    for (std::int64_t size : *this) n *= size;
    return n;
  }
  /// `dim` as a number from 0 to rank - 1. Throws Error when there is no such dimension.
  int wrap(int dim) const {
    const int d = dim < 0 ? dim + rank_ : dim;
    if (d < 0 || d >= rank_) [[unlikely]]
      no_such_dimension(dim);
    return d;
  }
  /// A copy without dimension `dim`; with `size` put before dimension `dim` (which may be the rank).
  Shape without(int dim) const;
  Shape with(int dim, std::int64_t size) const;
  /// Row-major strides of a tensor of this shape.
  Shape contiguous_strides() const;

  friend bool operator==(const Shape& a, const Shape& b) {
    if (a.rank_ != b.rank_) return false;
    for (int d = 0; d < a.rank_; ++d)
      if (a.sizes_[static_cast<std::size_t>(d)] != b.sizes_[static_cast<std::size_t>(d)]) return false;
    return true;
  }
  /// Written as `[64, 784]`.
  friend std::ostream& operator<<(std::ostream& out, const Shape& shape);

 private:
  [[noreturn]] void no_such_dimension(int dim) const;

  std::array<std::int64_t, max_rank> sizes_{};
  int rank_ = 0;
};

/// The shape that two broadcast to, by NumPy's rules. Throws Error, naming `op`, when they do not.
Shape broadcast(const Shape& a, const Shape& b, const char* op);

}  // namespace v0
}  // namespace anneal
