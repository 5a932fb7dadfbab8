#include "anneal/trainer/profiler.h"

#include "anneal/core/error.h"
#include "anneal/trainer/ops_profiler.h"
#include "anneal/trainer/simple_profiler.h"
#include "anneal/trainer/trace_profiler.h"

namespace anneal {
inline namespace v0 {

std::shared_ptr<Profiler> ProfilerOption::profiler() const {
  if (object_ || name_.empty()) return object_;
  if (name_ == "simple") return std::make_shared<SimpleProfiler>();
  if (name_ == "ops" || name_ == "advanced") return std::make_shared<OpsProfiler>();
  if (name_ == "trace" || name_ == "pytorch") return std::make_shared<TraceProfiler>();
  throw ConfigError(
      format("profiler: expected simple, ops (advanced), trace (pytorch) or an object, got \"{}\"", name_));
}

}  // namespace v0
}  // namespace anneal
