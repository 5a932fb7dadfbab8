// Contexts of execution that hand over to each other, with what the sanitizers must be told of it.
#pragma once

#include <ucontext.h>

#include <cstddef>
#include <memory>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ANNEAL_FIBERS_ASAN
#endif
#if __has_feature(thread_sanitizer)
#define ANNEAL_FIBERS_TSAN
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define ANNEAL_FIBERS_ASAN
#endif
#if defined(__SANITIZE_THREAD__)
#define ANNEAL_FIBERS_TSAN
#endif

#if defined(ANNEAL_FIBERS_ASAN)
#include <pthread.h>
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(ANNEAL_FIBERS_TSAN)
#include <sanitizer/tsan_interface.h>
#endif

namespace anneal {
inline namespace v0 {
namespace kernels::ANNEAL_GPU {

/// A stack, and where its execution stands.
class Fiber {
 public:
  /// The calling context.
  Fiber() {
#if defined(ANNEAL_FIBERS_ASAN)
    pthread_attr_t attributes;
    pthread_getattr_np(pthread_self(), &attributes);
    void* bottom = nullptr;
    pthread_attr_getstack(&attributes, &bottom, &size_);
    pthread_attr_destroy(&attributes);
    bottom_ = static_cast<char*>(bottom);
#endif
#if defined(ANNEAL_FIBERS_TSAN)
    tsan_ = __tsan_get_current_fiber();
#endif
  }
  /// Will call `main`, which never returns, when it is first resumed.
  explicit Fiber(void (*main)()) : stack_(new char[stack_size]), bottom_(stack_.get()), size_(stack_size) {
    getcontext(&context_);
    context_.uc_stack.ss_sp = bottom_;
    context_.uc_stack.ss_size = size_;
    context_.uc_link = nullptr;
    makecontext(&context_, main, 0);
#if defined(ANNEAL_FIBERS_TSAN)
    tsan_ = __tsan_create_fiber(0);
#endif
  }
  ~Fiber() {
#if defined(ANNEAL_FIBERS_ASAN)
    if (stack_) __asan_unpoison_memory_region(bottom_, size_);
#endif
#if defined(ANNEAL_FIBERS_TSAN)
    if (stack_) __tsan_destroy_fiber(tsan_);
#endif
  }
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// Goes on with `next`; returns when something resumes this one, which is the one that runs.
  void hand_over_to(Fiber& next) {
#if defined(ANNEAL_FIBERS_ASAN)
    __sanitizer_start_switch_fiber(&fake_stack_, next.bottom_, next.size_);
#endif
#if defined(ANNEAL_FIBERS_TSAN)
    __tsan_switch_to_fiber(next.tsan_, 0);
#endif
    jump_to(next);
    arrived();
  }
  /// To be called where a fiber's `main` begins.
  void arrived() {
#if defined(ANNEAL_FIBERS_ASAN)
    __sanitizer_finish_switch_fiber(fake_stack_, nullptr, nullptr);
#endif
  }

 private:
  static constexpr std::size_t stack_size = 64 * 1024;

#if defined(__x86_64__) && !defined(__clang__)
  // As swapcontext asks the operating system for the signal mask, every time. (Clang's builtins lose registers.)
  [[gnu::noinline]] void jump_to(Fiber& next) {
    if (__builtin_setjmp(place_) != 0) return;
    left_ = true;
    if (next.left_) __builtin_longjmp(next.place_, 1);
    setcontext(&next.context_);
  }
  void* place_[5];
  bool left_ = false;
#else
  void jump_to(Fiber& next) { swapcontext(&context_, &next.context_); }
#endif

  std::unique_ptr<char[]> stack_;
  char* bottom_ = nullptr;
  std::size_t size_ = 0;
  ucontext_t context_{};
#if defined(ANNEAL_FIBERS_ASAN)
  void* fake_stack_ = nullptr;
#endif
#if defined(ANNEAL_FIBERS_TSAN)
  void* tsan_ = nullptr;
#endif
};

}  // namespace kernels::ANNEAL_GPU
}  // namespace v0
}  // namespace anneal
