// Files that are written whole or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

namespace anneal {
inline namespace v0 {

/// A file to read from. Every function throws Error with the file's name and the system's reason.
class InputFile {
 public:
  explicit InputFile(std::filesystem::path path);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  /// Throws Error for what is no regular file.
  std::uint64_t size() const;
  /// Fills `to` from there on.
  void read(std::uint64_t offset, std::span<std::byte> to) const;

 private:
  std::filesystem::path path_;
  int fd_;
};

/// A new file that takes the place of `target` when it is committed, even if the machine stops then: it is written
/// under another name in the same folder, synced and renamed. One that is not committed goes, and leaves what was there
/// before as it was. Throws Error as InputFile does.
class Replacement {
 public:
  explicit Replacement(std::filesystem::path target);
  ~Replacement();
  Replacement(const Replacement&) = delete;
  Replacement& operator=(const Replacement&) = delete;

  void write(std::span<const std::byte> bytes) const;
  void commit();

 private:
  std::filesystem::path target_, path_;
  int fd_ = -1;
};

/// Removes from a folder what processes that are gone have left there of a Replacement. A folder that does not exist
/// has none.
void remove_left_temporaries(const std::filesystem::path& folder);

}  // namespace v0
}  // namespace anneal
