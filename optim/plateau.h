// A learning rate that falls when a metric no longer gets better.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "anneal/optim/optimizer.h"

namespace anneal {
inline namespace v0 {
namespace optim {

struct PlateauOptions {
  std::string mode = "min";            ///< what is better: less, or more ("max")
  double factor = 0.1;                 ///< of the rate
  std::int64_t patience = 10;          ///< looks without an improvement that are let pass
  double threshold = 1e-4;             ///< by how much it must be better than the best
  std::string threshold_mode = "rel";  ///< a share of the best, or "abs"
  std::int64_t cooldown = 0;           ///< looks after a reduction that are not counted
  std::vector<double> min_lr = {0};    ///< of all groups, or of each
  double eps = 1e-8;                   ///< smaller reductions are not made
};

/// torch.optim.lr_scheduler.ReduceLROnPlateau. The rates themselves are the optimizer's, which must outlive it.
class ReduceLROnPlateau {
 public:
  /// What a checkpoint keeps.
  struct State {
    double best;  ///< infinity, or minus infinity, before the first look
    std::int64_t num_bad_epochs = 0;
    std::int64_t cooldown_counter = 0;
    std::int64_t steps = 0;
  };

  /// Throws ConfigError for options out of range.
  explicit ReduceLROnPlateau(Optimizer& optimizer, PlateauOptions options = {});
  /// One look at the metric. NaN is no improvement.
  void step(double metric);

  const State& state() const { return state_; }
  void set_state(const State& state) { state_ = state; }

 private:
  bool is_better(double metric) const;
  void reduce();

  Optimizer* optimizer_;
  PlateauOptions options_;
  State state_;
};

}  // namespace optim
}  // namespace v0
}  // namespace anneal
