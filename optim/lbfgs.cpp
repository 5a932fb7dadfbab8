#include "anneal/optim/lbfgs.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "anneal/core/autograd.h"
#include "anneal/core/ops.h"
#include "anneal/optim/line_search.h"

namespace anneal {
inline namespace v0 {
namespace optim {
namespace {

constexpr const char* prefix = "lbfgs.";

kernels::OptimGroup numbers_of(const LBFGSOptions& o) {
  check<ConfigError>(o.lr >= 0, "lr: expected at least 0, got {}", o.lr);
  check<ConfigError>(o.max_iter >= 1, "max_iter: expected at least 1, got {}", o.max_iter);
  check<ConfigError>(o.max_eval >= 0, "max_eval: expected at least 0, got {}", o.max_eval);
  check<ConfigError>(o.history_size >= 1, "history_size: expected at least 1, got {}", o.history_size);
  check<ConfigError>(o.line_search_fn.empty() || o.line_search_fn == "strong_wolfe",
                     "line_search_fn: expected strong_wolfe or nothing, got \"{}\"", o.line_search_fn);
  kernels::OptimGroup g{};
  g.lr = o.lr;
  return g;
}

double dot(const Tensor& x, const Tensor& y) { return sum(x * y).item(); }
double largest(const Tensor& x) { return amax(abs(x), std::initializer_list<int>{0}).item(); }

}  // namespace

LBFGS::LBFGS(std::vector<NamedTensor> parameters, LBFGSOptions options)
    : Optimizer({{{}, std::move(parameters), numbers_of(options)}}, {}), options_(std::move(options)) {
  if (options_.max_eval == 0) options_.max_eval = options_.max_iter * 5 / 4;
}

void LBFGS::launch_step(Device, const kernels::OptimStep&, std::span<const Tensor>) const {}

const Arena& LBFGS::arena() const {
  check(groups() == 1 && arenas().size() == 1,
        "LBFGS: expected parameters of one group, dtype and device that require gradients, got {} groups with {}",
        groups(), arenas().size());
  return arenas()[0];
}

LBFGS::Point LBFGS::evaluate(const Closure& closure) {
  const Tensor loss = closure();
  check(loss.defined() && loss.numel() == 1, "LBFGS: expected a loss of one element from the closure");
  ++evaluations_;
  const Tensor gradient = arena().gradients().clone();
  for (const Arena::Slot& slot : arena().slots())
    if (const Leaf* leaf = leaf_of(slot.parameter); !leaf || !leaf->touched) arena().part(gradient, slot).zero_();
  return {loss.item(), gradient};
}

// The parameters are others.
void LBFGS::forget() {
  history_.clear();
  direction_ = last_gradient_ = {};
  scale_ = 1;
  iterations_ = 0;
}

// Along the direction.
void LBFGS::move(double by) {
  arena().values().add_(direction_, by);
  moved();
}

void LBFGS::moved() {
  for (const Arena::Slot& slot : arena().slots()) slot.parameter.bump_version();
}

// The next direction: minus the gradient, times the inverse of the Hessian as the history knows it.
void LBFGS::turn(const Tensor& gradient) {
  if (!direction_.defined()) {
    direction_ = -gradient;
    return;
  }
  const Tensor y = gradient - last_gradient_, s = direction_ * step_size_;
  if (const double ys = dot(y, s); ys > 1e-10) {
    if (std::ssize(history_) == options_.history_size) history_.pop_front();
    history_.push_back({y, s, 1 / ys});
    scale_ = ys / dot(y, y);
  }
  const Tensor q = -gradient;
  std::vector<double> shares(history_.size());
  for (std::size_t i = history_.size(); i-- > 0;) {
    shares[i] = dot(history_[i].s, q) * history_[i].rho;
    q.add_(history_[i].y, -shares[i]);
  }
  q.mul_(scale_);
  for (std::size_t i = 0; i < history_.size(); ++i)
    q.add_(history_[i].s, shares[i] - dot(history_[i].y, q) * history_[i].rho);
  direction_ = q;
}

LBFGS::Point LBFGS::search(const Closure& closure, const Point& from, double slope, std::int64_t evaluations) {
  const Tensor start = arena().values().clone();
  const auto look = [&](double at) -> LinePoint {
    move(at);
    Point point{};
    try {
      point = evaluate(closure);
    } catch (...) {
      arena().values().copy_(start);
      moved();
      throw;
    }
    arena().values().copy_(start);
    const double there = dot(point.gradient, direction_);
    return {at, point.loss, there, std::move(point.gradient)};
  };
  LinePoint found = strong_wolfe(
      {.look = look, .max_looks = evaluations, .longest = largest(direction_), .tolerance = options_.tolerance_change},
      {0, from.loss, slope, from.gradient}, step_size_);
  step_size_ = found.at;
  move(found.at);
  return {found.loss, std::move(found.gradient)};
}

void LBFGS::take_step(const StepOptions& given) {
  check(static_cast<bool>(given.closure), "LBFGS: step needs a closure that computes the loss and its gradients");
  check<ConfigError>(given.clip_norm == 0 && given.clip_value == 0 && !given.scaler,
                     "LBFGS: expected no clipping and no loss scaling, as it compares losses");
  const NoGrad no_grad;
  if (const Tensor& values = arena().values();
      direction_.defined() && (direction_.shape() != values.shape() || direction_.dtype() != values.dtype() ||
                               direction_.device() != values.device()))
    forget();
  const Closure closure = [&] {
    const GradMode grad(true);
    return given.closure();
  };
  const std::int64_t last = evaluations_ + options_.max_eval;
  Point point = evaluate(closure);
  for (std::int64_t i = 1; largest(point.gradient) > options_.tolerance_grad; ++i) {
    ++iterations_;
    turn(point.gradient);
    last_gradient_ = point.gradient;
    const double before = point.loss;
    step_size_ = lr() * (iterations_ == 1 ? std::min(1.0, 1 / sum(abs(point.gradient)).item()) : 1);
    const double slope = dot(point.gradient, direction_);
    if (slope > -options_.tolerance_change) return;
    if (!options_.line_search_fn.empty()) {
      point = search(closure, point, slope, last - evaluations_);
    } else {
      move(step_size_);
      if (i < options_.max_iter) point = evaluate(closure);
    }
    if (i == options_.max_iter || evaluations_ >= last ||
        largest(direction_) * std::abs(step_size_) <= options_.tolerance_change ||
        std::abs(point.loss - before) < options_.tolerance_change)
      return;
  }
}

StateDict LBFGS::state_dict() const {
  StateDict state = Optimizer::state_dict();
  const auto keep = [&](const std::string& name, const Tensor& value) { state.push_back({prefix + name, value}); };
  keep("numbers", tensor({step_size_, scale_, static_cast<double>(iterations_), static_cast<double>(evaluations_)},
                         {.dtype = DType::f64}));
  if (!direction_.defined()) return state;
  keep("direction", direction_.clone());
  keep("last_gradient", last_gradient_.clone());
  for (std::size_t i = 0; i < history_.size(); ++i) {
    keep(format("y.{}", i), history_[i].y.clone());
    keep(format("s.{}", i), history_[i].s.clone());
    keep(format("rho.{}", i), scalar(history_[i].rho, {.dtype = DType::f64}));
  }
  return state;
}

void LBFGS::load_state_dict(std::span<const NamedTensor> state) {
  StateDict others;
  std::map<std::string, Tensor> given;
  for (const NamedTensor& entry : state) {
    if (entry.name.starts_with(prefix)) given.emplace(entry.name.substr(std::string_view(prefix).size()), entry.tensor);
    else others.push_back(entry);
  }
  const auto take = [&](const std::string& name, const Shape& shape, DType dtype) {
    const auto it = given.find(name);
    check(it != given.end(), "LBFGS: the state does not fit:\n  missing: {}{}", prefix, name);
    check(it->second.shape() == shape, "LBFGS: the state does not fit:\n  wrong shape: {}{} is {}, expected {}", prefix,
          name, it->second.shape(), shape);
    return given.extract(it).mapped().to(dtype);
  };
  const std::vector<double> numbers = take("numbers", {4}, DType::f64).to_vector();
  Tensor direction, last_gradient;
  std::deque<Pair> history;
  if (!given.empty()) {
    const auto take_vector = [&](const std::string& name) {
      const Tensor& values = arena().values();
      return take(name, values.shape(), values.dtype()).to(values.device()).clone();
    };
    direction = take_vector("direction");
    last_gradient = take_vector("last_gradient");
    for (std::size_t i = 0; !given.empty(); ++i) {
      const Tensor y = take_vector(format("y.{}", i)), s = take_vector(format("s.{}", i));
      history.push_back({y, s, take(format("rho.{}", i), {}, DType::f64).item()});
    }
  }
  Optimizer::load_state_dict(others);
  step_size_ = numbers[0];
  scale_ = numbers[1];
  iterations_ = static_cast<std::int64_t>(numbers[2]);
  evaluations_ = static_cast<std::int64_t>(numbers[3]);
  direction_ = direction;
  last_gradient_ = last_gradient;
  history_ = std::move(history);
}

}  // namespace optim
}  // namespace v0
}  // namespace anneal
