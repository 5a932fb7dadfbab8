// Losses at rising learning rates.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace anneal {
inline namespace v0 {

/// What a search for a learning rate has seen.
struct LearningRateCurve {
  std::vector<double> lr = {};
  std::vector<double> loss = {};  ///< smoothed; NaN where a step had none
  bool logarithmic = true;        ///< slopes and the picture are over log(lr)

  /// The rate at which the loss falls fastest, without the points at the two ends and those that are not finite;
  /// nothing if fewer than two are left, or the loss never falls.
  std::optional<double> suggestion(std::size_t skip_begin = 10, std::size_t skip_end = 1) const;
  /// A picture of the losses, with a dot at the suggestion.
  std::string svg(bool suggest = true) const;
  /// Writes it; makes the folder.
  void plot(const std::filesystem::path& path, bool suggest = true) const;
};

}  // namespace v0
}  // namespace anneal
