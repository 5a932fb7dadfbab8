// Files of records with checksums, as TensorBoard reads them. Private.
#pragma once

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

namespace anneal {
inline namespace v0 {

/// A new file events.out.tfevents.<seconds>.<host>.<process>.<number> in a folder, which is made if need be. Records
/// reach it when they are flushed.
class EventFile {
 public:
  explicit EventFile(const std::filesystem::path& folder);

  void append(std::string_view record);
  /// Throws Error when the file cannot be written.
  void flush();
  /// Records that are not flushed.
  int held() const { return held_; }

 private:
  std::filesystem::path path_;
  std::ofstream out_;
  std::string bytes_;
  int held_ = 0;
};

}  // namespace v0
}  // namespace anneal
