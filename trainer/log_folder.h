// The folder in which a run's loggers write.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <variant>

namespace anneal {
inline namespace v0 {

/// 3 is the folder version_3, a text is the folder's name. Unset: one more than the greatest version there is.
using LogVersion = std::optional<std::variant<std::int64_t, std::string>>;

/// 3 of "version_3", -1 of another name.
std::int64_t version_number(const std::string& name);

/// `<save_dir>/<name>/version_<k>` (an empty name: no such level), or `dir` itself if that is given. The version is
/// decided when it is first asked for. Loggers that share one write to one folder:
///
///   TensorBoardLogger tensorboard;
///   CsvLogger csv({}, tensorboard.folder());
class LogFolder {
 public:
  LogFolder(std::filesystem::path save_dir, std::string name, LogVersion version, std::filesystem::path dir = {});
  /// That of a logger's options.
  template <class Options>
  static std::shared_ptr<LogFolder> of(const Options& o) {
    return std::make_shared<LogFolder>(o.save_dir, o.name, o.version, o.dir);
  }

  std::filesystem::path path();
  /// With `dir` that is the save_dir, and there is no name and no version.
  const std::filesystem::path& save_dir() const { return dir_.empty() ? save_dir_ : dir_; }
  std::string name() const { return dir_.empty() ? name_ : ""; }
  /// "3" for version_3, else the folder's name.
  std::string version();

  /// For checkpoints: the folder's name; a resumed run goes on in it unless its options say another.
  std::string state();
  void load_state(const std::string& version);

 private:
  const std::string& folder();

  std::filesystem::path save_dir_, dir_;
  std::string name_;
  std::string version_;  // empty: not decided
  bool given_ = false;   // by the options
};

}  // namespace v0
}  // namespace anneal
