#include "anneal/trainer/signals.h"

#include <array>
#include <atomic>

#include "anneal/core/error.h"

namespace anneal {
inline namespace v0 {
namespace {

struct Handled {
  int signal;
  struct sigaction before = {};
};

// A handler can reach nothing but globals.
std::atomic<bool> in_use = false;
std::atomic<int> noted = 0;
std::array<Handled, 2> handled{{{SIGINT}, {SIGTERM}}};
static_assert(std::atomic<int>::is_always_lock_free);

bool is_function(const struct sigaction& action) {
  return (action.sa_flags & SA_SIGINFO) != 0 || (action.sa_handler != SIG_DFL && action.sa_handler != SIG_IGN);
}

void note(int signal, siginfo_t* info, void* context) {
  if (noted.exchange(signal) != 0) {
    struct sigaction usual = {};
    usual.sa_handler = SIG_DFL;
    sigaction(signal, &usual, nullptr);
    raise(signal);  // takes effect when this function has returned
    return;
  }
  for (const Handled& h : handled) {
    if (h.signal != signal || !is_function(h.before)) continue;
    if ((h.before.sa_flags & SA_SIGINFO) != 0) h.before.sa_sigaction(signal, info, context);
    else h.before.sa_handler(signal);
  }
}

}  // namespace

SignalScope::SignalScope() {
  check(!in_use.exchange(true), "handle_signals: another run of this process handles them already");
  noted = 0;
  struct sigaction action = {};
  action.sa_sigaction = note;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  for (Handled& h : handled) {
    sigaction(h.signal, nullptr, &h.before);
    if (is_function(h.before) || h.before.sa_handler != SIG_IGN) sigaction(h.signal, &action, nullptr);
  }
}

SignalScope::~SignalScope() {
  for (const Handled& h : handled) sigaction(h.signal, &h.before, nullptr);
  in_use = false;
}

int SignalScope::received() const { return noted; }

}  // namespace v0
}  // namespace anneal
