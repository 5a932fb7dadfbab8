#include "anneal/trainer/event_file.h"

#include <unistd.h>

#include <array>
#include <cstdint>
#include <iomanip>
#include <sstream>

#include "anneal/core/error.h"
#include "anneal/trainer/log_format.h"

namespace anneal {
inline namespace v0 {
namespace {

namespace fs = std::filesystem;

// CRC-32C (Castagnoli), low bit first.
constexpr auto crc_table = [] {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    table[i] = i;
    for (int bit = 0; bit < 8; ++bit) table[i] = (table[i] >> 1) ^ (table[i] & 1 ? 0x82f63b78u : 0);
  }
  return table;
}();

// Checksums are stored masked, lest one of data that holds checksums be weak.
std::uint32_t masked_crc(std::string_view bytes) {
  std::uint32_t crc = ~0u;
  for (const char c : bytes) crc = (crc >> 8) ^ crc_table[(crc ^ static_cast<std::uint8_t>(c)) & 255];
  crc = ~crc;
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

std::string little_endian(std::uint64_t value, int bytes) {
  std::string text;
  for (int i = 0; i < bytes; ++i) text += static_cast<char>(value >> (8 * i));
  return text;
}

std::string host() {
  char name[256] = {};
  return ::gethostname(name, sizeof name - 1) == 0 && name[0] ? name : "localhost";
}

}  // namespace

EventFile::EventFile(const fs::path& folder) {
  fs::create_directories(folder);
  // TensorBoard reads a folder's files in the order of their names.
  const auto seconds = static_cast<std::int64_t>(wall_time());
  for (int number = 0; path_.empty() || fs::exists(path_); ++number) {
    std::ostringstream name;
    name << "events.out.tfevents." << std::setw(10) << std::setfill('0') << seconds << '.' << host() << '.'
         << ::getpid() << '.' << number;
    path_ = folder / name.str();
  }
  out_.open(path_, std::ios::binary);
  check(out_.is_open(), "{}: cannot be written", path_.string());
}

// A record: its size, the size's checksum, its bytes, their checksum.
void EventFile::append(std::string_view record) {
  const std::string size = little_endian(record.size(), 8);
  bytes_ += size + little_endian(masked_crc(size), 4);
  bytes_ += record;
  bytes_ += little_endian(masked_crc(record), 4);
  ++held_;
}

void EventFile::flush() {
  if (held_ == 0) return;
  out_ << bytes_ << std::flush;
  bytes_.clear();
  held_ = 0;
  check(!out_.fail(), "{}: cannot be written", path_.string());
}

}  // namespace v0
}  // namespace anneal
