#include "anneal/trainer/console.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "anneal/core/format.h"

namespace anneal {
inline namespace v0 {
namespace {

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

bool Console::is_rich() const {
  const auto variable = [](const char* name) -> std::string_view {
    const char* const value = std::getenv(name);
    return value ? value : "";
  };
  std::string_view locale = variable("LC_ALL");
  if (locale.empty()) locale = variable("LC_CTYPE");
  if (locale.empty()) locale = variable("LANG");
  const bool utf8 = locale.find("UTF-8") != locale.npos || locale.find("utf8") != locale.npos;
  return is_terminal_ && utf8 && variable("NO_COLOR").empty() && !variable("TERM").empty() &&
         variable("TERM") != "dumb";
}

// The cursor stands at the end of the last status line.
std::string Console::taken_away() const {
  if (status_.empty()) return {};
  return (status_.size() > 1 ? format("\r\x1b[{}A", status_.size() - 1) : std::string("\r")) + "\x1b[J";
}
std::string Console::drawn() const {
  std::string text;
  for (std::size_t i = 0; i < status_.size(); ++i) text += (i == 0 ? "" : "\n") + status_[i];
  return text;
}

void Console::print(std::string_view line) { sink_(taken_away().append(line).append("\n").append(drawn())); }

void Console::warn(const std::string& text) {
  if (warned_.insert(text).second) print("warning: " + text);
}

void Console::set_status(std::vector<std::string> lines) {
  if (!is_terminal_) return;
  std::string text = taken_away();
  status_ = std::move(lines);
  sink_(text.append(drawn()));
}

void Console::end_status(bool keep) {
  if (status_.empty()) return;
  const std::string text = keep ? "\n" : taken_away();
  status_.clear();
  sink_(text);
}

}  // namespace v0
}  // namespace anneal
