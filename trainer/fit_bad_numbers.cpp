// What training does about losses and gradients that are not finite, and how it goes back to a checkpoint.
#include <utility>

#include "anneal/trainer/fit_loop.h"
#include "anneal/trainer/snapshot.h"

namespace anneal {
inline namespace v0 {

// What on_bad_number says, of a window that is to have no step.
void FitLoop::drop_window(const char* why) {
  const std::string& policy = s_.options.on_bad_number;
  const std::string text =
      format("{}, in the window that ends with batch {} of epoch {}", why, s_.trainer.batch_idx(), c_.epoch.completed);
  check(policy != "error", "on_bad_number: {}", text);
  ++s_.bad_windows;
  if (policy == "stop") return s_.end_on_bad_number(text);
  check(++s_.bad_in_a_row <= 10, "on_bad_number: more than 10 windows in a row were dropped; {}", text);
  s_.console.print(text + (policy == "skip" ? "; it is dropped" : "; training goes back to the newest checkpoint"));
  if (policy == "skip") return;
  const std::int64_t last = s_.trainer.total_batch_idx(), first = last - (c_.batch.ready - 1) % c_.accumulate;
  for (std::int64_t batch = first; batch <= last; ++batch) s_.dropped.insert(batch);
  s_.return_before = first;
}

void FitLoop::roll_back() {
  restore_newest(s_, *std::exchange(s_.return_before, {}));
  check(returns_.insert(c_.total_batches).second,
        "rollback: training came back to {} already, and numbers are bad again after it", s_.resumed_from.string());
  if (c_.epoch.processed > c_.epoch.completed) finish_epoch();
}

}  // namespace v0
}  // namespace anneal
