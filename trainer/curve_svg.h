// Curves as an SVG picture. Private.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace anneal {
inline namespace v0 {

struct Curve {
  std::string name;
  std::vector<double> x, y;  // a y that is not finite is a gap
  std::string panel = {};    // default: the quantity
};

/// `whole`: from 0 on, in whole numbers.
enum class Scale : std::uint8_t { whole, linear, logarithmic };
struct Axis {
  std::string label;
  Scale scale = Scale::whole;
};

/// An <svg> element with one panel for each quantity: "train_loss" and "val_loss" are two curves of "loss".
std::string curves_svg(const std::vector<Curve>& curves, const Axis& x_axis);
/// The same as a file's text.
std::string curves_file(const std::vector<Curve>& curves, const Axis& x_axis);

}  // namespace v0
}  // namespace anneal
