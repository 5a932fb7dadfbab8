#include "anneal/data/mixup.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include "anneal/core/autograd.h"
#include "anneal/core/error.h"
#include "anneal/core/ops.h"

namespace anneal {
inline namespace v0 {
namespace {

constexpr const char* weight_name = "mix_weight";
constexpr const char* mixed_suffix = "_mixed";

// In (0, 1].
double uniform(Generator& generator) { return (static_cast<double>(generator.next() >> 11) + 1) * 0x1p-53; }
double normal(Generator& generator) {
  const double radius = std::sqrt(-2 * std::log(uniform(generator)));
  return radius * std::cos(2 * std::numbers::pi * uniform(generator));
}
// Marsaglia & Tsang 2000.
double gamma(double shape, Generator& generator) {
  if (shape < 1) return gamma(shape + 1, generator) * std::pow(uniform(generator), 1 / shape);
  const double d = shape - 1.0 / 3, c = 1 / std::sqrt(9 * d);
  while (true) {
    const double x = normal(generator), v = std::pow(1 + c * x, 3);
    if (v > 0 && std::log(uniform(generator)) < x * x / 2 + d - d * v + d * std::log(v)) return d * v;
  }
}
double beta(double alpha, Generator& generator) {
  const double a = gamma(alpha, generator), b = gamma(alpha, generator);
  return a + b > 0 ? a / (a + b) : 0.5;
}

void check_alpha(const char* what, double alpha) {
  check<ConfigError>(alpha > 0, "{}: expected an alpha above 0, got {}", what, alpha);
}

void set_mixed(Batch& batch, const MixNames& names, Tensor inputs, const Tensor& other, double weight) {
  const Tensor targets = batch[names.targets];
  batch.set(names.inputs, std::move(inputs));
  batch.set(names.targets + mixed_suffix, index_select(targets, 0, other));
  batch.set(weight_name, full({targets.size(0)}, weight, {.device = targets.device()}));
}

}  // namespace

MixUp::MixUp(double alpha, MixNames names) : alpha_(alpha), names_(std::move(names)) { check_alpha("MixUp", alpha); }

void MixUp::operator()(Batch& batch, Generator& generator) const {
  const NoGrad no_grad;
  const Tensor x = batch[names_.inputs];
  const double weight = beta(alpha_, generator);
  const Tensor other = randperm(x.size(0), generator).to(x.device());
  set_mixed(batch, names_, x * weight + index_select(x, 0, other) * (1 - weight), other, weight);
}

CutMix::CutMix(double alpha, MixNames names) : alpha_(alpha), names_(std::move(names)) { check_alpha("CutMix", alpha); }

void CutMix::operator()(Batch& batch, Generator& generator) const {
  const NoGrad no_grad;
  const Tensor x = batch[names_.inputs];
  check(x.rank() == 4, "CutMix: expected images [n, channels, height, width], got {}", x.shape());
  const double side = std::sqrt(1 - beta(alpha_, generator));
  const Tensor other = randperm(x.size(0), generator).to(x.device());
  // A rectangle of the image's proportions around a random pixel, cut off at the edges.
  const auto range = [&](std::int64_t size) {
    const auto half = static_cast<std::int64_t>(static_cast<double>(size) * side / 2);
    const auto centre = static_cast<std::int64_t>(generator.below(static_cast<std::uint64_t>(size)));
    return std::pair(std::max<std::int64_t>(centre - half, 0), std::min(centre + half, size));
  };
  const auto [top, bottom] = range(x.size(2));
  const auto [left, right] = range(x.size(3));
  const Tensor mixed = x.clone();
  const auto cut = [&, t = top, b = bottom, l = left, r = right](const Tensor& images) {
    return images.slice(2, t, b).slice(3, l, r);
  };
  cut(mixed).copy_(cut(index_select(x, 0, other)));
  const auto pixels = static_cast<double>(x.size(2) * x.size(3));
  set_mixed(batch, names_, mixed, other, 1 - static_cast<double>((bottom - top) * (right - left)) / pixels);
}

Tensor mixed_loss(const Batch& batch, const std::function<Tensor(const Tensor& targets)>& loss,
                  const std::string& targets) {
  const Tensor first = loss(batch[targets]);
  if (!batch.contains(weight_name)) return first;
  const Tensor weight = batch[weight_name].select(0, 0).to(first.dtype());
  return first * weight + loss(batch[targets + mixed_suffix]) * (1.0 - weight);
}

}  // namespace v0
}  // namespace anneal
