// Curves as an SVG picture. Private.
#pragma once

#include <string>
#include <vector>

namespace anneal {
inline namespace v0 {

struct Curve {
  std::string name;
  std::vector<double> x, y;  // a y that is not finite is a gap
};

/// An <svg> element with one panel for each quantity: "train_loss" and "val_loss" are two curves of "loss".
std::string curves_svg(const std::vector<Curve>& curves, const std::string& x_label);

}  // namespace v0
}  // namespace anneal
