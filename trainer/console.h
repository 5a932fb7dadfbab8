// The one place through which a Trainer writes text.
#pragma once

#include <cstddef>
#include <functional>
#include <set>
#include <string>
#include <string_view>

namespace anneal {
inline namespace v0 {

/// Lines of text, and in a terminal a status line below them that is written again and again.
class Console {
 public:
  /// An empty sink means stderr, which may be a terminal; other sinks get whole lines and no control characters.
  explicit Console(std::function<void(std::string_view)> sink);

  bool is_terminal() const { return is_terminal_; }
  /// Of the terminal, in columns.
  std::size_t width() const;

  void print(std::string_view line);
  /// Each text once.
  void warn(const std::string& text);

  /// Replaces the status line; only in a terminal.
  void set_status(std::string line);
  /// Leaves the status line as an ordinary one, or takes it away.
  void end_status(bool keep);

 private:
  std::function<void(std::string_view)> sink_;
  bool is_terminal_;
  std::string status_;
  std::set<std::string> warned_;
};

}  // namespace v0
}  // namespace anneal
