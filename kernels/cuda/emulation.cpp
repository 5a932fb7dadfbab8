#include "anneal/kernels/cuda/emulation.h"

#include <atomic>
#include <cstdlib>
#include <exception>
#include <map>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "anneal/kernels/cuda/fiber.h"
#include "anneal/kernels/cuda/model.h"

namespace anneal {
inline namespace v0 {
namespace kernels::ANNEAL_GPU {
namespace {

/// xorshift64*: good enough to shuffle with, and quick.
class Dice {
 public:
  explicit Dice(std::uint64_t seed) : state_((seed + 1) * 0x9e3779b97f4a7c15u) {}
  std::uint64_t roll(std::uint64_t sides) {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return (state_ * 0x2545f4914f6cdd1du >> 32) % sides;
  }

 private:
  std::uint64_t state_;
};

/// Some permutation of [0, n).
class Permutation {
 public:
  Permutation(std::int64_t n, Dice& dice) : n_(n) {
    const auto sides = static_cast<std::uint64_t>(n);
    start_ = static_cast<std::int64_t>(dice.roll(sides));
    do step_ = 1 + static_cast<std::int64_t>(dice.roll(sides));
    while (std::gcd(step_, n_) != 1);
  }
  std::int64_t operator[](std::int64_t i) const { return (start_ + i * step_) % n_; }

 private:
  std::int64_t n_, start_, step_ = 1;
};

std::uint64_t next_seed() {
  static std::atomic<std::uint64_t> launches{0};
  if (const char* fixed = std::getenv("ANNEAL_EMULATION_SEED")) return std::strtoull(fixed, nullptr, 10);
  return ++launches;
}

constexpr int sync_kind = 0;

}  // namespace

/// The fibers that run the threads of a block. A thread runs until it waits; a fiber that is through with one thread
/// goes on with the next, so that kernels which never wait need one fiber.
class Team {
 public:
  static Team& of_this_thread() {
    thread_local Team team;
    return team;
  }

  void run(std::int64_t blocks, int threads, std::size_t shared_bytes, void (*body)(const void*, Block&),
           const void* kernel);

  /// Makes `thread` wait until `all` threads wait in a group with the same kind.
  void wait(int thread, int first, int all, int kind);
  std::uint64_t exchange(int thread, std::uint64_t word, int from, int kind);

  void* shared() { return shared_.data(); }
  void* scratch() { return scratch_; }

 private:
  /// One more fiber, and the thread it runs.
  struct Worker : Fiber {
    using Fiber::Fiber;
    int thread = -1;
  };
  struct alignas(16) Line {
    unsigned char bytes[16];
  };

  static void work() { of_this_thread().run_threads(); }
  void run_threads();
  void run_block();
  /// Goes on with another worker, or with `launch` if the block is done or stuck.
  void pause();
  Fiber& pick();
  void fail(std::exception_ptr error);

  // The launch.
  void (*body_)(const void*, Block&) = nullptr;
  const void* kernel_ = nullptr;
  std::int64_t blocks_ = 0, index_ = 0;
  int threads_ = 0;
  Dice dice_{0};

  // The block.
  int started_ = 0, finished_ = 0;
  Permutation* order_ = nullptr;
  std::exception_ptr error_;
  std::vector<int> kind_;             // what each thread waits for, or -1
  std::vector<int> waiting_;          // how many threads wait: of each warp, and of the block in the last place
  std::vector<std::uint64_t> words_;  // what each thread gives to a shuffle, twice: a lane may be one shuffle ahead
  std::vector<char> parity_;

  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<Worker*> idle_, runnable_, of_thread_;
  Worker* current_ = nullptr;
  std::unique_ptr<Fiber> launch_;

  std::vector<Line> shared_;
  alignas(16) unsigned char scratch_[32 * 16];
};

void Team::run(std::int64_t blocks, int threads, std::size_t shared_bytes, void (*body)(const void*, Block&),
               const void* kernel) {
  if (blocks == 0) return;
  body_ = body;
  kernel_ = kernel;
  blocks_ = blocks;
  threads_ = threads;
  dice_ = Dice(next_seed());
  launch_ = std::make_unique<Fiber>();
  const auto n = static_cast<std::size_t>(threads);
  of_thread_.assign(n, nullptr);
  kind_.assign(n, -1);
  words_.assign(2 * n, 0);
  parity_.assign(n, 0);
  waiting_.assign(n / 32 + 1, 0);
  shared_ = std::vector<Line>((shared_bytes + sizeof(Line) - 1) / sizeof(Line));  // anew, so that overruns are found
  const Permutation order(blocks, dice_);
  for (std::int64_t i = 0; i < blocks; ++i) {
    index_ = order[i];
    run_block();
  }
}

void Team::run_block() {
  Permutation order(threads_, dice_);
  order_ = &order;
  started_ = finished_ = 0;
  if (!shared_.empty()) std::memset(shared_.data(), 0xff, shared_.size() * sizeof(Line));
  std::memset(scratch_, 0xff, sizeof scratch_);
  current_ = nullptr;
  launch_->hand_over_to(pick());
  if (!error_) return;
  // Their threads will never go on.
  runnable_.clear();
  idle_.clear();
  workers_.clear();
  std::rethrow_exception(std::exchange(error_, nullptr));
}

void Team::run_threads() {
  current_->arrived();
  while (true) {
    Worker& self = *current_;
    while (started_ < threads_ && !error_) {
      self.thread = static_cast<int>((*order_)[started_++]);
      of_thread_[static_cast<std::size_t>(self.thread)] = &self;
      Block block(*this, index_, blocks_, self.thread, threads_);
      try {
        body_(kernel_, block);
      } catch (...) { error_ = std::current_exception(); }
      ++finished_;
    }
    idle_.push_back(&self);
    pause();
  }
}

Fiber& Team::pick() {
  const bool more = started_ < threads_;
  if (error_ || (!more && runnable_.empty())) {
    if (!error_ && finished_ < threads_) {
      error_ = std::make_exception_ptr(std::logic_error("threads wait for others that have ended or wait elsewhere"));
    }
    current_ = nullptr;
    return *launch_;
  }
  if (more && (runnable_.empty() || dice_.roll(2) == 0)) {
    if (idle_.empty()) {
      workers_.push_back(std::make_unique<Worker>(&Team::work));
      idle_.push_back(workers_.back().get());
    }
    current_ = idle_.back();
    idle_.pop_back();
  } else {
    std::swap(runnable_[dice_.roll(runnable_.size())], runnable_.back());
    current_ = runnable_.back();
    runnable_.pop_back();
  }
  return *current_;
}

void Team::pause() {
  Worker& self = *current_;
  Fiber& next = pick();
  if (&next != &self) self.hand_over_to(next);
}

void Team::wait(int thread, int first, int all, int kind) {
  const auto group = static_cast<std::size_t>(kind == sync_kind ? threads_ / 32 : first / 32);
  kind_[static_cast<std::size_t>(thread)] = kind;
  if (++waiting_[group] == all) {
    waiting_[group] = 0;
    for (int t = first; t < first + all; ++t) {
      if (kind_[static_cast<std::size_t>(t)] != kind) throw std::logic_error("the lanes of a warp shuffle differently");
    }
    for (int t = first; t < first + all; ++t) {
      kind_[static_cast<std::size_t>(t)] = -1;
      runnable_.push_back(of_thread_[static_cast<std::size_t>(t)]);
    }
  }
  pause();
}

std::uint64_t Team::exchange(int thread, std::uint64_t word, int from, int kind) {
  const auto me = static_cast<std::size_t>(thread);
  const int first = thread / 32 * 32;
  const auto turn = static_cast<std::size_t>(parity_[me] ^= 1) * static_cast<std::size_t>(threads_);
  words_[turn + me] = word;
  wait(thread, first, 32, kind);
  return words_[turn + static_cast<std::size_t>(first + from)];
}

void Block::sync() { team_.wait(thread_, 0, threads_, sync_kind); }
std::uint64_t Block::exchange_words(std::uint64_t word, int from, int kind) {
  return team_.exchange(thread_, word, from, kind);
}
void* Block::shared_memory() const { return team_.shared(); }
void* Block::scratch_memory() const { return team_.scratch(); }

void launch_blocks(std::int64_t blocks, int threads, std::size_t shared_bytes, void (*body)(const void*, Block&),
                   const void* kernel) {
  Team::of_this_thread().run(blocks, threads, shared_bytes, body, kernel);
}

void* workspace(Stream stream, std::size_t bytes) {
  thread_local std::map<void*, std::vector<std::uint64_t>> of_stream;
  // Anew and full of NaN: what a caller kept, or did not write, shows.
  auto& memory = of_stream[stream.handle];
  memory = std::vector<std::uint64_t>((bytes + 15) / 16 * 2, ~std::uint64_t{0});
  return memory.data();
}

}  // namespace kernels::ANNEAL_GPU
}  // namespace v0
}  // namespace anneal
