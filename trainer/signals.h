// Wishes of the system, or of the person at the terminal, that a run ends.
#pragma once

#include <csignal>

namespace anneal {
inline namespace v0 {

/// While it lives, SIGINT and SIGTERM are noted instead of ending the process; a second one has its usual effect at
/// once. Handlers that were there before are called as well, and are back afterwards; a signal that was ignored stays
/// so. Throws Error while another one lives: a process has one handler for each signal.
class SignalScope {
 public:
  SignalScope();
  ~SignalScope();
  SignalScope(const SignalScope&) = delete;
  SignalScope& operator=(const SignalScope&) = delete;

  /// The signal that came, or 0.
  int received() const;
};

}  // namespace v0
}  // namespace anneal
