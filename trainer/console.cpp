#include "anneal/trainer/console.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdio>

namespace anneal {
inline namespace v0 {
namespace {

constexpr std::string_view clear_line = "\r\x1b[K";

void write_stderr(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

}  // namespace

Console::Console(std::function<void(std::string_view)> sink)
    : sink_(sink ? std::move(sink) : write_stderr), is_terminal_(false) {
  if (const auto* function = sink_.target<void (*)(std::string_view)>())
    is_terminal_ = *function == write_stderr && isatty(STDERR_FILENO);
}

std::size_t Console::width() const {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

void Console::print(std::string_view line) {
  std::string text = status_.empty() ? std::string() : std::string(clear_line);
  text.append(line).append("\n").append(status_);
  sink_(text);
}

void Console::warn(const std::string& text) {
  if (warned_.insert(text).second) print("warning: " + text);
}

void Console::set_status(std::string line) {
  if (!is_terminal_) return;
  status_ = std::move(line);
  sink_(std::string(clear_line) + status_);
}

void Console::end_status(bool keep) {
  if (status_.empty()) return;
  status_.clear();
  sink_(keep ? std::string_view("\n") : clear_line);
}

}  // namespace v0
}  // namespace anneal
