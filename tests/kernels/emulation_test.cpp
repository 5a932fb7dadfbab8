// The emulation of GPU kernels: it computes what a device would, and shows what would only sometimes go wrong there.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <set>
#include <stdexcept>
#include <vector>

#include "anneal/kernels/cuda/model.h"

namespace anneal::testing {
namespace {

namespace gpu = kernels::emulated;
using gpu::Block;

constexpr int launches = 20;

/// What `launches` launches leave in y, which starts as zeros.
template <class Kernel>
std::set<std::vector<std::int64_t>> results(std::size_t size, std::int64_t blocks, std::size_t shared_bytes = 0) {
  std::set<std::vector<std::int64_t>> seen;
  for (int i = 0; i < launches; ++i) {
    std::vector<std::int64_t> y(size);
    gpu::launch({}, blocks, Kernel{y.data()}, shared_bytes);
    seen.insert(y);
  }
  return seen;
}

struct WriteOwnNumber {
  static constexpr int threads = 64;
  std::int64_t* y;
  void operator()(Block& block) const {
    y[block.index() * threads + block.thread()] += block.index() * threads + block.thread() + 1;
    if (block.count() != 3 || block.threads() != threads) y[0] = -1;
  }
};

TEST(Emulation, EachThreadOfEachBlockRunsOnce) {
  std::vector<std::int64_t> want(3 * 64);
  for (std::size_t i = 0; i < want.size(); ++i) want[i] = static_cast<std::int64_t>(i) + 1;
  EXPECT_EQ(results<WriteOwnNumber>(want.size(), 3), (std::set{want}));
  EXPECT_EQ(results<WriteOwnNumber>(1, 0), (std::set{std::vector<std::int64_t>{0}}));
}

/// Reverses a block's numbers through shared memory.
template <bool synced>
struct Reverse {
  static constexpr int threads = 64;
  std::int64_t* y;
  void operator()(Block& block) const {
    auto* const cells = block.shared<std::int64_t>();
    cells[block.thread()] = block.thread();
    if (synced) block.sync();
    y[block.thread()] = cells[threads - 1 - block.thread()];
  }
};

TEST(Emulation, AMissingBarrierShows) {
  std::vector<std::int64_t> want(64);
  for (std::size_t i = 0; i < want.size(); ++i) want[i] = 63 - static_cast<std::int64_t>(i);
  EXPECT_EQ(results<Reverse<true>>(64, 1, 64 * 8), (std::set{want}));
  const auto wrong = results<Reverse<false>>(64, 1, 64 * 8);
  EXPECT_FALSE(wrong.contains(want));
  EXPECT_GT(wrong.size(), 1);
}

/// Folds 64 numbers by halves; without the barrier a half may be read before it is written.
template <bool synced>
struct FoldHalves {
  static constexpr int threads = 64;
  std::int64_t* y;
  void operator()(Block& block) const {
    auto* const cells = block.shared<std::int64_t>();
    cells[block.thread()] = block.thread();
    block.sync();
    for (int half = threads / 2; half > 0; half /= 2) {
      if (block.thread() < half) cells[block.thread()] += cells[block.thread() + half];
      if (synced || half == threads / 2) block.sync();
    }
    if (block.thread() == 0) y[0] = cells[0];
  }
};

TEST(Emulation, AMissingBarrierInALoopShows) {
  const std::vector<std::int64_t> want{64 * 63 / 2};
  EXPECT_EQ(results<FoldHalves<true>>(1, 1, 64 * 8), (std::set{want}));
  EXPECT_NE(results<FoldHalves<false>>(1, 1, 64 * 8), (std::set{want}));
}

/// What a block finds depends on which blocks have run before it.
struct Ticket {
  static constexpr int threads = 32;
  std::int64_t* y;
  void operator()(Block& block) const {
    if (block.thread() == 0) y[1 + block.index()] = gpu::atomic_add(y, std::int64_t{1});
  }
};

TEST(Emulation, TheOrderOfBlocksChangesWithEveryLaunchUnlessItIsFixed) {
  EXPECT_GT(results<Ticket>(101, 100).size(), launches / 2);
  ASSERT_EQ(setenv("ANNEAL_EMULATION_SEED", "5", 1), 0);
  EXPECT_EQ(results<Ticket>(101, 100).size(), 1);
  ASSERT_EQ(unsetenv("ANNEAL_EMULATION_SEED"), 0);
}

/// One thread does not come to the barrier that the others wait at.
struct EndsEarly {
  static constexpr int threads = 64;
  std::int64_t* y;
  void operator()(Block& block) const {
    if (block.thread() == 40) return;
    block.sync();
    y[block.thread()] = 1;
  }
};
struct WaitsElsewhere {
  static constexpr int threads = 64;
  std::int64_t* y;
  void operator()(Block& block) const {
    if (block.thread() % 32 == 3) block.sync();
    else y[block.thread()] = block.shuffle_xor(block.thread(), 1);
  }
};
struct ShufflesDifferently {
  static constexpr int threads = 32;
  std::int64_t* y;
  void operator()(Block& block) const {
    y[block.thread()] = block.shuffle_xor(block.thread(), block.thread() < 16 ? 1 : 2);
  }
};
struct HalfAWarpShuffles {
  static constexpr int threads = 32;
  std::int64_t* y;
  void operator()(Block& block) const {
    if (block.thread() < 16) y[block.thread()] = block.shuffle_down(block.thread(), 1);
  }
};
struct Misaligned {
  static constexpr int threads = 32;
  std::int64_t* y;
  void operator()(Block&) const { gpu::load_vector<4>(reinterpret_cast<const float*>(y) + 1); }
};

TEST(Emulation, WhatADeviceWouldHangOrStopAtThrows) {
  EXPECT_THROW(results<EndsEarly>(64, 3), std::logic_error);
  EXPECT_THROW(results<WaitsElsewhere>(64, 1), std::logic_error);
  EXPECT_THROW(results<ShufflesDifferently>(32, 1), std::logic_error);
  EXPECT_THROW(results<HalfAWarpShuffles>(32, 2), std::logic_error);
  EXPECT_THROW(results<Misaligned>(32, 1), std::logic_error);
  // The next launch is none the worse for it.
  EXPECT_EQ(results<Reverse<true>>(64, 1, 64 * 8).size(), 1);
}

struct Shuffles {
  static constexpr int threads = 64;
  std::int64_t* y;  // [4, threads]
  void operator()(Block& block) const {
    const int t = block.thread();
    y[t] = block.shuffle(std::int64_t{t}, 5);
    y[threads + t] = block.shuffle_down(t, 3);
    y[2 * threads + t] = static_cast<std::int64_t>(block.shuffle_xor(static_cast<double>(t), 17));
    y[3 * threads + t] = static_cast<std::int64_t>(block.shuffle(static_cast<float>(t), 31 - t % 32));
  }
};

TEST(Emulation, ShufflesExchangeWithinAWarp) {
  std::vector<std::int64_t> want(4 * 64);
  for (std::size_t t = 0; t < 64; ++t) {
    const std::size_t warp = t / 32 * 32, lane = t % 32;
    want[t] = static_cast<std::int64_t>(warp + 5);
    want[64 + t] = static_cast<std::int64_t>(lane + 3 < 32 ? t + 3 : t);
    want[128 + t] = static_cast<std::int64_t>(warp + (lane ^ 17));
    want[192 + t] = static_cast<std::int64_t>(warp + 31 - lane);
  }
  EXPECT_EQ(results<Shuffles>(want.size(), 1), (std::set{want}));
}

struct ReadShared {
  static constexpr int threads = 32;
  std::int64_t* y;
  void operator()(Block& block) const {
    auto* const cells = block.shared<double>();
    y[block.index() * threads + block.thread()] = std::isnan(cells[block.thread()]);
    cells[block.thread()] = 1;  // not for the next block to find
  }
};

TEST(Emulation, SharedMemoryStartsAsNaN) {
  EXPECT_EQ(results<ReadShared>(4 * 32, 4, 32 * 8), (std::set{std::vector<std::int64_t>(4 * 32, 1)}));
}

/// y[0] counts, y[1] is the smallest, y[2] the first that came, y[3] where the smallest bad one is.
struct Atomics {
  static constexpr int threads = 96;
  std::int64_t* y;
  void operator()(Block& block) const {
    const std::int64_t i = block.index() * threads + block.thread();
    gpu::atomic_add(y, std::int64_t{2});
    gpu::atomic_min(y + 1, -i);
    if (i % 7 == 6) gpu::report(y + 2, i);
  }
};

TEST(Emulation, AtomicsCountAndTakeTheSmallest) {
  std::set<std::vector<std::int64_t>> seen;
  for (int i = 0; i < launches; ++i) {
    std::vector<std::int64_t> y{0, 0, -1};
    gpu::launch({}, 5, Atomics{y.data()});
    seen.insert(y);
  }
  EXPECT_EQ(seen, (std::set<std::vector<std::int64_t>>{{2 * 5 * 96, -(5 * 96 - 1), 6}}));
  std::int64_t word = 4;
  EXPECT_EQ(gpu::atomic_cas(&word, 3, 9), 4);
  EXPECT_EQ(gpu::atomic_cas(&word, 4, 9), 4);
  EXPECT_EQ(word, 9);
}

/// Of numbers whose sum depends on the order.
struct Reductions {
  static constexpr int threads = 256;
  std::int64_t* y;  // [threads, 2] and a maximum of NaN
  void operator()(Block& block) const {
    const double x = 1.0 / (1 + block.thread());
    const double sum = gpu::block_sum(block, x);
    y[2 * block.thread()] = std::bit_cast<std::int64_t>(sum);
    y[2 * block.thread() + 1] = gpu::block_max(block, (block.thread() * 37) % threads);
    const float most = gpu::block_max(block, block.thread() == 77 ? std::nanf("") : 1.0f);
    if (block.thread() == 0) y[2 * threads] = std::isnan(most);
  }
};

TEST(Emulation, BlockReductionsGiveEveryThreadTheSameBitsInAnyOrder) {
  const auto seen = results<Reductions>(2 * 256 + 1, 1);
  ASSERT_EQ(seen.size(), 1);
  const std::vector<std::int64_t>& y = *seen.begin();
  double want = 0;
  for (int i = 256; i > 0; --i) want += 1.0 / i;
  for (std::size_t t = 0; t < 256; ++t) {
    EXPECT_EQ(y[2 * t], y[0]);
    EXPECT_EQ(y[2 * t + 1], 255);
  }
  EXPECT_NEAR(std::bit_cast<double>(y[0]), want, 1e-13);
  EXPECT_EQ(y[512], 1);
}

TEST(Emulation, AWorkspaceIsTakenBackByTheNextCall) {
  auto* const words = static_cast<std::uint64_t*>(gpu::workspace({}, 100));
  EXPECT_TRUE(gpu::aligned(words));
  EXPECT_EQ(words[11], ~std::uint64_t{0});
  words[11] = 1;
  EXPECT_EQ(static_cast<std::uint64_t*>(gpu::workspace({}, 100))[11], ~std::uint64_t{0});
}

}  // namespace
}  // namespace anneal::testing
