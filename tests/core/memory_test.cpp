// The allocator, and random numbers.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <set>
#include <thread>

#include "anneal/core/allocator.h"
#include "anneal/core/generator.h"
#include "anneal/core/ops.h"
#include "anneal/kernels/parallel.h"
#include "anneal/tests/temp_folder.h"

using namespace anneal;
using anneal::testing::message_of;

namespace {

// The caching allocator's limit is the process's: put it back whatever happens.
struct Limit {
  explicit Limit(std::size_t bytes) { allocator().set_limit(bytes); }
  ~Limit() { allocator().set_limit(0); }
};

TEST(AllocatorTest, CountsAndReuses) {
  allocator().empty_cache();
  const MemoryStats before = allocator().stats();
  EXPECT_EQ(before.cached, 0u);
  const void* first = nullptr;
  {
    const Tensor x = empty({1000, 100});
    first = x.raw();
    const MemoryStats inside = allocator().stats();
    EXPECT_GE(inside.active - before.active, 400'000u);
    EXPECT_LE(inside.active - before.active, 500'000u);
    EXPECT_EQ(inside.requests, before.requests + 1);
    EXPECT_EQ(inside.misses, before.misses + 1);
    EXPECT_GE(inside.peak, inside.active);
    EXPECT_GE(inside.held_peak, inside.active + inside.cached);
  }
  const MemoryStats after = allocator().stats();
  EXPECT_EQ(after.active, before.active);
  EXPECT_GE(after.cached, 400'000u);
  const Tensor again = empty({99'990});  // a little less is of the same class
  EXPECT_EQ(again.raw(), first);
  EXPECT_EQ(allocator().stats().misses, after.misses);
  EXPECT_EQ(allocator().stats().cached, 0u);
}

TEST(AllocatorTest, Aligns) {
  std::vector<Tensor> kept;
  for (const std::int64_t bytes : {1, 63, 64, 65, 255, 256, 257, 1000, 5000, 100'000, 1'000'003}) {
    kept.push_back(empty({bytes}, {.dtype = DType::u8}));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(kept.back().raw()) % 64, 0u) << bytes;
    kept.back().fill_(1);
  }
  for (const std::int64_t bytes : {1 << 20, (1 << 20) + 1, 3'000'000, 40 << 20}) {
    kept.push_back(empty({bytes}, {.dtype = DType::u8}));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(kept.back().raw()) % 4096, 0u) << bytes;
    kept.back().fill_(1);
  }
  EXPECT_EQ(allocator().allocate(0), nullptr);
  allocator().release(nullptr, 0);
}

TEST(AllocatorTest, SmallerBlocksBecomeALargeOne) {
  allocator().empty_cache();
  std::vector<Tensor> parts;
  for (int i = 0; i < 64; ++i) parts.push_back(full({1 << 18}, i));  // a megabyte each
  for (int i = 0; i < 64; ++i)
    EXPECT_EQ(parts[static_cast<std::size_t>(i)].to_vector(), std::vector<double>(1 << 18, i));
  parts.clear();
  const MemoryStats before = allocator().stats();
  EXPECT_GE(before.cached, std::size_t{64} << 20);
  const Tensor large = empty({1 << 20});
  EXPECT_EQ(allocator().stats().misses, before.misses) << "four of them lie side by side";
  EXPECT_EQ(allocator().stats().active + allocator().stats().cached, before.active + before.cached);
}

TEST(AllocatorTest, LimitAndEmptyCache) {
  { const Tensor kept = empty({1 << 20}); }
  EXPECT_GE(allocator().stats().cached, std::size_t{4} << 20);
  allocator().empty_cache();
  EXPECT_EQ(allocator().stats().cached, 0u);
  const auto [active, failures] = std::pair(allocator().stats().active, allocator().stats().failures);
  {
    const Limit limit(active + (1 << 20));
    const Tensor fits = empty({100'000});
    const std::string error = message_of<OutOfMemory>([] { empty({1 << 20}); });
    EXPECT_NE(error.find("allocating 4194304 bytes would pass the limit"), std::string::npos) << error;
    EXPECT_GE(allocator().stats().active, active + 400'000);
  }
  EXPECT_EQ(allocator().stats().active, active);
  EXPECT_EQ(allocator().stats().failures, failures + 1);
  EXPECT_EQ(empty({1 << 20}).numel(), 1 << 20);
}

TEST(AllocatorTest, MoreThanAnyMemoryHas) {
  for (const std::size_t bytes : {SIZE_MAX, SIZE_MAX - 4095, SIZE_MAX - (std::size_t{2} << 20), SIZE_MAX / 2 + 1}) {
    const std::string error = message_of<OutOfMemory>([&] { allocator().allocate(bytes); });
    EXPECT_NE(error.find("no memory has"), std::string::npos) << error;
  }
}

TEST(AllocatorTest, OneOfTheEmbeddersOwn) {
  struct Counting final : Allocator {
    int live = 0;
    void* allocate(std::size_t bytes) override {
      ++live;
      return std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    }
    void release(void* block, std::size_t) noexcept override {
      if (block) --live;
      std::free(block);
    }
    MemoryStats stats() const override { return {}; }
    void empty_cache() override {}
    void set_limit(std::size_t) override {}
  } counting;
  const Tensor before = ones({10});
  set_allocator({}, &counting);
  EXPECT_EQ(&allocator(), &counting);
  const Tensor x = before + 1;
  EXPECT_GE(counting.live, 1);
  set_allocator({}, nullptr);
  EXPECT_NE(&allocator(), &counting);
  {
    const Tensor moved = x;
    EXPECT_EQ(moved.to_vector(), std::vector<double>(10, 2));
  }
  const_cast<Tensor&>(x) = Tensor();
  EXPECT_EQ(counting.live, 0) << "blocks go back to where they came from";
  EXPECT_NE(message_of<Error>([] { allocator({DeviceKind::cuda, 15}); }).find("cuda:15: "), std::string::npos);
}

TEST(AllocatorTest, ManyThreads) {
  const std::size_t active = allocator().stats().active;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t] {
      for (int i = 0; i < 500; ++i) {
        const std::int64_t large = i % 20 == 0 ? 300'000 : 0;
        const Tensor x = full({large + 1 + (i * 37 + t) % 3000}, t);
        const Tensor y = x + 1;
        ASSERT_EQ(y.to_vector().back(), t + 1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(allocator().stats().active, active);
}

// ---- random numbers ----

TEST(GeneratorTest, SameSeedSameNumbers) {
  Generator a(7);
  Generator b(7);
  Generator other(8);
  EXPECT_EQ(a.next(), b.next());
  EXPECT_NE(a.next(), other.next());
  // Its state is the seed and the offset.
  Generator resumed(a.seed(), a.offset());
  EXPECT_EQ(a.next(), resumed.next());
  EXPECT_EQ(randn({5}, {}, a).to_vector(), randn({5}, {}, resumed).to_vector());
  EXPECT_EQ(a.offset(), resumed.offset());
  EXPECT_NE(randn({5}, {}, a).to_vector(), randn({5}, {}, a).to_vector());
}

TEST(GeneratorTest, CurrentOne) {
  manual_seed(42);
  const auto first = rand({4}).to_vector();
  Generator mine(42);
  {
    const GeneratorScope scope(mine);
    EXPECT_EQ(&current_generator(), &mine);
    EXPECT_EQ(rand({4}).to_vector(), first);
  }
  EXPECT_NE(&current_generator(), &mine);
  manual_seed(42);
  EXPECT_EQ(rand({4}).to_vector(), first);
  // Each thread has its own, seeded 0.
  std::vector<double> other;
  std::thread([&] { other = rand({4}).to_vector(); }).join();
  Generator zero(0);
  EXPECT_EQ(other, rand({4}, {}, zero).to_vector());
}

TEST(GeneratorTest, BelowIsFair) {
  Generator generator(3);
  for (const std::uint64_t bound : {std::uint64_t{1}, std::uint64_t{2}, std::uint64_t{7}}) {
    std::vector<double> counts(bound);
    constexpr int draws = 20'000;
    for (int i = 0; i < draws; ++i) ++counts.at(generator.below(bound));
    const double expected = draws / static_cast<double>(bound);
    for (const double count : counts) EXPECT_NEAR(count, expected, 5 * std::sqrt(expected));
  }
  // Three quarters of the range: taking the remainder alone would draw the lower third twice as often.
  const std::uint64_t bound = std::uint64_t{3} << 62;
  int low = 0;
  for (int i = 0; i < 6000; ++i) low += generator.below(bound) < bound / 3;
  EXPECT_NEAR(low, 2000, 200);
}

TEST(GeneratorTest, DistributionsAndThreads) {
  const auto draw = [](int threads) {
    set_num_threads(threads);
    Generator generator(5);
    std::vector<double> all;
    const Tensor mask = ones({300'000});
    for (const Tensor& x :
         {rand({300'000}, {}, generator), randn({300'000}, {.dtype = DType::f64}, generator),
          randint(-3, 4, {300'000}, {.dtype = DType::i32}, generator), dropout(mask, 0.3, generator)}) {
      const auto values = x.to_vector();
      all.insert(all.end(), values.begin(), values.end());
    }
    set_num_threads(0);
    return all;
  };
  const auto one = draw(1);
  EXPECT_EQ(draw(2), one);
  EXPECT_EQ(draw(3), one);
  const auto moments = [&](std::size_t part) {
    double mean = 0;
    double square = 0;
    for (std::size_t i = part * 300'000; i < (part + 1) * 300'000; ++i) {
      mean += one[i] / 300'000;
      square += one[i] * one[i] / 300'000;
    }
    return std::array{mean, square - mean * mean};
  };
  EXPECT_NEAR(moments(0)[0], 0.5, 0.005);
  EXPECT_NEAR(moments(0)[1], 1.0 / 12, 0.002);
  EXPECT_NEAR(moments(1)[0], 0, 0.01);
  EXPECT_NEAR(moments(1)[1], 1, 0.02);
  EXPECT_NEAR(moments(2)[0], 0, 0.02);
  EXPECT_NEAR(moments(2)[1], 4, 0.04);
  EXPECT_NEAR(moments(3)[0], 1, 0.01);
  EXPECT_EQ(std::set<double>(one.begin() + 600'000, one.begin() + 900'000).size(), 7u);
}

TEST(GeneratorTest, Permutations) {
  Generator generator(1);
  std::set<std::vector<double>> seen;
  for (int i = 0; i < 200; ++i) {
    const auto order = randperm(4, generator).to_vector();
    EXPECT_EQ(std::set<double>(order.begin(), order.end()), (std::set<double>{0, 1, 2, 3}));
    seen.insert(order);
  }
  EXPECT_EQ(seen.size(), 24u);
  EXPECT_EQ(randperm(0).numel(), 0);
  EXPECT_EQ(randperm(1).to_vector(), std::vector<double>{0});
}

}  // namespace
