// The progress bars in a terminal: rows T-650 to T-653, C-193.
#include "anneal/trainer/progress_bar.h"

#include <gtest/gtest.h>

#include <cmath>
#include <regex>

#include "anneal/tests/trainer/support.h"
#include "anneal/tests/trainer/terminal.h"
#include "anneal/trainer/bar_text.h"

namespace anneal_test {
namespace {

using Lines = std::vector<std::string>;
using anneal::testing::screen_of;
using anneal::testing::Terminal;

const Bar some_bar{.title = "Epoch 0",
                   .done = 4,
                   .total = 5,
                   .seconds = 61,
                   .rate = 719.34,
                   .items = {{"v_num", "0"}, {"loss", "1.230"}}};

TEST(BarText, Metrics) {
  EXPECT_EQ(metric_text(1.23456), "1.230");
  EXPECT_EQ(metric_text(12), "12.00");
  EXPECT_EQ(metric_text(-NAN), "nan");
  EXPECT_EQ(metric_text(1.5e-9), "1.5e-09");
}

TEST(BarText, GivesWayWhereColumnsAreFew) {
  const std::string whole = "Epoch 0:  80%|########  | 4/5 [01:01<00:00, 719.34it/s, v_num=0, loss=1.230]";
  EXPECT_EQ(drawn_line(some_bar, 200), whole);
  EXPECT_EQ(drawn_line(some_bar, whole.size() - 6),
            "Epoch 0:  80%|### | 4/5 [01:01<00:00, 719.34it/s, v_num=0, loss=1.230]");
  EXPECT_EQ(drawn_line(some_bar, 60), "Epoch 0:  80% 4/5 [01:01<00:00, 719.34it/s, v_num=0, loss=1.");
  Bar unknown = some_bar;
  unknown.total = -1;
  EXPECT_TRUE(std::regex_match(drawn_line(unknown, 200), std::regex(R"(Epoch 0: \|\s+\| 4/\? \[01:01<\?, .*)")));
  for (std::size_t columns = 1; columns < 100; ++columns) EXPECT_LE(drawn_line(some_bar, columns).size(), columns);
}

TEST(BarText, RichLinesFit) {
  EXPECT_EQ(screen_of(rich_line(some_bar, {}, 200), 200),
            Lines{"Epoch 0  ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━  4/5  01:01 < 00:00  719.34it/s"});
  EXPECT_EQ(screen_of(rich_items(some_bar, {}, 200), 200), Lines{"  v_num: 0  loss: 1.230"});
  for (std::size_t columns = 1; columns < 100; ++columns) {
    screen_of(rich_line(some_bar, {}, columns), columns);
    screen_of(rich_items(some_bar, {}, columns), columns);
  }
}

// A run of two epochs with a check in the middle of each; what was on the screen when something happened.
struct Screens {
  std::string text;
  Lines at_end;
};
template <class B, class Options = ProgressBarOptions>
Screens run_in(unsigned short columns, Options options = {}, double loss = 1.23456) {
  Terminal terminal(columns);
  {
    TrainerOptions o = quiet({.max_epochs = 2, .val_check_interval = 0.5, .callbacks = {B(options)}});
    o.enable_progress_bar = true;
    o.sink = {};
    Probe probe;
    probe.in_training_step = [&](const Batch&, StepContext& step) {
      step.log("loss", loss, {.prog_bar = true});
      if (step.batch_idx() == 1 && step.current_epoch() == 1) step.trainer().print("a line of the program");
    };
    probe.in_validation_step = [](const Batch&, StepContext& step) { step.log("val", 12, {.prog_bar = true}); };
    Trainer(o).fit(probe, counting_loader(4), counting_loader(3));
  }
  const std::string text = terminal.close();
  return {text, screen_of(text, columns)};
}

TEST(ProgressBarInATerminal, LeavesTheLastEpochs) {
  const Screens screens = run_in<ProgressBar>(200);
  ASSERT_EQ(screens.at_end.size(), 2u) << screens.text;
  EXPECT_EQ(screens.at_end[0], "a line of the program");
  EXPECT_TRUE(std::regex_match(
      screens.at_end[1],
      std::regex(R"(Epoch 1: 100%\|##########\| 4/4 \[00:0\d<00:00, [\d.]+(it/s|s/it), loss=1\.230, val=12\.00\])")))
      << screens.at_end[1];
  EXPECT_NE(screens.text.find("Sanity Checking DataLoader 0"), std::string::npos);
  // The check's line is below the epoch's.
  EXPECT_TRUE(std::regex_search(screens.text, std::regex(R"(\| 2/4 [^\n]*\n[^\n]*Validation DataLoader 0: )")));
}

TEST(ProgressBarInATerminal, LeavesEachEpochsIfAsked) {
  const Screens screens = run_in<ProgressBar>(200, {.leave = true});
  ASSERT_EQ(screens.at_end.size(), 3u) << screens.text;
  EXPECT_TRUE(screens.at_end[0].starts_with("Epoch 0: 100%"));
  EXPECT_TRUE(screens.at_end[2].starts_with("Epoch 1: 100%"));
}

TEST(ProgressBarInATerminal, FitsEightyColumns) {
  const Screens screens = run_in<ProgressBar>(80, {}, NAN);
  ASSERT_EQ(screens.at_end.size(), 2u);
  EXPECT_NE(screens.at_end[1].find("loss=nan"), std::string::npos) << screens.at_end[1];
}

TEST(ProgressBarInATerminal, CanBeOffAndBelowOthers) {
  EXPECT_EQ(run_in<ProgressBar>(80, {.refresh_rate = 0}).at_end, Lines{"a line of the program"});
  const Lines lines = run_in<ProgressBar>(80, {.process_position = 1}).at_end;
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[1], "");
  EXPECT_TRUE(message_of<ConfigError>([] { ProgressBar bar({.refresh_rate = -1}); }).starts_with("refresh_rate"));
  EXPECT_TRUE(message_of<ConfigError>([] { ProgressBar bar({.plain_interval = -1}); }).starts_with("plain_interval"));
}

// What an epoch without a check writes, and how long it takes.
std::pair<std::string, double> epoch_in_a_terminal(std::int64_t batches, ProgressBarOptions options) {
  Terminal terminal(80);
  double seconds = 0;
  {
    TrainerOptions o = quiet({.max_epochs = 1, .callbacks = {ProgressBar(options)}});
    o.enable_progress_bar = true;
    o.sink = {};
    Probe probe;
    seconds = Trainer(o).fit(probe, counting_loader(batches)).seconds;
  }
  return {terminal.close(), seconds};
}

TEST(ProgressBarInATerminal, IsDrawnEveryKBatchesAndAtTheLast) {
  const std::string text = epoch_in_a_terminal(5, {.refresh_rate = 3}).first;
  for (const char* drawn : {" 3/5 [", " 5/5 ["}) EXPECT_NE(text.find(drawn), std::string::npos) << text;
  for (const char* not_drawn : {" 1/5 [", " 2/5 [", " 4/5 ["})
    EXPECT_EQ(text.find(not_drawn), std::string::npos) << text;
  EXPECT_NE(epoch_in_a_terminal(5, {}).first.find(" 1/5 ["), std::string::npos);
}

TEST(ProgressBarInATerminal, IsDrawnTenTimesASecondAtMost) {
  const auto [text, seconds] = epoch_in_a_terminal(1000, {});
  const std::regex line("Epoch 0:");
  const auto drawn = std::distance(std::sregex_iterator(text.begin(), text.end(), line), std::sregex_iterator());
  EXPECT_GE(drawn, 2) << "the first and the last";
  EXPECT_LE(static_cast<double>(drawn), 10 * seconds + 5);
}

TEST(ProgressBarInATerminal, TestsAndPredictionsHaveTheirTitles) {
  Terminal terminal(80);
  {
    struct Predicting : Probe {
      Batch predict_step(const Batch& batch, StepContext&) override { return batch; }
    } probe;
    TrainerOptions o = quiet({.max_epochs = 1, .callbacks = {ProgressBar()}});
    o.enable_progress_bar = true;
    o.sink = {};
    Trainer trainer(o);
    trainer.test(probe, {counting_loader(2), counting_loader(1)}, {.verbose = false});
    trainer.predict(probe, counting_loader(3));
  }
  const std::string text = terminal.close();
  EXPECT_NE(text.find("Testing DataLoader 0: "), std::string::npos) << text;
  EXPECT_NE(text.find("Testing DataLoader 1: 100%"), std::string::npos) << text;
  EXPECT_NE(text.find("Predicting DataLoader 0: "), std::string::npos) << text;
  const Lines lines = screen_of(text, 80);
  ASSERT_EQ(lines.size(), 2u) << text;
  EXPECT_TRUE(lines[0].starts_with("Testing: 100%")) << lines[0];
  EXPECT_TRUE(lines[1].starts_with("Predicting: 100%")) << lines[1];
}

TEST(RichProgressBarInATerminal, LooksAsItsThemeSays) {
  const std::string text =
      run_in<RichProgressBar>(80, RichProgressBarOptions{.theme = {.description = "35", .metrics = "38;5;208"}}).text;
  EXPECT_NE(text.find("\x1b[35mEpoch 1"), std::string::npos);
  EXPECT_NE(text.find("\x1b[38;5;208m1.235"), std::string::npos);
}

TEST(RichProgressBarInATerminal, HasALineForMetrics) {
  const Screens screens = run_in<RichProgressBar>(80, RichProgressBarOptions());
  ASSERT_EQ(screens.at_end.size(), 3u) << screens.text;
  EXPECT_TRUE(screens.at_end[1].starts_with("Epoch 1  ━━━━━━━━━━━━━━━━━━━  4/4  ")) << screens.at_end[1];
  EXPECT_EQ(screens.at_end[2], "  loss: 1.235  val: 12.000");
}

TEST(ProgressBarItems, AMetricMayTakeAStandardItemsName) {
  const TempFolder dir;
  std::string text;
  TrainerOptions o = quiet({.max_epochs = 1,
                            .logger = CsvLogger({.save_dir = dir.path(), .version = "long-name"}),
                            .callbacks = {ProgressBar()}});
  o.enable_progress_bar = true;
  o.sink = [&](std::string_view line) { text += line; };
  Probe probe;
  Trainer(o).fit(probe, counting_loader(1));
  EXPECT_NE(text.find("v_num=name]"), std::string::npos) << text;
  probe.in_training_step = [](const Batch&, StepContext& step) { step.log("v_num", 7, {.prog_bar = true}); };
  text.clear();
  Trainer(o).fit(probe, counting_loader(1));
  EXPECT_NE(text.find("v_num=7.000]"), std::string::npos) << text;
  EXPECT_NE(text.find("warning: the progress bar's v_num"), std::string::npos) << text;
}

}  // namespace
}  // namespace anneal_test
