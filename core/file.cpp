#include "anneal/core/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <string>
#include <system_error>
#include <utility>

#include "anneal/core/error.h"

namespace anneal {
inline namespace v0 {
namespace {

[[noreturn]] void fail(const std::filesystem::path& path, const char* what) {
  throw Error(format("{}: cannot {}: {}", path.string(), what, std::generic_category().message(errno)));
}

void sync(int fd, const std::filesystem::path& path) {
  if (::fsync(fd) != 0 && errno != EINVAL) fail(path, "sync");  // EINVAL: this file system has no sync for it
}

// The process that a temporary's name, .<name>.<process>-<count>.tmp, speaks of; 0 for another name.
pid_t writer_of(const std::string& name) {
  if (!name.starts_with('.') || !name.ends_with(".tmp")) return 0;
  const std::size_t end = name.rfind('-'), begin = name.rfind('.', end);
  pid_t process = 0;
  if (end == std::string::npos || begin == std::string::npos) return 0;
  const auto read = std::from_chars(name.data() + begin + 1, name.data() + end, process);
  return read.ptr == name.data() + end ? process : 0;
}

}  // namespace

InputFile::InputFile(std::filesystem::path path)
    : path_(std::move(path)), fd_(::open(path_.c_str(), O_RDONLY | O_CLOEXEC)) {
  if (fd_ < 0) fail(path_, "open");
}
InputFile::~InputFile() { ::close(fd_); }

std::uint64_t InputFile::size() const {
  struct stat status {};
  if (::fstat(fd_, &status) != 0) fail(path_, "read");
  check(S_ISREG(status.st_mode), "{}: expected a regular file", path_.string());
  return static_cast<std::uint64_t>(status.st_size);
}

void InputFile::read(std::uint64_t offset, std::span<std::byte> to) const {
  while (!to.empty()) {
    const ssize_t n = ::pread(fd_, to.data(), to.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(path_, "read");
    check(n > 0, "{}: it became shorter while it was read", path_.string());
    to = to.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
}

Replacement::Replacement(std::filesystem::path target) : target_(std::move(target)) {
  static std::atomic<std::uint64_t> count{0};
  do {
    path_ = target_.parent_path() / format(".{}.{}-{}.tmp", target_.filename().string(), ::getpid(), ++count);
    fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  } while (fd_ < 0 && errno == EEXIST);
  if (fd_ < 0) fail(target_, "write");
}

Replacement::~Replacement() {
  if (fd_ >= 0) ::close(fd_);
  if (!path_.empty()) ::unlink(path_.c_str());
}

void Replacement::write(std::span<const std::byte> bytes) const {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd_, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(path_, "write");
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
}

void Replacement::commit() {
  sync(fd_, path_);
  if (::close(std::exchange(fd_, -1)) != 0) fail(path_, "write");
  if (::rename(path_.c_str(), target_.c_str()) != 0) fail(target_, "replace");
  path_.clear();
  // The new name itself is safe once the folder is.
  const std::filesystem::path folder = target_.has_parent_path() ? target_.parent_path() : ".";
  fd_ = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd_ < 0) fail(folder, "sync");
  sync(fd_, folder);
}

void remove_left_temporaries(const std::filesystem::path& folder) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored))
    if (const pid_t writer = writer_of(entry.path().filename().string());
        writer > 0 && ::kill(writer, 0) != 0 && errno == ESRCH)
      std::filesystem::remove(entry.path(), ignored);
}

}  // namespace v0
}  // namespace anneal
