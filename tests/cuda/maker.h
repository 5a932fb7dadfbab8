// Operands of a kernel for two sides: the device, in the dtype under test, and the host in f64 with the same values.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "anneal/kernels/cuda/runtime.h"
#include "anneal/kernels/dtype.h"

namespace anneal::gpu_check {

namespace gpu = kernels::ANNEAL_GPU;

enum class Side { reference, device };
enum class Size { tiny, odd, aligned, large, bench };
/// The dtype of a buffer: that of the kernel, the one it computes in (f32 for 16 bits), or one that is always the same.
struct Kind {
  enum Of { element, wide, fixed } of;
  DType dtype = DType::f32;
};
struct Range {
  double low = -2, high = 2;
};

/// One operand. Guards of 0xff bytes lie around it, and outputs are full of them: in floating types that is NaN.
class Buffer {
 public:
  static constexpr std::size_t guard = 256;

  /// `initial`: what the kernel finds; it starts `offset` bytes behind an aligned address.
  Buffer(Side side, DType dtype, std::vector<std::byte> initial, std::size_t offset, bool is_output, bool has_input);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void* data() const { return memory_ + guard + offset_; }
  DType dtype() const { return dtype_; }
  bool is_output() const { return is_output_; }
  /// What a kernel that touches everything once reads and writes.
  std::int64_t traffic() const { return static_cast<std::int64_t>(initial_.size()) * (has_input_ + is_output_); }

  /// Brings back the initial contents and the guards.
  void reset(kernels::Stream stream);
  /// The contents. Throws std::runtime_error if a guard was written to.
  std::vector<std::byte> read(kernels::Stream stream) const;

 private:
  Side side_;
  DType dtype_;
  std::vector<std::byte> initial_;
  std::size_t offset_;
  bool is_output_, has_input_;
  std::byte* memory_;
};

/// Makes the operands of one kernel. Both sides call the same functions in the same order.
class Maker {
 public:
  /// `dtype`: under test. `same_dtype`: the reference has it too, as for random numbers.
  Maker(Side side, DType dtype, Size size, bool misaligned, bool same_dtype)
      : side_(side), tested_(dtype), size_(size), misaligned_(misaligned), same_dtype_(same_dtype) {}

  Size size() const { return size_; }
  /// The value for the size at hand.
  std::int64_t pick(std::int64_t tiny, std::int64_t odd, std::int64_t aligned, std::int64_t large,
                    std::int64_t bench) const {
    return std::array{tiny, odd, aligned, large, bench}[static_cast<std::size_t>(size_)];
  }
  DType dtype() const { return on_this_side(tested_); }
  DType wide() const { return on_this_side(tested_ == DType::f64 ? DType::f64 : DType::f32); }

  const void* input(std::int64_t n, Range range = {}, Kind kind = {Kind::element}) {
    return add(n, kind, range, true, false);
  }
  void* output(std::int64_t n, Kind kind = {Kind::element}) { return add(n, kind, {}, false, true); }
  void* in_out(std::int64_t n, Range range = {}, Kind kind = {Kind::element}) {
    return add(n, kind, range, true, true);
  }
  template <class T>
  T* output_of(std::int64_t n) {
    return static_cast<T*>(output(n, {Kind::fixed, dtype_of<T>}));
  }
  /// Integers in [0, limit).
  const std::int64_t* indices(std::int64_t n, std::int64_t limit);
  /// The same bytes on both sides; `is_output`: the kernel changes them.
  template <class T>
  T* values(const std::vector<T>& v, DType compared_as = DType::u8, bool is_output = false) {
    const auto bytes = std::as_bytes(std::span(v));
    return static_cast<T*>(add_bytes({bytes.begin(), bytes.end()}, compared_as, 0, is_output, true));
  }

  /// Floating-point operations of the kernel, for its speed.
  void set_flops(double flops) { flops_ = flops; }
  double flops() const { return flops_; }
  std::deque<Buffer>& buffers() { return buffers_; }

 private:
  DType on_this_side(DType dtype) const { return side_ == Side::reference && !same_dtype_ ? DType::f64 : dtype; }
  void* add(std::int64_t n, Kind kind, Range range, bool has_input, bool is_output);
  void* add_bytes(std::vector<std::byte> initial, DType dtype, std::size_t offset, bool is_output, bool has_input);

  Side side_;
  DType tested_;
  Size size_;
  bool misaligned_, same_dtype_;
  double flops_ = 0;
  std::deque<Buffer> buffers_;
};

}  // namespace anneal::gpu_check
