// The one place through which a Trainer writes text.
#pragma once

#include <cstddef>
#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace anneal {
inline namespace v0 {

/// Lines of text, and in a terminal status lines below them that are written again and again.
class Console {
 public:
  /// An empty sink means stderr, which may be a terminal; other sinks get whole lines and no control characters.
  explicit Console(std::function<void(std::string_view)> sink);

  bool is_terminal() const { return is_terminal_; }
  /// Whether it is one that shows colours and UTF-8, by TERM, NO_COLOR, and LC_ALL, LC_CTYPE or LANG.
  bool is_rich() const;
  /// Of the terminal, in columns.
  std::size_t width() const;

  void print(std::string_view line);
  /// Each text once.
  void warn(const std::string& text);

  /// Replaces the status lines, none of them wider than the terminal; only in a terminal.
  void set_status(std::vector<std::string> lines);
  /// Leaves the status lines as ordinary ones, or takes them away.
  void end_status(bool keep);

 private:
  std::string taken_away() const;
  std::string drawn() const;

  std::function<void(std::string_view)> sink_;
  bool is_terminal_;
  std::vector<std::string> status_;
  std::set<std::string> warned_;
};

}  // namespace v0
}  // namespace anneal
