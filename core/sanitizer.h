// What AddressSanitizer must be told of memory that is kept for reuse. Private.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define ANNEAL_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ANNEAL_ASAN 1
#endif
#endif
#if !defined(ANNEAL_ASAN)
#define ANNEAL_ASAN 0
#endif

#if ANNEAL_ASAN
#include <sanitizer/asan_interface.h>
#endif

namespace anneal {
inline namespace v0 {

/// Makes any access to the bytes an error, until they are unpoisoned.
inline void poison([[maybe_unused]] const void* p, [[maybe_unused]] std::size_t bytes) {
#if ANNEAL_ASAN
  __asan_poison_memory_region(p, bytes);
#endif
}
inline void unpoison([[maybe_unused]] const void* p, [[maybe_unused]] std::size_t bytes) {
#if ANNEAL_ASAN
  __asan_unpoison_memory_region(p, bytes);
#endif
}

}  // namespace v0
}  // namespace anneal
