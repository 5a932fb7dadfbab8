#include "anneal/optim/line_search.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace anneal {
inline namespace v0 {
namespace optim {
namespace {

// Where the cubic through two points with their slopes is lowest, within bounds.
double cubic_minimum(const LinePoint& p, const LinePoint& q, double lowest, double highest) {
  const auto& [a, b] = p.at <= q.at ? std::pair<const LinePoint&, const LinePoint&>(p, q)
                                    : std::pair<const LinePoint&, const LinePoint&>(q, p);
  const double d = p.slope + q.slope - 3 * (p.loss - q.loss) / (p.at - q.at);
  const double square = d * d - p.slope * q.slope;
  if (!(square >= 0)) return (lowest + highest) / 2;
  const double root = std::sqrt(square);
  const double at = b.at - (b.at - a.at) * ((b.slope + root - d) / (b.slope - a.slope + 2 * root));
  return std::min(std::max(at, lowest), highest);
}

// Two points between which the conditions hold somewhere; `low` has the smaller loss.
struct Bracket {
  LinePoint low, high;
  double left() const { return std::min(low.at, high.at); }
  double right() const { return std::max(low.at, high.at); }
};
Bracket between(LinePoint p, LinePoint q) {
  if (p.loss <= q.loss) return {std::move(p), std::move(q)};
  return {std::move(q), std::move(p)};
}

}  // namespace

LinePoint strong_wolfe(const LineSearch& search, const LinePoint& start, double first) {
  const auto too_high = [&](const LinePoint& p) { return p.loss > start.loss + search.decrease * p.at * start.slope; };
  const auto flat = [&](const LinePoint& p) { return std::abs(p.slope) <= -search.curvature * start.slope; };

  // Ever further, until the interval from the point before has what is looked for.
  LinePoint before = start, point = search.look(first);
  std::int64_t looks = 0;
  for (; looks < search.max_looks; ++looks) {
    if (too_high(point) || (looks > 1 && point.loss >= before.loss)) break;
    if (flat(point)) return point;
    if (point.slope >= 0) break;
    const double at = cubic_minimum(before, point, point.at + 0.01 * (point.at - before.at), point.at * 10);
    before = std::exchange(point, search.look(at));
  }
  if (looks == search.max_looks) before = start;
  Bracket bracket = between(std::move(before), std::move(point));

  // Then inwards. A place close to an end of the interval is taken once; the next time it is moved away from there.
  bool was_close = false;
  for (; looks < search.max_looks; ++looks) {
    const double left = bracket.left(), right = bracket.right();
    if ((right - left) * search.longest < search.tolerance) break;
    double at = cubic_minimum(bracket.low, bracket.high, left, right);
    const double margin = 0.1 * (right - left);
    const bool close = std::min(right - at, at - left) < margin;
    if (close && (was_close || at >= right || at <= left)) {
      at = std::abs(at - right) < std::abs(at - left) ? right - margin : left + margin;
      was_close = false;
    } else {
      was_close = close;
    }
    LinePoint found = search.look(at);
    if (too_high(found) || found.loss >= bracket.low.loss) {
      bracket = between(std::move(bracket.low), std::move(found));
      continue;
    }
    if (flat(found)) return found;
    if (found.slope * (bracket.high.at - bracket.low.at) >= 0) bracket.high = std::move(bracket.low);
    bracket.low = std::move(found);
  }
  return bracket.low;
}

}  // namespace optim
}  // namespace v0
}  // namespace anneal
