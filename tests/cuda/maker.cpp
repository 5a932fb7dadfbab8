#include "anneal/tests/cuda/maker.h"

#include <cstring>
#include <stdexcept>

#include "anneal/kernels/parallel.h"

namespace anneal::gpu_check {
namespace {

/// A number in [0, 1) that depends on its position alone (splitmix64).
double uniform(std::uint64_t i) {
  std::uint64_t z = (i + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

/// Rounded to `tested`, stored as `stored`.
std::vector<std::byte> random_bytes(std::int64_t n, Range range, DType tested, DType stored, std::uint64_t seed) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(n) * size_of(stored));
  visit(tested, [&]<class T>() {
    visit(stored, [&]<class S>() {
      auto* const to = reinterpret_cast<S*>(bytes.data());
      kernels::parallel_for(n, 1 << 14, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          const double value =
              range.low + (range.high - range.low) * uniform(seed << 40 | static_cast<std::uint64_t>(i));
          to[i] = store<S>(static_cast<double>(load(store<T>(value))));
        }
      });
    });
  });
  return bytes;
}

}  // namespace

Buffer::Buffer(Side side, DType dtype, std::vector<std::byte> initial, std::size_t offset, bool is_output,
               bool has_input)
    : side_(side),
      dtype_(dtype),
      initial_(std::move(initial)),
      offset_(offset),
      is_output_(is_output),
      has_input_(has_input) {
  const std::size_t bytes = guard + offset_ + initial_.size() + guard;
  void* const memory = side == Side::device ? gpu::allocate(bytes) : ::operator new (bytes, std::align_val_t{guard});
  if (!memory) throw std::runtime_error("no memory left on the device");
  memory_ = static_cast<std::byte*>(memory);
  if (side == Side::reference && !initial_.empty()) std::memcpy(data(), initial_.data(), initial_.size());
}
Buffer::~Buffer() {
  if (side_ == Side::device) gpu::release(memory_);
  else ::operator delete (memory_, std::align_val_t{guard});
}

void Buffer::reset(kernels::Stream stream) {
  std::vector<std::byte> image(guard + offset_ + initial_.size() + guard, std::byte{0xff});
  if (!initial_.empty()) std::memcpy(image.data() + guard + offset_, initial_.data(), initial_.size());
  gpu::copy(memory_, image.data(), image.size(), gpu::Copying::to_device, stream);
  gpu::synchronize(stream);
}

std::vector<std::byte> Buffer::read(kernels::Stream stream) const {
  std::vector<std::byte> image(guard + offset_ + initial_.size() + guard);
  if (side_ == Side::reference) {
    if (!initial_.empty()) std::memcpy(image.data() + guard + offset_, data(), initial_.size());
  } else {
    gpu::copy(image.data(), memory_, image.size(), gpu::Copying::to_host, stream);
    gpu::synchronize(stream);
    for (std::size_t i = 0; i < image.size(); ++i) {
      const bool inside = i >= guard + offset_ && i < guard + offset_ + initial_.size();
      if (inside) i = guard + offset_ + initial_.size() - 1;
      else if (image[i] != std::byte{0xff}) throw std::runtime_error("wrote outside of a buffer");
    }
  }
  image.resize(image.size() - guard);
  image.erase(image.begin(), image.begin() + static_cast<std::ptrdiff_t>(guard + offset_));
  return image;
}

const std::int64_t* Maker::indices(std::int64_t n, std::int64_t limit) {
  std::vector<std::int64_t> v(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < v.size(); ++i)
    v[i] = static_cast<std::int64_t>(uniform(i + 77) * static_cast<double>(limit));
  return values(v);
}

void* Maker::add(std::int64_t n, Kind kind, Range range, bool has_input, bool is_output) {
  const DType tested = kind.of == Kind::fixed                           ? kind.dtype
                       : kind.of == Kind::wide && tested_ != DType::f64 ? DType::f32
                                                                        : tested_;
  const DType stored = kind.of == Kind::fixed ? kind.dtype : on_this_side(tested);
  const auto size = static_cast<std::size_t>(n) * size_of(stored);
  return add_bytes(has_input ? random_bytes(n, range, tested, stored, buffers_.size())
                             : std::vector<std::byte>(size, std::byte{0xff}),
                   stored, misaligned_ ? size_of(stored) : 0, is_output, has_input);
}

void* Maker::add_bytes(std::vector<std::byte> initial, DType dtype, std::size_t offset, bool is_output,
                       bool has_input) {
  return buffers_.emplace_back(side_, dtype, std::move(initial), offset, is_output, has_input).data();
}

}  // namespace anneal::gpu_check
