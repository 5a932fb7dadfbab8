// Numbers of steps that hang on a run, named before the run is known.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <type_traits>

namespace anneal {
inline namespace v0 {
namespace optim {

/// What schedules may be made of; unset numbers are not known, or have no limit. Lengths are of one rank's loader, in
/// micro-batches, after limits.
struct RunNumbers {
  std::optional<std::int64_t> num_epochs = {};
  std::optional<std::int64_t> train_dataloader_len = {};
  std::optional<std::int64_t> eval_dataloader_len = {};
  std::optional<std::int64_t> total_steps = {};  ///< of the optimizer, in the whole run
  std::int64_t accumulate_grad_batches = 1;

  /// Steps of the optimizer in an epoch; the last one may be of fewer micro-batches.
  std::optional<std::int64_t> num_update_steps_per_epoch() const;
};

/// A number of the run by its name, to reckon with before it is known.
struct Placeholder {
  const char* name;
  std::optional<std::int64_t> (*read)(const RunNumbers& run);
};
inline constexpr Placeholder num_epochs{"num_epochs", [](const RunNumbers& r) { return r.num_epochs; }};
inline constexpr Placeholder num_update_steps_per_epoch{
    "num_update_steps_per_epoch", [](const RunNumbers& r) { return r.num_update_steps_per_epoch(); }};
/// The same: all ranks step together.
inline constexpr Placeholder per_process_num_update_steps_per_epoch = num_update_steps_per_epoch;
inline constexpr Placeholder train_dataloader_len{"train_dataloader_len",
                                                  [](const RunNumbers& r) { return r.train_dataloader_len; }};
inline constexpr Placeholder eval_dataloader_len{"eval_dataloader_len",
                                                 [](const RunNumbers& r) { return r.eval_dataloader_len; }};
inline constexpr Placeholder total_steps{"total_steps", [](const RunNumbers& r) { return r.total_steps; }};

/// A number of steps: `100`, or one to be worked out from the run's numbers: `num_epochs * 2`, `total_steps / 10 + 5`.
/// What is left of a step in the end is dropped.
class Steps {
 public:
  template <class T>
  requires std::is_arithmetic_v<T> Steps(T value) : value_(static_cast<double>(value)) {}
  Steps(Placeholder number);

  /// Whether it is the same number in every run.
  bool known() const { return !of_run_; }
  /// The number in this run. Throws ConfigError if that hangs on one which is not known, or is not finite.
  std::int64_t in(const RunNumbers& run) const;

 private:
  template <class Op>
  friend Steps combine(const Steps& a, const Steps& b, Op op);
  double value_in(const RunNumbers& run) const { return of_run_ ? of_run_(run) : value_; }

  double value_ = 0;
  std::function<double(const RunNumbers&)> of_run_;  // none: it is `value_`
};

Steps operator+(const Steps& a, const Steps& b);
Steps operator-(const Steps& a, const Steps& b);
Steps operator*(const Steps& a, const Steps& b);
Steps operator/(const Steps& a, const Steps& b);

}  // namespace optim
}  // namespace v0
}  // namespace anneal
