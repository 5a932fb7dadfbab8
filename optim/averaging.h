// Averages of a model's weights over a run: stochastic weight averaging, exponential moving averages.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <variant>
#include <vector>

#include "anneal/core/named_tensor.h"
#include "anneal/optim/optimizer.h"

namespace anneal {
inline namespace v0 {
namespace optim {

/// How an average takes in a value after `count` others (at least one: the first is copied). Either the value's share,
/// for average + share * (value - average) in one pass over all tensors; or a function that is called for each tensor
/// and returns its new average.
using AveragingShare = std::function<double(std::int64_t count)>;
using AveragingFunction = std::function<Tensor(const Tensor& average, const Tensor& value, std::int64_t count)>;
using AveragingRule = std::variant<AveragingShare, AveragingFunction>;

/// The mean of all values. Izmailov et al. 2018.
AveragingRule swa_avg();
/// decay * average + (1 - decay) * value. With `warmup` the decay is at most (1 + count) / (10 + count), so that the
/// first values are soon forgotten. Throws ConfigError for a decay not in [0, 1].
AveragingRule ema_avg(double decay = 0.999, bool warmup = false);

/// Averages of parameters and buffers; torch.optim.swa_utils.AveragedModel. Those of 16-bit tensors are f32; integers
/// are copied.
class AveragedWeights {
 public:
  /// Parameters that lie in the arenas of `optimizer`, which must outlive this, are averaged in one pass for each
  /// arena, which may be the optimizer's own; other tensors, which must be contiguous, one by one. Memory is taken by
  /// the first update: on `device`, to which an update then copies the values, or by default on that of each tensor.
  explicit AveragedWeights(std::vector<NamedTensor> tensors, AveragingRule rule = swa_avg(),
                           Optimizer* optimizer = nullptr, std::optional<Device> device = {});
  AveragedWeights(AveragedWeights&&) noexcept = default;
  AveragedWeights& operator=(AveragedWeights&&) noexcept = default;

  /// Takes in the values as they are now. Tensors may have moved since, into new arenas or to another device.
  void update();
  /// Before the optimizer's step and after it, instead of `update`: where the averages can move in the step's own pass
  /// they do, which saves reading the values again. A step in between that was skipped needs no second call.
  void begin_update();
  void finish_update();
  /// How many values were taken in.
  std::int64_t count() const { return count_; }
  /// The averages by the tensors' names, not copies; none before the first update.
  StateDict averages() const;

  /// Puts the averages into the tensors, or, the next time, their own values back. While the averages are there
  /// `update` and `load_state_dict` throw Error; what else is written into the tensors is lost. Before the first update
  /// there is nothing to swap, and nothing is done.
  void swap();
  bool swapped() const { return swapped_; }

  /// The averages by name, and "averaging.count" (i64). Copies.
  StateDict state_dict() const;
  /// Throws Error, and changes nothing, if a name is missing, unexpected or of another shape.
  void load_state_dict(std::span<const NamedTensor> state);

 private:
  struct Entry {
    NamedTensor own;
    const void* address = nullptr;  // where its values were when the ranges were made
    Tensor average;                 // a view of a range's
  };
  // What one pass takes: an arena, or one tensor.
  struct Range {
    Tensor values, averages, swapped_out;
    std::optional<std::size_t> arena;  // the number of that whose dtype the averages have, too
    std::vector<kernels::Block> blocks;
    Tensor steps;  // the kernel counts here
    struct Tables;
    std::shared_ptr<Tables> tables;
  };
  bool moved() const;
  void find_ranges();
  void add_range(const Tensor& values, const Tensor& averages, std::vector<kernels::Block> blocks,
                 std::optional<std::size_t> arena = {});
  void take_in(bool after_step);
  Device device_for(const Tensor& values) const { return device_.value_or(values.device()); }
  void blend(Range& range, double share);

  std::vector<Entry> entries_;
  AveragingRule rule_;
  Optimizer* optimizer_;
  std::optional<Device> device_;
  std::vector<Range> ranges_;
  std::int64_t count_ = 0;
  bool swapped_ = false;
};

}  // namespace optim
}  // namespace v0
}  // namespace anneal
