#include "anneal/data/sampler.h"

#include <numeric>

#include "anneal/core/ops.h"
#include "anneal/kernels/philox.h"

namespace anneal {
inline namespace v0 {

Generator epoch_generator(std::uint64_t seed, std::int64_t epoch, std::int64_t item) {
  // Two rounds of Philox as a hash. The last word of the counter is 0 wherever tensors are filled from the same seed.
  const auto mix = [](std::uint64_t key, std::int64_t value) {
    const auto n = static_cast<std::uint64_t>(value);
    const auto [word] = philox::philox4x32({{static_cast<std::uint32_t>(n), static_cast<std::uint32_t>(n >> 32), 0, 1}},
                                           static_cast<std::uint32_t>(key), static_cast<std::uint32_t>(key >> 32));
    return (std::uint64_t{word[1]} << 32) | word[0];
  };
  return Generator(mix(mix(seed, epoch), item));
}

std::vector<std::int64_t> SequentialSampler::order(std::int64_t) const {
  std::vector<std::int64_t> out(static_cast<std::size_t>(size_));
  std::iota(out.begin(), out.end(), std::int64_t{0});
  return out;
}

std::vector<std::int64_t> RandomSampler::order(std::int64_t epoch) const {
  Generator generator = epoch_generator(seed_, epoch, -1);  // the items from 0 on are batches
  const Tensor order = randperm(size_, generator);
  const auto span = order.span<std::int64_t>();
  return {span.begin(), span.end()};
}

}  // namespace v0
}  // namespace anneal
