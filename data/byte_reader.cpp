#include "anneal/data/byte_reader.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <system_error>
#include <utility>

#if ANNEAL_HAS_ZLIB
#include <zlib.h>
#endif

#include "anneal/core/error.h"

namespace anneal {
inline namespace v0 {

std::vector<std::byte> read_file(const std::filesystem::path& path) {
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  check(!error, "{}: cannot open: {}", path.string(), error.message());
  std::vector<std::byte> bytes(size);
  std::ifstream file(path, std::ios::binary);
  file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(size));
  check(file.good(), "{}: cannot read: {}", path.string(), std::generic_category().message(errno));
  return bytes;
}

#if ANNEAL_HAS_ZLIB

class ByteReader::Inflater {
 public:
  Inflater() {
    constexpr int gzip_only = 16 + MAX_WBITS;
    check(::inflateInit2(&stream_, gzip_only) == Z_OK, "zlib: cannot start");
  }
  ~Inflater() { ::inflateEnd(&stream_); }
  Inflater(const Inflater&) = delete;
  Inflater& operator=(const Inflater&) = delete;

  std::size_t read(std::span<const std::byte>& from, std::span<std::byte> to, const std::string& name) {
    const std::size_t wanted = to.size();
    while (!to.empty()) {
      if (at_end_) {
        if (from.empty()) break;
        ::inflateReset(&stream_);  // a gzip file may be several, one behind the other
        at_end_ = false;
      }
      constexpr std::size_t most = 1 << 30;  // zlib counts in 32 bits
      const auto available = static_cast<uInt>(std::min(from.size(), most));
      const auto room = static_cast<uInt>(std::min(to.size(), most));
      stream_.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(from.data()));
      stream_.avail_in = available;
      stream_.next_out = reinterpret_cast<Bytef*>(to.data());
      stream_.avail_out = room;
      const int status = ::inflate(&stream_, Z_NO_FLUSH);
      check(status != Z_BUF_ERROR, "{}: the gzip data ends too early", name);
      check(status == Z_OK || status == Z_STREAM_END, "{}: the gzip data is damaged: {}", name,
            stream_.msg ? stream_.msg : ::zError(status));
      from = from.subspan(available - stream_.avail_in);
      to = to.subspan(room - stream_.avail_out);
      at_end_ = status == Z_STREAM_END;
    }
    return wanted - to.size();
  }

 private:
  z_stream stream_{};
  bool at_end_ = false;
};

#else

class ByteReader::Inflater {
 public:
  std::size_t read(std::span<const std::byte>&, std::span<std::byte>, const std::string& name) {
    throw Error(format("{}: is gzipped, and this library was built without zlib; unpack it with gunzip", name));
  }
};

#endif

ByteReader::ByteReader(std::span<const std::byte> bytes, std::string name)
    : bytes_(bytes),
      name_(std::move(name)),
      most_unpacked_(bytes.size() * 1032) {  // deflate's best: 258 bytes from 2 bits
  if (bytes.size() >= 2 && bytes[0] == std::byte{0x1f} && bytes[1] == std::byte{0x8b})
    inflater_ = std::make_unique<Inflater>();
}
ByteReader::~ByteReader() = default;

std::size_t ByteReader::read(std::span<std::byte> to) {
  if (inflater_) return inflater_->read(bytes_, to, name_);
  const std::size_t n = std::min(to.size(), bytes_.size());
  if (n > 0) std::memcpy(to.data(), bytes_.data(), n);
  bytes_ = bytes_.subspan(n);
  return n;
}

}  // namespace v0
}  // namespace anneal
