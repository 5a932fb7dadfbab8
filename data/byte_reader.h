// The bytes of a data file, plain or gzipped.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace anneal {
inline namespace v0 {

/// A whole file. Throws Error when it cannot be read.
std::vector<std::byte> read_file(const std::filesystem::path& path);

/// Reads bytes from the beginning on, unpacking them if they are gzipped (they begin with 1f 8b, whatever the file is
/// called). Without zlib gzipped bytes throw Error.
class ByteReader {
 public:
  /// `bytes` must outlive the reader; errors call them `name`.
  ByteReader(std::span<const std::byte> bytes, std::string name);
  ~ByteReader();
  ByteReader(const ByteReader&) = delete;
  ByteReader& operator=(const ByteReader&) = delete;

  /// Fills `to`, or as much of it as there is: how many bytes. Throws Error for damaged gzip data; its checksum has
  /// been compared once less than `to` came.
  std::size_t read(std::span<std::byte> to);
  /// No more than that many bytes can follow.
  std::uint64_t limit() const { return inflater_ ? most_unpacked_ : bytes_.size(); }

 private:
  class Inflater;

  std::span<const std::byte> bytes_;  // those not yet read
  std::string name_;
  std::unique_ptr<Inflater> inflater_;  // null: plain
  std::uint64_t most_unpacked_;
};

}  // namespace v0
}  // namespace anneal
