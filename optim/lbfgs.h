// L-BFGS: steps that look at the loss more than once.
#pragma once

#include <cstdint>
#include <deque>
#include <string>

#include "anneal/optim/optimizer.h"

namespace anneal {
inline namespace v0 {
namespace optim {

struct LBFGSOptions {
  double lr = 1;
  std::int64_t max_iter = 20;      ///< in one step
  std::int64_t max_eval = 0;       ///< evaluations of the loss in one step; 0: 1.25 * max_iter
  double tolerance_grad = 1e-7;    ///< a step ends when no element of the gradient is larger
  double tolerance_change = 1e-9;  ///< and when neither a parameter nor the loss changes by more
  std::int64_t history_size = 100;
  std::string line_search_fn = {};  ///< "strong_wolfe"; empty: each iteration goes as far as `lr` says
};
/// Limited-memory BFGS, as torch.optim.LBFGS defines it (Nocedal & Wright 2006, algorithms 7.4, 3.5 and 3.6). One group
/// of one dtype and device; it keeps 2 * history_size copies of the parameters, and begins anew where `rebuild` changes
/// them. A step needs StepOptions::closure, and can neither clip nor scale:
///
///   LBFGS lbfgs(model.parameters(), {.line_search_fn = "strong_wolfe"});
///   lbfgs.step({.closure = [&] {
///     lbfgs.zero_grad();
///     Tensor loss = mse_loss(model(x), y);
///     loss.backward();
///     return loss;
///   }});
class LBFGS final : public Optimizer {
 public:
  /// Throws ConfigError for options out of range.
  explicit LBFGS(std::vector<NamedTensor> parameters, LBFGSOptions options = {});
  const char* name() const override { return "LBFGS"; }
  bool needs_closure() const override { return true; }
  /// All evaluations of the loss so far.
  std::int64_t evaluations() const { return evaluations_; }

  StateDict state_dict() const override;
  void load_state_dict(std::span<const NamedTensor> state) override;

 private:
  // The loss at some place, and its gradient there, in the layout of the arena.
  struct Point {
    double loss;
    Tensor gradient;
  };
  // A change of the gradient and of the parameters, and 1 over their product.
  struct Pair {
    Tensor y, s;
    double rho;
  };
  void take_step(const StepOptions& options) override;
  void launch_step(Device device, const kernels::OptimStep& step, std::span<const Tensor> states) const override;

  const Arena& arena() const;
  void forget();
  Point evaluate(const Closure& closure);
  void move(double by);
  void moved();
  void turn(const Tensor& gradient);
  Point search(const Closure& closure, const Point& from, double slope, std::int64_t evaluations);

  LBFGSOptions options_;
  std::deque<Pair> history_;
  Tensor direction_, last_gradient_;
  double step_size_ = 0, scale_ = 1;
  std::int64_t iterations_ = 0, evaluations_ = 0;
};

}  // namespace optim
}  // namespace v0
}  // namespace anneal
