// When a callback that writes rows of its own is to write one. Private.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "anneal/trainer/hook_point.h"

namespace anneal {
inline namespace v0 {

class Trainer;

/// Rows are due when those of step metrics are: the results are the row's x, or nothing.
class RowSchedule {
 public:
  /// In on_train_start.
  void begin_training(const Trainer& trainer);
  /// At the start of a batch: the step that it is part of. Once a step.
  std::optional<std::int64_t> before_training_batch(const Trainer& trainer);
  /// At its end: the step that it made.
  std::optional<std::int64_t> after_training_batch(const Trainer& trainer);
  /// At the start and at the end of an evaluation's batch: its number, from 1, in all evaluations of the kind but the
  /// sanity check, which has no rows.
  std::optional<std::int64_t> before_batch(const Trainer& trainer, Stage kind) const;
  std::optional<std::int64_t> after_batch(const Trainer& trainer, Stage kind);

 private:
  std::int64_t begun_ = 0, made_ = 0;  // the latest step that was asked about at a batch's start, at its end
  std::array<std::int64_t, 5> batches_{};
};

}  // namespace v0
}  // namespace anneal
