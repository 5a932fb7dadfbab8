// Loss scaling, for gradients that f16 could not hold.
#pragma once

#include <cstdint>

#include "anneal/core/named_tensor.h"
#include "anneal/kernels/kernels.h"

namespace anneal {
inline namespace v0 {
namespace optim {

struct GradScalerOptions {
  double init_scale = 65536;
  double growth_factor = 2;
  double backoff_factor = 0.5;
  std::int64_t growth_interval = 2000;  ///< good steps before the scale grows; 0: it never does
};

/// Multiplies the loss so that small gradients survive 16 bits; `Optimizer::step` divides by the scale again. Gradients
/// that are not finite make the step a skipped one, and the scale smaller; many good steps make it larger. Micikevicius
/// et al. 2018; torch.amp.GradScaler's defaults. The scale lives on the device, so no step waits for the host.
class GradScaler {
 public:
  /// Throws ConfigError for a scale or factors out of range.
  explicit GradScaler(GradScalerOptions options = {});

  /// The loss, multiplied by the scale; call backward on the result.
  Tensor scale(const Tensor& loss);
  /// The numbers as they are now; waits for the device.
  double scale_value() const;
  std::int64_t skipped_steps() const;
  /// Whether the last step was skipped.
  bool found_inf() const;
  /// Moves the scale after steps that left it alone (StepOptions::update_scale): back if one of them was skipped.
  void update(bool skipped);
  /// Sets the scale, as a test of overflow would.
  void set_scale(double scale);

  /// Tensors "scale" (f64), "good_steps" and "skipped_steps" (i64). Copies.
  StateDict state_dict() const;
  /// Throws Error if a name is missing.
  void load_state_dict(std::span<const NamedTensor> state);

  const GradScalerOptions& options() const { return options_; }
  /// The state in the memory of `device`, moved there if it was elsewhere; for optimizers.
  kernels::StepState* state_on(Device device);
  /// That memory, as bytes.
  const Tensor& state() const { return state_; }

 private:
  kernels::StepState read() const;
  void write(const kernels::StepState& state, Device device);

  GradScalerOptions options_;
  Tensor state_;  // the bytes of a StepState
};

}  // namespace optim
}  // namespace v0
}  // namespace anneal
