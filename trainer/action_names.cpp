#include "anneal/trainer/action_names.h"

#include "anneal/core/format.h"
#include "anneal/core/type_name.h"

namespace anneal {
inline namespace v0 {

std::string_view ActionNames::of(const Callback& owner, HookPoint point) {
  std::string& name = names_[{&owner, point}];
  if (name.empty()) name = format("[Callback]{}.{}", short_name(typeid(owner)), info(point).name);
  return name;
}

std::string_view ActionNames::of(const TrainingModule& owner, HookPoint point) {
  std::string& name = names_[{&owner, point}];
  if (name.empty()) name = format("[Module]{}.{}", owner.type_name(), info(point).name);
  return name;
}

}  // namespace v0
}  // namespace anneal
