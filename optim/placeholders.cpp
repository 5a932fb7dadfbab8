#include "anneal/optim/placeholders.h"

#include <cmath>

#include "anneal/core/error.h"

namespace anneal {
inline namespace v0 {
namespace optim {

std::optional<std::int64_t> RunNumbers::num_update_steps_per_epoch() const {
  if (!train_dataloader_len) return {};
  return (*train_dataloader_len + accumulate_grad_batches - 1) / accumulate_grad_batches;
}

Steps::Steps(Placeholder placeholder)
    : of_run_([placeholder](const RunNumbers& run) {
        const std::optional<std::int64_t> number = placeholder.read(run);
        check<ConfigError>(number.has_value(),
                           "{}: a schedule needs it, but it is not known: the run has no limit, or a loader no length",
                           placeholder.name);
        return static_cast<double>(*number);
      }) {}

std::int64_t Steps::in(const RunNumbers& run) const {
  const double value = value_in(run);
  check<ConfigError>(std::isfinite(value), "schedule: a number of steps is {}", value);
  // 0.29 * 100 is meant to be 29.
  return static_cast<std::int64_t>(std::floor(value + 1e-9 * std::fmax(1, std::fabs(value))));
}

template <class Op>
Steps combine(const Steps& a, const Steps& b, Op op) {
  Steps result = op(a.value_, b.value_);
  if (!a.known() || !b.known())
    result.of_run_ = [=](const RunNumbers& run) { return op(a.value_in(run), b.value_in(run)); };
  return result;
}
Steps operator+(const Steps& a, const Steps& b) { return combine(a, b, std::plus()); }
Steps operator-(const Steps& a, const Steps& b) { return combine(a, b, std::minus()); }
Steps operator*(const Steps& a, const Steps& b) { return combine(a, b, std::multiplies()); }
Steps operator/(const Steps& a, const Steps& b) { return combine(a, b, std::divides()); }

}  // namespace optim
}  // namespace v0
}  // namespace anneal
