// Random tensors and dropout.
#include <numeric>

#include "anneal/core/autograd.h"
#include "anneal/core/dispatch.h"
#include "anneal/core/ops.h"
#include "anneal/core/space.h"

namespace anneal {
inline namespace v0 {
namespace {

// The mask is not kept: it is drawn again from the seed and the offset.
Tensor masked(const Tensor& x, double p, std::uint64_t seed, std::uint64_t offset);
struct DropoutRule {
  static constexpr const char* name = "dropout";
  static void backward(const Tensor& dy, Gradients& dx, double p, std::uint64_t seed, std::uint64_t offset) {
    dx.set(0, masked(dy, p, seed, offset));
  }
};
Tensor masked(const Tensor& input, double p, std::uint64_t seed, std::uint64_t offset) {
  const Tensor x = input.contiguous();
  const Tensor y = empty(x.shape(), {.dtype = x.dtype(), .device = x.device()});
  launch(x.device(), kernels::Dropout{x.dtype(), x.numel(), p, seed, offset, x.raw(), y.raw()});
  return record<DropoutRule>(y, {x}, p, seed, offset);
}

Tensor draw(kernels::Distribution distribution, double a, double b, const Shape& shape, TensorOptions options,
            Generator& generator) {
  Tensor y = empty(shape, options);
  const std::uint64_t offset = generator.reserve(static_cast<std::uint64_t>(y.numel()));
  launch(y.device(), kernels::Random{distribution, y.dtype(), y.numel(), a, b, generator.seed(), offset, y.raw()});
  return y;
}

}  // namespace

Tensor dropout(const Tensor& x, double p, Generator& generator) {
  check(p >= 0 && p <= 1, "dropout: p {} is not in [0, 1]", p);
  check(is_floating(x.dtype()), "dropout: expected a floating dtype, got {}", name_of(x.dtype()));
  if (p == 0) return x;
  return masked(x, p, generator.seed(), generator.reserve(static_cast<std::uint64_t>(x.numel())));
}

Tensor rand(const Shape& shape, TensorOptions options, Generator& generator) {
  check(is_floating(options.dtype), "rand: expected a floating dtype, got {}", name_of(options.dtype));
  return draw(kernels::Distribution::uniform, 0, 1, shape, options, generator);
}
Tensor randn(const Shape& shape, TensorOptions options, Generator& generator) {
  check(is_floating(options.dtype), "randn: expected a floating dtype, got {}", name_of(options.dtype));
  return draw(kernels::Distribution::normal, 0, 1, shape, options, generator);
}
Tensor randint(std::int64_t low, std::int64_t high, const Shape& shape, TensorOptions options, Generator& generator) {
  check(low < high, "randint: nothing in [{}, {})", low, high);
  return draw(kernels::Distribution::integer, static_cast<double>(low), static_cast<double>(high), shape, options,
              generator);
}

Tensor randperm(std::int64_t n, Generator& generator) {
  Tensor y = empty({n}, {.dtype = DType::i64});
  const auto values = y.span<std::int64_t>();
  std::iota(values.begin(), values.end(), std::int64_t{0});
  for (std::size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[generator.below(i)]);
  return y;
}

}  // namespace v0
}  // namespace anneal
