#include "anneal/core/op_observer.h"

namespace anneal {
inline namespace v0 {

void OpObserver::observe(bool on) {
  OpObserver** place = &first_;
  while (*place && *place != this) place = &(*place)->next_;
  if (on && !*place) {
    next_ = nullptr;
    *place = this;
  } else if (!on && *place) {
    *place = next_;
  }
}

}  // namespace v0
}  // namespace anneal
