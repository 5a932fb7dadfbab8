#include "anneal/core/pool.h"

#include <array>
#include <mutex>
#include <new>

#include "anneal/core/sanitizer.h"

namespace anneal {
inline namespace v0 {

#if ANNEAL_ASAN

// Under AddressSanitizer every object is a block of its own, so that a use after free is seen.
void* pool_allocate(std::size_t bytes) { return ::operator new(bytes); }
void pool_release(void* block, std::size_t) noexcept { ::operator delete(block); }

#else
namespace {

// Sizes are rounded up to a multiple of 32. A thread keeps up to `kept` free blocks of each size; more are handed, all
// at once, to a shared list, where a thread that has none left finds them (loader threads allocate what the trainer
// frees).
constexpr std::size_t step = 32;
constexpr std::size_t classes = 32;
constexpr int kept = 256;

struct Free {
  Free* next;
};
struct Shared {
  std::mutex mutex;
  std::array<Free*, classes> heads{};
};
// Never destroyed: objects may be freed while the program's own statics are.
Shared& shared() {
  static Shared& instance = *new Shared;
  return instance;
}

struct Local {
  std::array<Free*, classes> heads{};
  std::array<int, classes> counts{};

  void give_all(std::size_t c) {
    if (!heads[c]) return;
    Free* last = heads[c];
    while (last->next) last = last->next;
    const std::lock_guard lock(shared().mutex);
    last->next = shared().heads[c];
    shared().heads[c] = std::exchange(heads[c], nullptr);
    counts[c] = 0;
  }
  void take(std::size_t c) {
    const std::lock_guard lock(shared().mutex);
    for (Free*& from = shared().heads[c]; from && counts[c] < kept / 2; ++counts[c]) {
      Free* block = std::exchange(from, from->next);
      block->next = std::exchange(heads[c], block);
    }
  }
  ~Local();
};
thread_local bool local_gone = false;
thread_local Local local;
Local::~Local() {
  for (std::size_t c = 0; c < classes; ++c) give_all(c);
  local_gone = true;
}

}  // namespace

void* pool_allocate(std::size_t bytes) {
  const std::size_t c = (bytes + step - 1) / step;
  if (c >= classes || local_gone) return ::operator new(c* step);
  if (!local.heads[c]) local.take(c);
  if (!local.heads[c]) return ::operator new(c* step);
  --local.counts[c];
  return std::exchange(local.heads[c], local.heads[c]->next);
}

void pool_release(void* block, std::size_t bytes) noexcept {
  const std::size_t c = (bytes + step - 1) / step;
  if (c >= classes || local_gone) return ::operator delete(block);
  if (local.counts[c] >= kept) local.give_all(c);
  local.heads[c] = new (block) Free{local.heads[c]};
  ++local.counts[c];
}

#endif

}  // namespace v0
}  // namespace anneal
