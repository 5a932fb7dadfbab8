#include "anneal/trainer/learning_rate_curve.h"

#include <algorithm>
#include <cmath>

#include "anneal/trainer/curve_svg.h"
#include "anneal/trainer/log_format.h"

namespace anneal {
inline namespace v0 {
namespace {

// The number of the point with the steepest fall, by central differences, at the ends by one-sided ones.
std::optional<std::size_t> steepest(const LearningRateCurve& curve, std::size_t skip_begin, std::size_t skip_end) {
  std::vector<std::size_t> points;
  for (std::size_t i = skip_begin; i + skip_end < curve.loss.size(); ++i)
    if (std::isfinite(curve.loss[i])) points.push_back(i);
  std::optional<std::size_t> found;
  double least = 0;
  for (std::size_t k = 0; points.size() > 1 && k < points.size(); ++k) {
    const std::size_t a = points[k > 0 ? k - 1 : 0], b = points[std::min(k + 1, points.size() - 1)];
    const double width = curve.logarithmic ? std::log(curve.lr[b] / curve.lr[a]) : curve.lr[b] - curve.lr[a];
    const double slope = (curve.loss[b] - curve.loss[a]) / width;
    if (slope >= least) continue;
    least = slope;
    found = points[k];
  }
  return found;
}

}  // namespace

std::optional<double> LearningRateCurve::suggestion(std::size_t skip_begin, std::size_t skip_end) const {
  const auto point = steepest(*this, skip_begin, skip_end);
  return point ? std::optional(lr[*point]) : std::nullopt;
}

std::string LearningRateCurve::svg(bool suggest) const {
  std::vector<Curve> curves{{"loss", lr, loss, "loss"}};
  if (const auto point = suggest ? steepest(*this, 10, 1) : std::nullopt)
    curves.push_back({"suggestion: " + shortest(lr[*point]), {lr[*point]}, {loss[*point]}, "loss"});
  return curves_file(curves, {"learning rate", logarithmic ? Scale::logarithmic : Scale::linear});
}

void LearningRateCurve::plot(const std::filesystem::path& path, bool suggest) const {
  replace_file(path, svg(suggest));
}

}  // namespace v0
}  // namespace anneal
