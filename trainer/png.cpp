#include "anneal/trainer/png.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace anneal {
inline namespace v0 {
namespace {

std::string big_endian(std::uint32_t value) {
  std::string text;
  for (int shift = 24; shift >= 0; shift -= 8) text += static_cast<char>(value >> shift);
  return text;
}

constexpr auto crc_table = [] {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    table[i] = i;
    for (int bit = 0; bit < 8; ++bit) table[i] = (table[i] >> 1) ^ (table[i] & 1 ? 0xedb88320u : 0);
  }
  return table;
}();

std::string chunk(std::string_view type, std::string_view data) {
  std::string body(type);
  body += data;
  std::uint32_t crc = ~0u;
  for (const char c : body) crc = (crc >> 8) ^ crc_table[(crc ^ static_cast<std::uint8_t>(c)) & 255];
  return big_endian(static_cast<std::uint32_t>(data.size())) + body + big_endian(~crc);
}

// A zlib stream of stored blocks.
std::string stored(std::string_view data) {
  constexpr std::size_t most = 65535;
  std::string out = "\x78\x01";
  for (std::size_t at = 0; at == 0 || at < data.size(); at += most) {
    const std::size_t size = std::min(most, data.size() - at);
    out += static_cast<char>(at + size == data.size());  // the last one
    for (const std::size_t n : {size, ~size}) {
      out += static_cast<char>(n);
      out += static_cast<char>(n >> 8);
    }
    out += data.substr(at, size);
  }
  std::uint32_t a = 1, b = 0;
  for (const char c : data) {
    a = (a + static_cast<std::uint8_t>(c)) % 65521;
    b = (b + a) % 65521;
  }
  return out + big_endian(b << 16 | a);
}

}  // namespace

std::string png(std::span<const std::uint8_t> pixels, std::int64_t height, std::int64_t width, int channels) {
  std::string rows;
  const auto stride = static_cast<std::size_t>(width * channels);
  for (std::int64_t y = 0; y < height; ++y) {
    rows += '\0';  // no filter
    rows.append(reinterpret_cast<const char*>(pixels.data()) + static_cast<std::size_t>(y) * stride, stride);
  }
  const char colour = channels == 1 ? 0 : channels == 3 ? 2 : 6;
  std::string header = big_endian(static_cast<std::uint32_t>(width)) + big_endian(static_cast<std::uint32_t>(height));
  header += {8, colour, 0, 0, 0};  // bits a channel, kind, packing, filters, order of rows
  return "\x89PNG\r\n\x1a\n" + chunk("IHDR", header) + chunk("IDAT", stored(rows)) + chunk("IEND", "");
}

}  // namespace v0
}  // namespace anneal
