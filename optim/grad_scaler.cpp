#include "anneal/optim/grad_scaler.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "anneal/core/ops.h"
#include "anneal/optim/step_state.h"

namespace anneal {
inline namespace v0 {
namespace optim {

GradScaler::GradScaler(GradScalerOptions options) : options_(options) {
  const auto positive = [](double x) { return x > 0 && std::isfinite(x); };
  check<ConfigError>(positive(options.init_scale), "init_scale: expected a positive number, got {}",
                     options.init_scale);
  check<ConfigError>(options.growth_factor >= 1 && std::isfinite(options.growth_factor),
                     "growth_factor: expected at least 1, got {}", options.growth_factor);
  check<ConfigError>(options.backoff_factor > 0 && options.backoff_factor <= 1,
                     "backoff_factor: expected a number in (0, 1], got {}", options.backoff_factor);
  check<ConfigError>(options.growth_interval >= 0, "growth_interval: expected at least 0, got {}",
                     options.growth_interval);
  write({.scale = options.init_scale}, {});
}

kernels::StepState GradScaler::read() const { return read_state(state_); }
void GradScaler::write(const kernels::StepState& state, Device device) { state_ = make_state(state, device); }

kernels::StepState* GradScaler::state_on(Device device) {
  if (state_.device() != device) state_ = state_.to(device);
  return static_cast<kernels::StepState*>(state_.raw());
}

Tensor GradScaler::scale(const Tensor& loss) {
  state_on(loss.device());
  const Tensor factor = field(state_, offsetof(kernels::StepState, scale));
  return loss * (loss.dtype() == DType::f64 ? factor.clone() : factor.to(loss.dtype()));
}

double GradScaler::scale_value() const { return read().scale; }
std::int64_t GradScaler::skipped_steps() const { return read().skipped; }
bool GradScaler::found_inf() const { return read().found_inf != 0; }
void GradScaler::update(bool skipped) {
  kernels::StepState state = read();
  const double next = state.scale * (skipped ? options_.backoff_factor : options_.growth_factor);
  state.good_steps = skipped ? 0 : state.good_steps + 1;
  if (skipped || state.good_steps == options_.growth_interval) {
    state.good_steps = 0;
    if (std::isfinite(next)) state.scale = next;
  }
  write(state, state_.device());
}
void GradScaler::set_scale(double scale) {
  kernels::StepState state = read();
  state.scale = scale;
  write(state, state_.device());
}

StateDict GradScaler::state_dict() const {
  const kernels::StepState state = read();
  const auto integer = [](std::int64_t value) {
    const Tensor x = empty({}, {.dtype = DType::i64});
    *x.data<std::int64_t>() = value;
    return x;
  };
  return {{"scale", scalar(state.scale, {.dtype = DType::f64})},
          {"good_steps", integer(state.good_steps)},
          {"skipped_steps", integer(state.skipped)}};
}

void GradScaler::load_state_dict(std::span<const NamedTensor> given) {
  const auto find = [&](std::string_view name) {
    const auto it = std::ranges::find_if(given, [&](const NamedTensor& entry) { return entry.name == name; });
    check(it != given.end(), "GradScaler: the state has no {}", name);
    return it->tensor.item();
  };
  kernels::StepState state{};
  state.scale = find("scale");
  state.good_steps = static_cast<std::int64_t>(find("good_steps"));
  state.skipped = static_cast<std::int64_t>(find("skipped_steps"));
  write(state, state_.device());
}

}  // namespace optim
}  // namespace v0
}  // namespace anneal
