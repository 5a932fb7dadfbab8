// Gzip files for tests, made without zlib: the data is stored, not packed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

namespace anneal::testing {

inline std::string little_endian(std::uint64_t value, int bytes) {
  std::string out;
  for (int i = 0; i < bytes; ++i) out += static_cast<char>(value >> (8 * i));
  return out;
}

inline std::string gzipped(std::string_view data) {
  std::uint32_t crc = ~0u;
  for (const char c : data) {
    crc ^= static_cast<std::uint8_t>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0xedb88320u : 0);
  }
  std::string out("\x1f\x8b\x08\0\0\0\0\0\0\xff", 10);
  for (std::size_t at = 0; at == 0 || at < data.size();) {
    const std::size_t n = std::min<std::size_t>(data.size() - at, 0xffff);
    out += at + n == data.size() ? '\1' : '\0';
    out += little_endian(n, 2) + little_endian(~n, 2);
    out += data.substr(at, n);
    at += std::max<std::size_t>(n, 1);
  }
  return out + little_endian(~crc, 4) + little_endian(data.size(), 4);
}

}  // namespace anneal::testing
