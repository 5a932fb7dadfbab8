#include "anneal/trainer/profiled_run.h"

#include "anneal/trainer/log_format.h"

namespace anneal {
inline namespace v0 {

ProfiledRun::ProfiledRun(TrainerState& state) : s_(state), stage_(state.stage) {
  if (!s_.profiler) return;
  s_.action_names.clear();
  s_.profiler->begin_run();
}

ProfiledRun::~ProfiledRun() {
  if (s_.profiler) try {
      s_.profiler->end_run();
      report();
    } catch (const std::exception& error) { s_.console.warn(std::string("the profiler failed: ") + error.what()); }
}

void ProfiledRun::report() const {
  const Profiler& profiler = *s_.profiler;
  const auto& [dirpath, filename] = profiler.options();
  if (filename.empty()) return s_.console.print(profiler.report());
  constexpr const char* stages[] = {"fit", "sanity_check", "validate", "test", "predict"};
  const std::string rank = s_.rank() > 0 ? format("-{}", s_.rank()) : "";
  const std::string name =
      format("{}-{}{}.{}", stages[static_cast<std::size_t>(stage_)], filename, rank, profiler.extension());
  replace_file((dirpath.empty() ? s_.trainer.log_dir() : dirpath) / name, profiler.report());
}

}  // namespace v0
}  // namespace anneal
