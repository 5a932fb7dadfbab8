#include "anneal/core/generator.h"

#include <utility>

#include "anneal/kernels/philox.h"

namespace anneal {
inline namespace v0 {
namespace {

thread_local Generator own;
thread_local Generator* current = nullptr;

}  // namespace

std::uint64_t Generator::next() {
  const philox::Block block = philox::block(seed_, reserve(4) / 4);
  return (std::uint64_t{block.word[1]} << 32) | block.word[0];
}

std::uint64_t Generator::below(std::uint64_t bound) {
  // Numbers from the incomplete last multiple of `bound` are drawn again.
  const std::uint64_t excess = (0 - bound) % bound;
  while (true) {
    const std::uint64_t x = next();
    if (x >= excess) return x % bound;
  }
}

Generator& current_generator() { return current ? *current : own; }
void manual_seed(std::uint64_t seed) { current_generator() = Generator(seed); }

GeneratorScope::GeneratorScope(Generator& generator) : before_(std::exchange(current, &generator)) {}
GeneratorScope::~GeneratorScope() { current = before_; }

}  // namespace v0
}  // namespace anneal
