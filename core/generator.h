// Random numbers: counter-based, so the same on every device and for any number of threads.
#pragma once

#include <cstdint>

namespace anneal {
inline namespace v0 {

/// A stream of Philox 4x32-10 numbers (Salmon et al. 2011). Its state is two integers.
class Generator {
 public:
  explicit Generator(std::uint64_t seed = 0, std::uint64_t offset = 0) : seed_(seed), offset_(offset) {}

  std::uint64_t seed() const { return seed_; }
  /// How many numbers were drawn.
  std::uint64_t offset() const { return offset_; }
  /// Takes the next `n` numbers: the offset of the first.
  std::uint64_t reserve(std::uint64_t n) {
    const std::uint64_t first = offset_;
    offset_ += (n + 3) / 4 * 4;  // whole blocks of four
    return first;
  }
  /// One 64-bit number.
  std::uint64_t next();
  /// An integer in [0, bound), each equally likely. `bound` must not be 0.
  std::uint64_t below(std::uint64_t bound);

 private:
  std::uint64_t seed_;
  std::uint64_t offset_;
};

/// The generator that ops of this thread draw from: the innermost GeneratorScope's, else the thread's own, seeded 0.
Generator& current_generator();
/// Seeds the thread's current generator: `manual_seed(42)` before building a model fixes its weights.
void manual_seed(std::uint64_t seed);

/// While it lives, ops of this thread draw from `generator`.
class GeneratorScope {
 public:
  explicit GeneratorScope(Generator& generator);
  ~GeneratorScope();
  GeneratorScope(const GeneratorScope&) = delete;
  GeneratorScope& operator=(const GeneratorScope&) = delete;

 private:
  Generator* before_;
};

}  // namespace v0
}  // namespace anneal
