#include "anneal/data/idx.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "anneal/data/byte_reader.h"

namespace anneal {
inline namespace v0 {
namespace {

enum class Type : int { u8 = 0x08, i8 = 0x09, i16 = 0x0b, i32 = 0x0c, f32 = 0x0d, f64 = 0x0e };

// The size of an element in the file; 0 for an unknown type.
std::int64_t file_size_of(Type type) {
  switch (type) {
    case Type::u8:
    case Type::i8: return 1;
    case Type::i16: return 2;
    case Type::i32:
    case Type::f32: return 4;
    case Type::f64: return 8;
  }
  return 0;
}
DType dtype_of_file(Type type) {
  switch (type) {
    case Type::u8: return DType::u8;
    case Type::f32: return DType::f32;
    case Type::f64: return DType::f64;
    default: return DType::i32;
  }
}

// An unsigned number whose first byte is the highest.
template <class T>
T big_endian(const std::byte* from) {
  T value = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i) value = static_cast<T>(value << 8 | std::to_integer<T>(from[i]));
  return value;
}

// Turns `count` elements as they stand in the file, at the end of x's memory, into x's own. Each is read before its
// place is written, also where it grows.
template <class File, class Bits, class T>
void decode(const Tensor& x, const std::byte* from) {
  T* to = x.data<T>();
  for (std::int64_t i = 0; i < x.numel(); ++i)
    to[i] = static_cast<T>(std::bit_cast<File>(big_endian<Bits>(from + static_cast<std::size_t>(i) * sizeof(Bits))));
}

}  // namespace

Tensor parse_idx(std::span<const std::byte> bytes, const std::string& name) {
  ByteReader reader(bytes, name);
  std::byte magic[4];
  const std::size_t got = reader.read(magic);
  check(got == 4, "{}: expected an IDX file, got {} bytes", name, got);
  const auto type = static_cast<Type>(magic[2]);
  const auto rank = std::to_integer<std::size_t>(magic[3]);
  const std::int64_t element = file_size_of(type);
  check(magic[0] == std::byte{} && magic[1] == std::byte{} && element > 0,
        "{}: expected an IDX file, which begins with the bytes 0 0 and a type in 8 9 11 12 13 14; got {} {} {}", name,
        std::to_integer<int>(magic[0]), std::to_integer<int>(magic[1]), std::to_integer<int>(magic[2]));
  check(rank >= 1 && rank <= Shape::max_rank, "{}: expected 1 to {} dimensions, got {}", name, Shape::max_rank, rank);

  std::byte sizes[Shape::max_rank * 4];
  const std::size_t had = reader.read(std::span(sizes).first(rank * 4));
  check(had == rank * 4, "{}: truncated: {} dimensions need {} bytes, got {}", name, rank, rank * 4, had);
  std::vector<std::int64_t> dims;
  std::int64_t all = element;
  bool fits = true;
  for (std::size_t d = 0; d < rank; ++d) {
    dims.push_back(big_endian<std::uint32_t>(sizes + d * 4));
    // Strides are made of the sizes that are not 0.
    fits = fits && !__builtin_mul_overflow(all, std::max<std::int64_t>(dims.back(), 1), &all);
  }
  const Shape shape{std::span<const std::int64_t>(dims)};
  const bool none = std::ranges::find(dims, 0) != dims.end();
  const std::int64_t expected = none ? 0 : all;
  check(fits, "{}: shape {} needs more bytes than 64 bits can count", name, shape);
  check(static_cast<std::uint64_t>(expected) <= reader.limit(),
        "{}: truncated: shape {} needs {} bytes, at most {} follow", name, shape, expected, reader.limit());

  // The file's elements go to the end of the memory that they are decoded into: they are never larger than the
  // tensor's.
  const Tensor x = empty(shape, {.dtype = dtype_of_file(type)});
  const std::int64_t own = x.numel() * static_cast<std::int64_t>(size_of(x.dtype()));
  const std::span to(static_cast<std::byte*>(x.raw()) + (own - expected), static_cast<std::size_t>(expected));
  const std::size_t came = reader.read(to);
  check(came == to.size(), "{}: truncated: shape {} needs {} bytes, got {}", name, shape, expected, came);
  std::byte more;
  check(reader.read({&more, 1}) == 0, "{}: bytes follow the {} that shape {} needs", name, expected, shape);

  switch (type) {
    case Type::u8: break;
    case Type::i8: decode<std::int8_t, std::uint8_t, std::int32_t>(x, to.data()); break;
    case Type::i16: decode<std::int16_t, std::uint16_t, std::int32_t>(x, to.data()); break;
    case Type::i32: decode<std::int32_t, std::uint32_t, std::int32_t>(x, to.data()); break;
    case Type::f32: decode<float, std::uint32_t, float>(x, to.data()); break;
    case Type::f64: decode<double, std::uint64_t, double>(x, to.data()); break;
  }
  return x;
}

Tensor read_idx(const std::filesystem::path& path) { return parse_idx(read_file(path), path.string()); }

}  // namespace v0
}  // namespace anneal
