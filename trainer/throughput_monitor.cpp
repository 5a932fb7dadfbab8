#include "anneal/trainer/throughput_monitor.h"

#include <utility>

#include "anneal/core/error.h"
#include "anneal/trainer/trainer.h"

namespace anneal {
inline namespace v0 {

ThroughputMonitor::ThroughputMonitor(ThroughputMonitorOptions options) : options_(std::move(options)) {
  Throughput({.window_size = options_.window_size, .peak_flops = options_.peak_flops});
}

void ThroughputMonitor::setup(Trainer& trainer, TrainingModule&, Stage) {
  const Throughput throughput({.window_size = options_.window_size,
                               .world_size = trainer.world_size(),
                               .peak_flops = options_.peak_flops,
                               .separator = options_.separator});
  meters_.clear();
  for (const char* name : {"train", "validate", "test", "predict"})
    meters_.push_back({.name = name, .forwards = meters_.empty() ? 3.0 : 1.0, .throughput = throughput});
  rows_ = {};
}
// After an exception it may still count.
void ThroughputMonitor::teardown(Trainer&, TrainingModule&, Stage) { counter_.reset(); }

ThroughputMonitor::Meter& ThroughputMonitor::meter(Stage kind) {
  return meters_[kind == Stage::fit ? 0 : kind == Stage::validate ? 1 : kind == Stage::test ? 2 : 3];
}

void ThroughputMonitor::start(Trainer& trainer, TrainingModule& module, Stage kind) {
  Meter& m = meter(kind);
  m = {.name = m.name,
       .forwards = m.forwards,
       .throughput = std::move(m.throughput),
       .start = DeviceMark(trainer.device()),
       .flops_per_batch = module.flops_per_batch()};
  m.throughput.reset();
}

void ThroughputMonitor::begin_batch(Meter& m) {
  if (m.flops_per_batch > 0 || m.batches > 0) return;
  counter_ = std::make_unique<FlopCounter>();
  counter_->observe(true);
}

void ThroughputMonitor::end_batch(Trainer& trainer, Meter& m, const Batch& batch) {
  if (counter_) m.flops_per_batch = std::exchange(counter_, nullptr)->flops() * m.forwards;
  ++m.batches;
  m.samples += options_.batch_size_fn ? options_.batch_size_fn(batch) : batch.size();
  Throughput::Totals totals{.time = 0, .batches = m.batches, .samples = m.samples};
  if (options_.length_fn) totals.lengths = m.lengths += options_.length_fn(batch);
  if (m.flops_per_batch > 0) totals.flops = static_cast<double>(m.batches) * m.flops_per_batch;
  if (static_cast<std::int64_t>(m.entries.size()) == options_.window_size) m.entries.pop_front();
  m.entries.push_back({DeviceMark(trainer.device()), m.paused, totals});
}

void ThroughputMonitor::write_row(Trainer& trainer, Meter& m, std::int64_t x) {
  for (Entry& entry : m.entries) {
    entry.totals.time = entry.mark.seconds_since(m.start) - entry.paused;
    m.throughput.update(entry.totals);
  }
  m.entries.clear();
  MetricMap row;
  for (const auto& [name, value] : m.throughput.compute()) row.set(m.name + options_.separator + name, value);
  trainer.log_row(row, x);
}

void ThroughputMonitor::end_evaluation_batch(Trainer& trainer, Stage kind, const Batch& batch) {
  end_batch(trainer, meter(kind), batch);
  if (const auto x = rows_.after_batch(trainer, kind)) write_row(trainer, meter(kind), *x);
}

// ---- training ----

void ThroughputMonitor::on_train_start(Trainer& trainer, TrainingModule& module) {
  start(trainer, module, Stage::fit);
  rows_.begin_training(trainer);
}
void ThroughputMonitor::on_train_batch_start(Trainer&, TrainingModule&, const Batch&, StepContext&) {
  begin_batch(meter(Stage::fit));
}
void ThroughputMonitor::on_before_backward(Trainer&, TrainingModule&, const Tensor&) {
  if (counter_) counter_->observe(false);
}
void ThroughputMonitor::on_after_backward(Trainer&, TrainingModule&) {
  if (counter_) counter_->observe(true);
}
void ThroughputMonitor::on_train_batch_end(Trainer& trainer, TrainingModule&, const Tensor&, const Batch& batch,
                                           StepContext&) {
  end_batch(trainer, meter(Stage::fit), batch);
  if (const auto x = rows_.after_training_batch(trainer)) write_row(trainer, meter(Stage::fit), *x);
}

// ---- validation ----

void ThroughputMonitor::on_validation_start(Trainer& trainer, TrainingModule& module) {
  if (trainer.stage() == Stage::sanity_check) return;
  start(trainer, module, Stage::validate);
  check_start_ = DeviceMark(trainer.device());
}
void ThroughputMonitor::on_validation_batch_start(Trainer& trainer, TrainingModule&, const Batch&, StepContext&) {
  if (trainer.stage() != Stage::sanity_check) begin_batch(meter(Stage::validate));
}
void ThroughputMonitor::on_validation_batch_end(Trainer& trainer, TrainingModule&, const Batch& batch, StepContext&) {
  if (trainer.stage() != Stage::sanity_check) end_evaluation_batch(trainer, Stage::validate, batch);
}
void ThroughputMonitor::on_validation_end(Trainer& trainer, TrainingModule&) {
  if (trainer.stage() == Stage::fit)
    meter(Stage::fit).paused += DeviceMark(trainer.device()).seconds_since(check_start_);
}

// ---- test and prediction ----

void ThroughputMonitor::on_test_start(Trainer& trainer, TrainingModule& module) { start(trainer, module, Stage::test); }
void ThroughputMonitor::on_test_batch_start(Trainer&, TrainingModule&, const Batch&, StepContext&) {
  begin_batch(meter(Stage::test));
}
void ThroughputMonitor::on_test_batch_end(Trainer& trainer, TrainingModule&, const Batch& batch, StepContext&) {
  end_evaluation_batch(trainer, Stage::test, batch);
}
void ThroughputMonitor::on_predict_start(Trainer& trainer, TrainingModule& module) {
  start(trainer, module, Stage::predict);
}
void ThroughputMonitor::on_predict_batch_start(Trainer&, TrainingModule&, const Batch&, StepContext&) {
  begin_batch(meter(Stage::predict));
}
void ThroughputMonitor::on_predict_batch_end(Trainer& trainer, TrainingModule&, const Batch&, const Batch& batch,
                                             StepContext&) {
  end_evaluation_batch(trainer, Stage::predict, batch);
}

}  // namespace v0
}  // namespace anneal
