// How far to go along a direction. Private.
#pragma once

#include <cstdint>
#include <functional>

#include "anneal/core/tensor.h"

namespace anneal {
inline namespace v0 {
namespace optim {

/// A place on the line: how far along it, the loss there, its slope, and its gradient.
struct LinePoint {
  double at;
  double loss;
  double slope;
  Tensor gradient;
};

struct LineSearch {
  std::function<LinePoint(double at)> look;  ///< the gradient it gives is its own
  std::int64_t max_looks;                    ///< after the first
  double longest;                            ///< the largest element of the direction
  double tolerance = 1e-9;                   ///< an interval in which no parameter changes by more is not divided again
  double decrease = 1e-4, curvature = 0.9;   ///< the two Wolfe conditions' constants
};

/// A point where the loss has fallen enough and its slope is flat enough (the strong Wolfe conditions), or the best one
/// found. `start` is at 0 and goes down; `first` is the first place to look at. Nocedal & Wright 2006, algorithms 3.5
/// and 3.6, with the cubic interpolation and safeguards of minFunc (Schmidt 2005), as torch.optim.LBFGS has them.
LinePoint strong_wolfe(const LineSearch& search, const LinePoint& start, double first);

}  // namespace optim
}  // namespace v0
}  // namespace anneal
