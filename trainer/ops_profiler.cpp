#include "anneal/trainer/ops_profiler.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "anneal/core/format.h"
#include "anneal/trainer/text_table.h"

namespace anneal {
inline namespace v0 {
namespace {

void add(OpsProfiler::Totals& to, std::int64_t calls, double seconds, double bytes, double flops) {
  to.calls += calls;
  to.seconds += seconds;
  to.bytes += bytes;
  to.flops += flops;
}

// Empty for what an op does not have.
std::string cell(double value, double unit) { return value > 0 ? fixed(value / unit, 3) : ""; }

}  // namespace

void OpsProfiler::begin_run() {
  ops_.clear();
  begin_ = DeviceMark();
  timer_ = std::make_unique<OpTimer>(
      [this](const TimedOp& op) { add(ops_[op.work.name], 1, op.seconds, op.work.bytes, op.work.flops); });
}

void OpsProfiler::end_run() {
  std::exchange(timer_, nullptr)->finish();
  run_seconds_ = DeviceMark().seconds_since(begin_);
}

std::string OpsProfiler::report() const {
  using Op = std::pair<std::string_view, Totals>;
  std::vector<Op> ops(ops_.begin(), ops_.end());
  std::stable_sort(ops.begin(), ops.end(),
                   [](const Op& a, const Op& b) { return a.second.seconds > b.second.seconds; });
  Totals all;
  for (const auto& [name, op] : ops) add(all, op.calls, op.seconds, op.bytes, op.flops);
  ops.emplace(ops.begin(), "all", all);
  std::vector<std::vector<std::string>> rows{
      {"Op", "Calls", "Time (ms)", "Share (%)", "MB", "GFLOP", "GB/s", "GFLOP/s"}};
  for (const auto& [name, op] : ops)
    rows.push_back({std::string(name), std::to_string(op.calls), fixed(1e3 * op.seconds, 3),
                    all.seconds > 0 ? fixed(100 * op.seconds / all.seconds, 2) : "", cell(op.bytes, 1e6),
                    cell(op.flops, 1e9), op.seconds > 0 ? cell(op.bytes / op.seconds, 1e9) : "",
                    op.seconds > 0 ? cell(op.flops / op.seconds, 1e9) : ""});
  return text_table(rows, 1) + format("\nops: {} s of the run's {} s", fixed(all.seconds, 3), fixed(run_seconds_, 3));
}

}  // namespace v0
}  // namespace anneal
