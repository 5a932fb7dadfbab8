// Large pieces of memory, cut into blocks and put together again.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <set>
#include <utility>

#include "anneal/core/pool.h"

namespace anneal {
inline namespace v0 {

/// Pieces of memory (segments), each cut into blocks. A freed block joins the free ones beside it, so what held many
/// small tensors can hold a large one next. Segments are somebody else's to make and to free. Not thread-safe.
class Segments {
 public:
  /// One more segment, all of it free.
  void add(void* segment, std::size_t bytes);
  /// Cuts `bytes` from the smallest free block that has them; null if none has.
  void* take(std::size_t bytes);
  /// Frees a block.
  void put(void* block);
  /// Hands the segments of which nothing is taken to `drop` and forgets them.
  void drop_free(const std::function<void(void* segment, std::size_t bytes)>& drop);

 private:
  struct Block {
    std::size_t bytes;
    bool begins_segment, free;
  };
  // Their nodes come from the engine's pool: a steady training step makes no call of malloc.
  using Blocks = std::map<std::byte*, Block, std::less<>, PoolAllocator<std::pair<std::byte* const, Block>>>;
  using Size = std::pair<std::size_t, std::byte*>;

  bool ends_segment(Blocks::const_iterator block) const;
  void mark(Blocks::iterator block, bool free);
  void join_next(Blocks::iterator block);

  Blocks blocks_;  // by address
  std::set<Size, std::less<>, PoolAllocator<Size>> free_;
};

}  // namespace v0
}  // namespace anneal
