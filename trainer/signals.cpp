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
std::array<Handled, 2> ends{{{SIGINT}, {SIGTERM}}};
Handled requeue{0};  // 0: there is none
static_assert(std::atomic<int>::is_always_lock_free);

bool is_function(const struct sigaction& action) {
  return (action.sa_flags & SA_SIGINFO) != 0 || (action.sa_handler != SIG_DFL && action.sa_handler != SIG_IGN);
}

void set_handler(int signal, void (*handler)(int)) {
  struct sigaction action = {};
  action.sa_handler = handler;
  sigaction(signal, &action, nullptr);
}

void note_end(int signal, siginfo_t* info, void* context) {
  if (noted.exchange(signal) != 0) {
    set_handler(signal, SIG_DFL);
    raise(signal);  // takes effect when this function has returned
    return;
  }
  for (const Handled& h : ends) {
    if (h.signal != signal || !is_function(h.before)) continue;
    if ((h.before.sa_flags & SA_SIGINFO) != 0) h.before.sa_sigaction(signal, info, context);
    else h.before.sa_handler(signal);
  }
}

void note_requeue(int signal, siginfo_t*, void*) {
  int none = 0;
  if (noted.compare_exchange_strong(none, signal)) set_handler(SIGTERM, SIG_IGN);
}

// Unless it is ignored.
void handle(const Handled& h, void (*note)(int, siginfo_t*, void*)) {
  struct sigaction action = {};
  action.sa_sigaction = note;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  if (is_function(h.before) || h.before.sa_handler != SIG_IGN) sigaction(h.signal, &action, nullptr);
}

}  // namespace

SignalScope::SignalScope(bool ends_run, int requeue_signal) {
  check(!in_use.exchange(true), "handle_signals: another run of this process handles them already");
  noted = 0;
  for (Handled& h : ends) {
    sigaction(h.signal, nullptr, &h.before);
    if (ends_run) handle(h, note_end);
  }
  requeue.signal = requeue_signal;
  if (requeue_signal == 0) return;
  sigaction(requeue_signal, nullptr, &requeue.before);
  const bool own = is_function(requeue.before) && requeue.before.sa_sigaction != note_end;
  if (!own) handle(requeue, note_requeue);
}

SignalScope::~SignalScope() {
  if (requeue.signal != 0) sigaction(requeue.signal, &requeue.before, nullptr);
  for (const Handled& h : ends) sigaction(h.signal, &h.before, nullptr);
  in_use = false;
}

int SignalScope::received() const { return noted; }
bool SignalScope::exists() { return in_use; }

}  // namespace v0
}  // namespace anneal
