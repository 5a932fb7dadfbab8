// What a run's hooks are called by a profiler. Private.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "anneal/trainer/hook_point.h"
#include "anneal/trainer/training_module.h"

namespace anneal {
inline namespace v0 {

/// "[Callback]Timer.on_train_start", "[Module]Net.training_step": each is made once and stays until `clear`.
class ActionNames {
 public:
  std::string_view of(const Callback& owner, HookPoint point);
  std::string_view of(const TrainingModule& owner, HookPoint point);
  /// Another run may have other owners where the old ones were.
  void clear() { names_.clear(); }

 private:
  std::map<std::pair<const void*, HookPoint>, std::string> names_;
};

}  // namespace v0
}  // namespace anneal
