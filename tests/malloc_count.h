// Counts a test program's calls of malloc and its kin, by being them. Include it in one file of a program.
#pragma once

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "anneal/core/sanitizer.h"

#if ANNEAL_ASAN || defined(__SANITIZE_THREAD__) || !defined(__GLIBC__)
#define ANNEAL_COUNTS 0
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define ANNEAL_COUNTS 0
#endif
#endif
#if !defined(ANNEAL_COUNTS)
#define ANNEAL_COUNTS 1
#endif

namespace anneal::testing {

/// Whether they can be counted in this build: sanitizers have a malloc of their own.
inline constexpr bool counts_malloc = ANNEAL_COUNTS;
inline std::atomic<std::int64_t> malloc_calls{0};

}  // namespace anneal::testing

#if ANNEAL_COUNTS

// glibc's functions under their other names.
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);

void* malloc(std::size_t bytes) noexcept {
  ++anneal::testing::malloc_calls;
  return __libc_malloc(bytes);
}
void* calloc(std::size_t n, std::size_t bytes) noexcept {
  ++anneal::testing::malloc_calls;
  return __libc_calloc(n, bytes);
}
void* realloc(void* block, std::size_t bytes) noexcept {
  ++anneal::testing::malloc_calls;
  return __libc_realloc(block, bytes);
}
void* aligned_alloc(std::size_t alignment, std::size_t bytes) noexcept {
  ++anneal::testing::malloc_calls;
  return __libc_memalign(alignment, bytes);
}
int posix_memalign(void** block, std::size_t alignment, std::size_t bytes) noexcept {
  ++anneal::testing::malloc_calls;
  *block = __libc_memalign(alignment, bytes);
  return *block ? 0 : ENOMEM;
}
}

#endif
