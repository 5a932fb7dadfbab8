// A run as a profiler is told of it. Private.
#pragma once

#include "anneal/trainer/trainer_state.h"

namespace anneal {
inline namespace v0 {

/// From its making to its end, however that comes; then the profiler's report is printed or written. What fails there
/// is a warning.
class ProfiledRun {
 public:
  explicit ProfiledRun(TrainerState& state);
  ~ProfiledRun();
  ProfiledRun(const ProfiledRun&) = delete;
  ProfiledRun& operator=(const ProfiledRun&) = delete;

 private:
  void report() const;

  TrainerState& s_;
  const Stage stage_;
};

}  // namespace v0
}  // namespace anneal
