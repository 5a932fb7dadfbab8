// Wishes of the system, or of the person at the terminal, that a run ends.
#pragma once

#include <csignal>

namespace anneal {
inline namespace v0 {

/// While it lives, signals are noted instead of ending the process: SIGINT and SIGTERM if it `ends` by them, whose
/// second one has its usual effect at once, and a `requeue` signal unless that is 0, after which another one and
/// SIGTERM are ignored. Handlers of the first two that were there before are called as well, and are back afterwards;
/// one for the requeue signal is left alone, and a signal that was ignored stays so. Throws Error while another one
/// lives: a process has one handler for each signal.
class SignalScope {
 public:
  explicit SignalScope(bool ends = true, int requeue = 0);
  ~SignalScope();
  SignalScope(const SignalScope&) = delete;
  SignalScope& operator=(const SignalScope&) = delete;

  /// The signal that came, or 0.
  int received() const;
  /// Whether there is one in this process.
  static bool exists();
};

}  // namespace v0
}  // namespace anneal
