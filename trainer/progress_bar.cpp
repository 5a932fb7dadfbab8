#include "anneal/trainer/progress_bar.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "anneal/trainer/console.h"
#include "anneal/trainer/trainer.h"

namespace anneal {
inline namespace v0 {

ProgressBar::ProgressBar(ProgressBarOptions options) : options_(options) {
  check<ConfigError>(options.refresh_rate >= 0, "refresh_rate: expected at least 0, got {}", options.refresh_rate);
  check<ConfigError>(options.plain_interval >= 0, "plain_interval: expected at least 0 seconds, got {}",
                     options.plain_interval);
}

bool ProgressBar::replaces(const Callback& other) const { return dynamic_cast<const ProgressBar*>(&other) != nullptr; }

std::string ProgressBar::metric(double value) const { return metric_text(value); }
std::vector<std::string> ProgressBar::draw(const Bar& bar, std::size_t columns) const {
  return {drawn_line(bar, columns)};
}

RichProgressBar::RichProgressBar(RichProgressBarOptions options)
    : ProgressBar(
          {.refresh_rate = options.refresh_rate, .process_position = options.process_position, .leave = options.leave}),
      theme_(std::move(options.theme)) {}

std::string RichProgressBar::metric(double value) const {
  char text[32];
  std::snprintf(text, sizeof text, "%.3f", value);
  return value != value ? "nan" : text;
}
std::vector<std::string> RichProgressBar::draw(const Bar& bar, std::size_t columns) const {
  std::vector<std::string> lines{rich_line(bar, theme_, columns)};
  if (!bar.items.empty()) lines.push_back(rich_items(bar, theme_, columns));
  return lines;
}

Bar ProgressBar::bar_of(Trainer& trainer, const Loop& loop) const {
  const double seconds = std::chrono::duration<double>(Clock::now() - loop.start).count();
  const auto& metrics = trainer.progress_bar_metrics();
  Bar bar{.title = loop.title,
          .done = loop.done,
          .total = loop.total,
          .seconds = seconds,
          .rate = seconds > 0 ? static_cast<double>(loop.done - loop.first) / seconds : 0,
          .items = {}};
  if (!trainer.loggers().empty())
    if (std::string version = trainer.loggers().front()->version(); !version.empty()) {
      if (!metrics.contains("v_num"))
        bar.items.emplace_back("v_num", version.substr(version.size() - std::min<std::size_t>(4, version.size())));
      else trainer.console().warn("the progress bar's v_num is the metric of that name, not the logger's version");
    }
  for (const auto& [name, value] : metrics) bar.items.emplace_back(name, metric(value));
  return bar;
}

void ProgressBar::begin(Loop& loop, std::string title, std::int64_t total, std::int64_t first) {
  loop = {std::move(title), first, total == unknown_size ? -1 : total, first, Clock::now()};
  drawn_ = {};
}

void ProgressBar::advance(Trainer& trainer, Loop& loop, std::int64_t done) {
  loop.done = done;
  const auto now = Clock::now();
  const auto seconds_since = [&](Clock::time_point then) { return std::chrono::duration<double>(now - then).count(); };
  if (trainer.console().is_terminal()) {
    const bool last = done == loop.total;
    if (options_.refresh_rate == 0 || (!last && (done % options_.refresh_rate != 0 || seconds_since(drawn_) < 0.1)))
      return;
    show(trainer);
  } else {
    const double since = seconds_since(std::max(drawn_, loop.start));
    if (options_.plain_interval == 0 || since < options_.plain_interval || done == loop.total) return;
    print(trainer, loop);
  }
  drawn_ = now;
}

// The epoch's lines, and those of a check below.
void ProgressBar::show(Trainer& trainer) {
  const std::size_t columns = trainer.console().width() - 1;
  std::vector<std::string> lines(static_cast<std::size_t>(std::max<std::int64_t>(options_.process_position, 0)));
  for (const Loop* loop : {&train_, &evaluation_}) {
    if (loop->title.empty()) continue;
    for (std::string& line : draw(bar_of(trainer, *loop), columns)) lines.push_back(std::move(line));
  }
  trainer.console().set_status(std::move(lines));
}

void ProgressBar::print(Trainer& trainer, const Loop& loop) const {
  const Bar bar = bar_of(trainer, loop);
  if (!trainer.console().is_terminal()) return trainer.console().print(plain_line(bar));
  for (const std::string& line : draw(bar, trainer.console().width() - 1)) trainer.console().print(line);
}

void ProgressBar::on_train_epoch_start(Trainer& trainer, TrainingModule&) {
  begin(train_, "Epoch " + std::to_string(trainer.current_epoch()), trainer.num_training_batches());
}
void ProgressBar::on_train_batch_end(Trainer& trainer, TrainingModule& module, const Tensor&, const Batch&,
                                     StepContext& step) {
  if (train_.title.empty()) {  // resumed within an epoch
    on_train_epoch_start(trainer, module);
    train_.first = step.batch_idx();
  }
  advance(trainer, train_, step.batch_idx() + 1);
}
void ProgressBar::on_train_epoch_end(Trainer& trainer, TrainingModule&) {
  if (options_.refresh_rate == 0) return;
  if (!trainer.console().is_terminal()) print(trainer, train_);
  else show(trainer);  // with the epoch's metrics
  if (options_.leave) trainer.console().end_status(true);
  train_.title.clear();
}
void ProgressBar::on_train_end(Trainer& trainer, TrainingModule&) { trainer.console().end_status(true); }
void ProgressBar::on_signal(Trainer& trainer, TrainingModule&, int) {
  trainer.console().end_status(true);
  train_.title.clear();
}
void ProgressBar::on_exception(Trainer& trainer, TrainingModule&, const std::exception_ptr&) {
  trainer.console().end_status(true);
  train_.title.clear();
  evaluation_.title.clear();
}

// One bar over all loaders, which says the running one's number.
void ProgressBar::begin_evaluation(std::string title, std::int64_t total) {
  evaluates_ = std::move(title);
  begin(evaluation_, evaluates_ + " DataLoader 0", total);
}
void ProgressBar::advance_evaluation(Trainer& trainer, const StepContext& step) {
  if (step.batch_idx() == 0) evaluation_.title = evaluates_ + format(" DataLoader {}", step.dataloader_idx());
  advance(trainer, evaluation_, evaluation_.done + 1);
}
void ProgressBar::end_evaluation(Trainer& trainer, bool keep) {
  Loop ended = std::exchange(evaluation_, {});
  if (options_.refresh_rate == 0) return;
  ended.title = evaluates_;
  if (trainer.console().is_terminal()) {
    if (train_.title.empty()) trainer.console().end_status(false);
    else show(trainer);
  }
  if (keep) print(trainer, ended);
}

void ProgressBar::on_validation_start(Trainer& trainer, TrainingModule&) {
  const bool sanity = trainer.stage() == Stage::sanity_check;
  begin_evaluation(sanity ? "Sanity Checking" : "Validation",
                   sanity ? trainer.num_sanity_val_batches() : trainer.num_val_batches());
}
void ProgressBar::on_validation_batch_end(Trainer& trainer, TrainingModule&, const Batch&, StepContext& step) {
  advance_evaluation(trainer, step);
}
void ProgressBar::on_validation_end(Trainer& trainer, TrainingModule&) {
  // In a terminal the bar of a check within training goes away.
  const bool in_fit = trainer.stage() == Stage::fit;
  end_evaluation(trainer, trainer.stage() != Stage::sanity_check && !(in_fit && trainer.console().is_terminal()));
}
void ProgressBar::on_sanity_check_end(Trainer& trainer, TrainingModule&) { trainer.console().end_status(false); }

void ProgressBar::on_test_start(Trainer& trainer, TrainingModule&) {
  begin_evaluation("Testing", trainer.num_test_batches());
}
void ProgressBar::on_test_batch_end(Trainer& trainer, TrainingModule&, const Batch&, StepContext& step) {
  advance_evaluation(trainer, step);
}
void ProgressBar::on_test_end(Trainer& trainer, TrainingModule&) { end_evaluation(trainer, true); }

void ProgressBar::on_predict_start(Trainer& trainer, TrainingModule&) {
  begin_evaluation("Predicting", trainer.num_predict_batches());
}
void ProgressBar::on_predict_batch_end(Trainer& trainer, TrainingModule&, const Batch&, const Batch&,
                                       StepContext& step) {
  advance_evaluation(trainer, step);
}
void ProgressBar::on_predict_end(Trainer& trainer, TrainingModule&) { end_evaluation(trainer, true); }

}  // namespace v0
}  // namespace anneal
