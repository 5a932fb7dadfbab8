// A terminal for tests: what a program writes to stderr, and what is then on the screen.
#pragma once

#include <pty.h>
#include <unistd.h>

#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace anneal::testing {

/// While it lives, stderr is a terminal of so many columns.
class Terminal {
 public:
  explicit Terminal(unsigned short columns) {
    winsize size{.ws_row = 50, .ws_col = columns, .ws_xpixel = 0, .ws_ypixel = 0};
    if (::openpty(&master_, &slave_, nullptr, nullptr, &size) != 0) throw std::runtime_error("no terminal");
    before_ = ::dup(STDERR_FILENO);
    ::dup2(slave_, STDERR_FILENO);
    reader_ = std::thread([this] {
      char buffer[4096];
      for (ssize_t n; (n = ::read(master_, buffer, sizeof buffer)) > 0;) text_.append(buffer, static_cast<size_t>(n));
    });
  }
  ~Terminal() { close(); }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  /// Everything that was written; stderr is what it was before.
  const std::string& close() {
    if (before_ < 0) return text_;
    ::dup2(before_, STDERR_FILENO);
    ::close(before_);
    ::close(slave_);
    before_ = -1;
    reader_.join();  // its read fails when nobody can write any more
    ::close(master_);
    return text_;
  }

 private:
  int master_ = -1, slave_ = -1, before_ = -1;
  std::thread reader_;
  std::string text_;
};

/// The lines on a screen after `text`, without colours. Understands line ends, cursor up and erasing; throws for other
/// control sequences, and for a line that is wider than the screen.
inline std::vector<std::string> screen_of(const std::string& text, std::size_t columns) {
  std::vector<std::string> lines(1);
  std::size_t row = 0, column = 0;
  const auto width = [](const std::string& s) {
    std::size_t n = 0;
    for (const char c : s) n += (c & 0xc0) != 0x80;
    return n;
  };
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\r') {
      column = 0;
    } else if (c == '\n') {
      if (++row == lines.size()) lines.emplace_back();
      column = lines[row].size();
    } else if (c == '\x1b') {
      const std::size_t end = text.find_first_not_of("[0123456789;", i + 1);
      const std::string number = text.substr(i + 2, end - i - 2);
      if (text[end] == 'A') {
        const std::size_t up = number.empty() ? 1 : std::stoul(number);
        if (up > row) throw std::runtime_error("above the first line");
        row -= up;
      } else if (text[end] == 'J') {
        lines.resize(row + 1);
        lines[row].resize(column);
      } else if (text[end] != 'm') {
        throw std::runtime_error("an unknown control sequence: " + text.substr(i + 1, end - i));
      }
      i = end;
    } else {
      if (column != lines[row].size()) throw std::runtime_error("text over text: " + lines[row]);
      lines[row] += c;
      ++column;
      if (width(lines[row]) > columns) throw std::runtime_error("too wide: " + lines[row]);
    }
  }
  while (!lines.empty() && lines.back().empty()) lines.pop_back();
  return lines;
}

}  // namespace anneal::testing
