// Blocks cut from segments and joined again.
#include "anneal/core/segments.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <vector>

namespace anneal {
namespace {

struct Memory {
  std::vector<std::byte> bytes = std::vector<std::byte>(1 << 20);
  std::byte* at(std::size_t offset) { return bytes.data() + offset; }
};
std::vector<std::size_t> dropped_by(Segments& segments) {
  std::vector<std::size_t> sizes;
  segments.drop_free([&](void*, std::size_t bytes) { sizes.push_back(bytes); });
  return sizes;
}

TEST(Segments, CutsTheSmallestThatFits) {
  Memory memory;
  Segments segments;
  EXPECT_EQ(segments.take(1), nullptr);
  segments.add(memory.at(0), 1000);
  segments.add(memory.at(2000), 300);
  EXPECT_EQ(segments.take(1001), nullptr);
  EXPECT_EQ(segments.take(200), memory.at(2000));
  EXPECT_EQ(segments.take(100), memory.at(2200)) << "what was left of it";
  EXPECT_EQ(segments.take(100), memory.at(0));
  EXPECT_EQ(segments.take(901), nullptr);
  EXPECT_EQ(segments.take(900), memory.at(100));
  EXPECT_EQ(segments.take(1), nullptr);
}

TEST(Segments, FreeNeighboursJoinWhateverTheOrder) {
  Memory memory;
  for (const auto& order : {std::vector{0, 1, 2}, {2, 1, 0}, {0, 2, 1}, {1, 0, 2}}) {
    Segments segments;
    segments.add(memory.at(0), 300);
    std::vector<void*> blocks;
    for (int i = 0; i < 3; ++i) blocks.push_back(segments.take(100));
    for (const int i : order) {
      EXPECT_EQ(segments.take(300), nullptr);
      segments.put(blocks.at(static_cast<std::size_t>(i)));
    }
    EXPECT_EQ(segments.take(300), memory.at(0));
  }
}

TEST(Segments, DoNotJoinEachOther) {
  Memory memory;
  Segments segments;
  segments.add(memory.at(0), 100);
  segments.add(memory.at(100), 100);  // right behind it
  void* const first = segments.take(100);
  void* const second = segments.take(100);
  segments.put(second);
  segments.put(first);
  EXPECT_EQ(segments.take(200), nullptr);
  EXPECT_EQ(dropped_by(segments), (std::vector<std::size_t>{100, 100}));
}

TEST(Segments, DropsOnlyWhatIsWhole) {
  Memory memory;
  Segments segments;
  segments.add(memory.at(0), 500);
  segments.add(memory.at(1000), 400);
  void* const kept = segments.take(450);
  EXPECT_EQ(dropped_by(segments), (std::vector<std::size_t>{400}));
  EXPECT_EQ(segments.take(400), nullptr);
  EXPECT_EQ(segments.take(50), memory.at(450)) << "the rest of the other is still there";
  segments.put(kept);
  EXPECT_TRUE(dropped_by(segments).empty());
  segments.put(memory.at(450));
  EXPECT_EQ(dropped_by(segments), (std::vector<std::size_t>{500}));
  EXPECT_TRUE(dropped_by(segments).empty());
}

TEST(Segments, NeverHandsOutAByteTwice) {
  Memory memory;
  Segments segments;
  std::mt19937 random(1);
  std::map<std::byte*, std::size_t> taken;
  for (std::size_t i = 0; i < 4; ++i) segments.add(memory.at(i << 16), 1 << 16);
  for (int step = 0; step < 20'000; ++step) {
    if (random() % 2 == 0 && !taken.empty()) {
      const auto one = std::next(taken.begin(), static_cast<std::ptrdiff_t>(random() % taken.size()));
      segments.put(one->first);
      taken.erase(one);
      continue;
    }
    const std::size_t bytes = 1 + random() % 20'000;
    auto* const block = static_cast<std::byte*>(segments.take(bytes));
    if (!block) continue;
    const auto next = taken.emplace(block, bytes).first;
    ASSERT_TRUE(std::next(next) == taken.end() || block + bytes <= std::next(next)->first);
    ASSERT_TRUE(next == taken.begin() || std::prev(next)->first + std::prev(next)->second <= block);
    ASSERT_LE(((block - memory.at(0)) & 0xffff) + static_cast<std::ptrdiff_t>(bytes), 1 << 16) << "across segments";
  }
  for (const auto& [block, bytes] : taken) segments.put(block);
  EXPECT_EQ(dropped_by(segments), std::vector<std::size_t>(4, 1 << 16)) << "all of it came together again";
}

}  // namespace
}  // namespace anneal
