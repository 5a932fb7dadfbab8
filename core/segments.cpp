#include "anneal/core/segments.h"

#include <iterator>

namespace anneal {
inline namespace v0 {

void Segments::add(void* segment, std::size_t bytes) {
  mark(blocks_.emplace(static_cast<std::byte*>(segment), Block{bytes, true, true}).first, true);
}

void* Segments::take(std::size_t bytes) {
  const auto fitting = free_.lower_bound(Size(bytes, nullptr));
  if (fitting == free_.end()) return nullptr;
  const auto block = blocks_.find(fitting->second);
  mark(block, false);
  if (const std::size_t rest = block->second.bytes - bytes; rest > 0) {
    block->second.bytes = bytes;
    mark(blocks_.emplace(block->first + bytes, Block{rest, false, true}).first, true);
  }
  return block->first;
}

void Segments::put(void* block) {
  const auto at = blocks_.find(static_cast<std::byte*>(block));
  mark(at, true);
  join_next(at);
  if (!at->second.begins_segment) join_next(std::prev(at));
}

void Segments::drop_free(const std::function<void(void*, std::size_t)>& drop) {
  for (auto at = blocks_.begin(); at != blocks_.end();) {
    if (!at->second.free || !at->second.begins_segment || !ends_segment(at)) {
      ++at;
      continue;
    }
    mark(at, false);
    drop(at->first, at->second.bytes);
    at = blocks_.erase(at);
  }
}

bool Segments::ends_segment(Blocks::const_iterator block) const {
  const auto next = std::next(block);
  return next == blocks_.end() || next->second.begins_segment;
}

void Segments::mark(Blocks::iterator block, bool free) {
  block->second.free = free;
  if (free) free_.emplace(block->second.bytes, block->first);
  else free_.erase(Size(block->second.bytes, block->first));
}

void Segments::join_next(Blocks::iterator block) {
  const auto next = std::next(block);
  if (ends_segment(block) || !block->second.free || !next->second.free) return;
  mark(block, false);
  mark(next, false);
  block->second.bytes += next->second.bytes;
  blocks_.erase(next);
  mark(block, true);
}

}  // namespace v0
}  // namespace anneal
