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

Steps::Steps(std::string name, std::function<std::optional<std::int64_t>(const RunNumbers&)> read)
    : of_run_([name = std::move(name), read = std::move(read)](const RunNumbers& run) {
        const std::optional<std::int64_t> number = read(run);
        check<ConfigError>(number.has_value(),
                           "{}: a schedule needs it, but it is not known: the run has no limit, or a loader no length",
                           name);
        return static_cast<double>(*number);
      }) {}

std::int64_t Steps::in(const RunNumbers& run) const {
  const double value = value_in(run);
  check<ConfigError>(std::isfinite(value), "schedule: a number of steps is {}", value);
  // 0.29 * 100 is meant to be 29.
  return static_cast<std::int64_t>(std::floor(value + 1e-9 * std::fmax(1, std::fabs(value))));
}

Steps Steps::combine(const Steps& a, const Steps& b, std::function<double(double, double)> op) {
  if (a.known() && b.known()) return op(a.value_, b.value_);
  Steps result = 0;
  result.of_run_ = [=](const RunNumbers& run) { return op(a.value_in(run), b.value_in(run)); };
  return result;
}

}  // namespace optim
}  // namespace v0
}  // namespace anneal
