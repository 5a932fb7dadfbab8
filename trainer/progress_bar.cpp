#include "anneal/trainer/progress_bar.h"

#include <cstdio>

#include "anneal/trainer/console.h"
#include "anneal/trainer/trainer.h"

namespace anneal {
inline namespace v0 {
namespace {

constexpr std::size_t bar_width = 10;

template <class... A>
std::string text(const char* pattern, A... args) {
  char buffer[64];
  std::snprintf(buffer, sizeof buffer, pattern, args...);
  return buffer;
}

std::string clock_time(double seconds) {
  const auto s = static_cast<long long>(seconds);
  if (s < 3600) return text("%02lld:%02lld", s / 60, s % 60);
  return text("%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
}

// Three significant digits, padded to five characters: 1.230
std::string metric_text(double value) {
  std::string s = text("%.3g", value);
  if (s.find_first_of("einf") != std::string::npos) return s;
  if (s.find('.') == std::string::npos) s += '.';
  while (s.size() < 5) s += '0';
  return s;
}

}  // namespace

std::string ProgressBar::line(const Trainer& trainer, const Bar& bar, bool with_bar) {
  const double seconds = std::chrono::duration<double>(Clock::now() - bar.start).count();
  const double rate = seconds > 0 ? static_cast<double>(bar.done - bar.first) / seconds : 0;
  const bool endless = bar.total == unknown_size;
  const double share = bar.total > 0 && !endless ? static_cast<double>(bar.done) / static_cast<double>(bar.total) : 0;
  std::string s = bar.title + ": ";
  if (with_bar && !endless) {
    const auto full = static_cast<std::size_t>(share * bar_width);
    s += text("%3d%%|", static_cast<int>(share * 100)) + std::string(full, '#') + std::string(bar_width - full, ' ') +
         "| ";
  }
  s += format("{}/{} [", bar.done, endless ? std::string("?") : std::to_string(bar.total)) + clock_time(seconds);
  if (with_bar && !endless)
    s += "<" + (rate > 0 ? clock_time(static_cast<double>(bar.total - bar.done) / rate) : std::string("?"));
  s += rate >= 1 || rate == 0 ? text(", %.2fit/s", rate) : text(", %.2fs/it", 1 / rate);
  if (!trainer.loggers().empty())
    if (const std::string version = trainer.loggers().front()->version_name(); !version.empty())
      s += ", v_num=" + version;
  for (const auto& [name, value] : trainer.progress_bar_metrics()) s += ", " + name + "=" + metric_text(value);
  return s + "]";
}

void ProgressBar::begin(Bar& bar, std::string title, std::int64_t total, std::int64_t first) {
  bar = {std::move(title), first, total, first, Clock::now()};
}

void ProgressBar::advance(Trainer& trainer, Bar& bar, std::int64_t done) {
  bar.done = done;
  Console& console = trainer.console();
  if (!console.is_terminal()) return;
  const auto now = Clock::now();
  if (now - drawn_ < std::chrono::milliseconds(100)) return;
  drawn_ = now;
  std::string drawn = line(trainer, bar, true);
  drawn.resize(std::min(drawn.size(), console.width() - 1));
  console.set_status(std::move(drawn));
}

// One bar over all loaders, which says the number of those behind the first.
void ProgressBar::advance_evaluation(Trainer& trainer, const StepContext& step) {
  if (step.batch_idx() == 0 && step.dataloader_idx() > 0) {
    evaluation_.title = evaluation_.title.substr(0, evaluation_.title.find(" DataLoader")) +
                        format(" DataLoader {}", step.dataloader_idx());
  }
  advance(trainer, evaluation_, evaluation_.done + 1);
}

void ProgressBar::end(Trainer& trainer, const Bar& bar, bool keep) {
  Console& console = trainer.console();
  console.end_status(false);
  if (!keep) return;
  std::string drawn = line(trainer, bar, console.is_terminal());
  if (console.is_terminal()) drawn.resize(std::min(drawn.size(), console.width() - 1));
  console.print(drawn);
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
  end(trainer, train_, true);
  train_ = {};
}

void ProgressBar::on_validation_start(Trainer& trainer, TrainingModule&) {
  const bool sanity = trainer.stage() == Stage::sanity_check;
  begin(evaluation_, sanity ? "Sanity Checking" : "Validation",
        sanity ? trainer.num_sanity_val_batches() : trainer.num_val_batches());
}
void ProgressBar::on_validation_batch_end(Trainer& trainer, TrainingModule&, const Batch&, StepContext& step) {
  advance_evaluation(trainer, step);
}
void ProgressBar::on_validation_end(Trainer& trainer, TrainingModule&) {
  // In a terminal the bar goes away after a check, and the epoch's comes back.
  end(trainer, evaluation_, trainer.stage() != Stage::sanity_check && !trainer.console().is_terminal());
}
void ProgressBar::on_sanity_check_end(Trainer& trainer, TrainingModule&) { trainer.console().end_status(false); }

void ProgressBar::on_test_start(Trainer& trainer, TrainingModule&) {
  begin(evaluation_, "Testing", trainer.num_test_batches());
}
void ProgressBar::on_test_batch_end(Trainer& trainer, TrainingModule&, const Batch&, StepContext& step) {
  advance_evaluation(trainer, step);
}
void ProgressBar::on_test_end(Trainer& trainer, TrainingModule&) { end(trainer, evaluation_, true); }

void ProgressBar::on_predict_start(Trainer& trainer, TrainingModule&) {
  begin(evaluation_, "Predicting", trainer.num_predict_batches());
}
void ProgressBar::on_predict_batch_end(Trainer& trainer, TrainingModule&, const Batch&, const Batch&,
                                       StepContext& step) {
  advance_evaluation(trainer, step);
}
void ProgressBar::on_predict_end(Trainer& trainer, TrainingModule&) { end(trainer, evaluation_, true); }

void ProgressBar::on_exception(Trainer& trainer, TrainingModule&, const std::exception_ptr&) {
  trainer.console().end_status(true);
  train_ = {};
}
void ProgressBar::on_train_end(Trainer& trainer, TrainingModule&) { trainer.console().end_status(false); }

}  // namespace v0
}  // namespace anneal
