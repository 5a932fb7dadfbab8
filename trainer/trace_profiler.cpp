#include "anneal/trainer/trace_profiler.h"

#include <algorithm>
#include <set>
#include <utility>

#include "anneal/core/error.h"
#include "anneal/core/gpu.h"
#include "anneal/trainer/log_format.h"
#include "anneal/trainer/text_table.h"

namespace anneal {
inline namespace v0 {
namespace {

// Rows of the time line.
int row_of(Device device) { return device.kind == DeviceKind::cpu ? 0 : 1 + device.index; }

std::string row_name(int row, const std::string& name) {
  return format("{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":0,\"tid\":{},\"args\":{\"name\":{}}}", row,
                json_text(name));
}

// Times in microseconds, to the nanosecond.
std::string span(const char* category, std::string_view name, int row, double start, double seconds) {
  const auto microseconds = [](double time) { return fixed(1e6 * time, 3); };
  return format("{\"ph\":\"X\",\"cat\":\"{}\",\"name\":{},\"pid\":0,\"tid\":{},\"ts\":{},\"dur\":{}", category,
                json_text(name), row, microseconds(start), microseconds(seconds));
}

}  // namespace

TraceProfiler::TraceProfiler(TraceProfilerOptions options)
    : Profiler({std::move(options.dirpath), std::move(options.filename)}),
      wait_(options.wait),
      warmup_(options.warmup),
      active_(options.active),
      repeat_(options.repeat) {
  check<ConfigError>(!this->options().filename.empty(), "filename: expected one, as a trace is not printed");
  check<ConfigError>(wait_ >= 0 && warmup_ >= 0 && active_ >= 1 && repeat_ >= 0,
                     "wait, warmup, active, repeat: expected at least 0, 0, 1 and 0, got {}, {}, {} and {}", wait_,
                     warmup_, active_, repeat_);
}

void TraceProfiler::start(std::string_view action) {
  if (!keeps_) return;
  running_.push_back({std::string(action), now(), 0});
  if constexpr (has_gpu) gpu::push_range(running_.back().name.c_str());
}

void TraceProfiler::stop(std::string_view action) {
  const auto at =
      std::find_if(running_.rbegin(), running_.rend(), [&](const Action& running) { return running.name == action; });
  if (at == running_.rend()) return;
  at->seconds = now() - at->start;
  actions_.push_back(std::move(*at));
  running_.erase(std::next(at).base());
  if constexpr (has_gpu) gpu::pop_range();
}

void TraceProfiler::forget_running() {
  if constexpr (has_gpu)
    for (std::size_t i = 0; i < running_.size(); ++i) gpu::pop_range();
  running_.clear();
}

void TraceProfiler::begin_run() {
  batches_ = 0;
  actions_.clear();
  ops_.clear();
  origin_ = DeviceMark();
  enter_phase();
}

void TraceProfiler::end_batch() {
  ++batches_;
  enter_phase();
}

void TraceProfiler::end_run() {
  forget_running();
  if (const auto timer = std::exchange(timer_, nullptr)) timer->finish();
  keeps_ = false;
}

void TraceProfiler::enter_phase() {
  const std::int64_t cycle = wait_ + warmup_ + active_;
  const bool over = repeat_ > 0 && batches_ / cycle >= repeat_;
  const std::int64_t place = batches_ % cycle;
  const bool looks = !over && place >= wait_, keeps = looks && place >= wait_ + warmup_;
  if (timer_ && keeps != keeps_) timer_->finish();
  keeps_ = keeps;
  if (!keeps) forget_running();
  if (!looks) timer_.reset();
  else if (!timer_)
    timer_ = std::make_unique<OpTimer>(
        [this](const TimedOp& op) {
          if (keeps_) ops_.push_back(op);
        },
        origin_);
}

std::string TraceProfiler::report() const {
  std::vector<std::string> events{row_name(0, "host")};
  std::set<int> gpus;
  for (const TimedOp& op : ops_)
    if (op.device.kind != DeviceKind::cpu && gpus.insert(row_of(op.device)).second)
      events.push_back(row_name(row_of(op.device), format("{}", op.device)));
  for (const Action& action : actions_)
    events.push_back(span("action", action.name, 0, action.start, action.seconds) + '}');
  for (const TimedOp& op : ops_)
    events.push_back(
        span("op", op.work.name, row_of(op.device), op.start, op.seconds) +
        format(",\"args\":{\"flops\":{},\"bytes\":{}}}", shortest(op.work.flops), shortest(op.work.bytes)));
  std::string text = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[";
  for (const std::string& event : events) text += (&event == events.data() ? "\n" : ",\n") + event;
  return text + "\n]}\n";
}

}  // namespace v0
}  // namespace anneal
