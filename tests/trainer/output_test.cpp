// What a run shows: the progress bar where there is no terminal, and the picture of the curves.
#include <gtest/gtest.h>

#include <regex>

#include "anneal/tests/trainer/markup.h"
#include "anneal/tests/trainer/support.h"

namespace anneal_test {
namespace {

TEST(ProgressBar, WithoutATerminalOneLineForEachEpochAndCheck) {
  std::vector<std::string> lines;
  Trainer trainer({.max_epochs = 2,
                   .logger = false,
                   .enable_checkpointing = false,
                   .enable_model_summary = false,
                   .seed = 1,
                   .sink = [&](std::string_view line) { lines.emplace_back(line); }});
  Probe probe;
  probe.in_training_step = [](const Batch&, StepContext& step) {
    step.log("loss", 1.23456, {.prog_bar = true});
    step.log("bad", 0.0 / static_cast<double>(step.batch_idx() - step.batch_idx()), {.prog_bar = true});
    step.log("hidden", 1);
  };
  probe.in_validation_step = [](const Batch&, StepContext& step) { step.log("val_loss", 12, {.prog_bar = true}); };
  trainer.fit(probe, counting_loader(5), counting_loader(3));
  ASSERT_EQ(lines.size(), 4u);
  const std::string rate = R"(\d+\.\d\d(it/s|s/it))";
  EXPECT_TRUE(std::regex_match(
      lines[0], std::regex("Validation: 3/3 \\[00:00, " + rate + ", loss=1\\.230, bad=-?nan, val_loss=12\\.00\\]\n")))
      << lines[0];
  EXPECT_TRUE(std::regex_match(
      lines[1], std::regex("Epoch 0: 5/5 \\[00:00, " + rate + ", loss=1\\.230, bad=-?nan, val_loss=12\\.00\\]\n")))
      << lines[1];
  EXPECT_TRUE(lines[3].starts_with("Epoch 1: 5/5"));
  for (const std::string& line : lines) EXPECT_EQ(line.find_first_of("\r\x1b"), std::string::npos);
}

TEST(ProgressBar, WithoutATerminalMayHaveLinesWithinAnEpoch) {
  const auto lines_with = [](double interval) {
    std::vector<std::string> lines;
    TrainerOptions options =
        quiet({.max_epochs = 1, .limit_val_batches = 0, .callbacks = {ProgressBar({.plain_interval = interval})}});
    options.enable_progress_bar = true;
    options.sink = [&](std::string_view line) { lines.emplace_back(line.substr(0, line.find(" ["))); };
    Probe probe;
    Trainer(options).fit(probe, counting_loader(3));
    return lines;
  };
  EXPECT_EQ(lines_with(1e-9), (std::vector<std::string>{"Epoch 0: 1/3", "Epoch 0: 2/3", "Epoch 0: 3/3"}));
  EXPECT_EQ(lines_with(1e9), std::vector<std::string>{"Epoch 0: 3/3"});
}

TEST(Output, MetricsOfValidateAreAList) {
  std::string text;
  TrainerOptions options = quiet();
  options.sink = [&](std::string_view line) { text += line; };
  options.max_epochs = 1;
  Trainer trainer(options);
  Probe probe;
  probe.in_validation_step = [](const Batch&, StepContext& step) { step.log("accuracy", 0.25); };
  trainer.validate(probe, counting_loader(1));
  EXPECT_NE(text.find("accuracy  0.25"), std::string::npos);
  text.clear();
  trainer.validate(probe, counting_loader(1), {.verbose = false});
  EXPECT_EQ(text, "");
}

TEST(CurvePlot, DrawsOnePanelForEachQuantity) {
  const TempFolder dir;
  auto plot = std::make_shared<CurvePlot>(CurvePlotOptions{.path = dir / "a/curves.svg"});
  Trainer trainer(quiet({.max_epochs = 3, .callbacks = {plot}}));
  Probe probe;
  std::int64_t epoch = 0;
  probe.in_training_step = [&](const Batch&, StepContext& step) {
    epoch = step.current_epoch();
    step.log("train_loss", 1.0 / static_cast<double>(epoch + 1), {.on_epoch = true});
    step.log("a<b & \"c\"", 1);
  };
  probe.in_validation_step = [&](const Batch&, StepContext& step) {
    step.log("val_loss", 2.0 / static_cast<double>(epoch + 1));
    step.log("val_accuracy", epoch == 1 ? 0.0 / static_cast<double>(epoch - 1) : 0.5);
  };
  trainer.fit(probe, counting_loader(2), counting_loader(1));

  ASSERT_EQ(plot->curves().size(), 4u);
  EXPECT_EQ(plot->curves().at("train_loss_epoch"), (std::vector<double>{1, 0.5, 1.0 / 3}));
  EXPECT_EQ(plot->curves().at("val_loss"), (std::vector<double>{2, 1, 2.0 / 3}));
  const std::string svg = read_text(dir / "a/curves.svg");
  EXPECT_EQ(svg, plot->svg());
  const auto elements = elements_of(svg);
  EXPECT_EQ(elements.at(0), "svg");
  EXPECT_EQ(std::count(elements.begin(), elements.end(), "path"), 4);     // curves
  EXPECT_EQ(std::count(elements.begin(), elements.end(), "circle"), 11);  // finite values
  for (const char* text :
       {">loss<", ">accuracy<", ">train_loss_epoch<", ">val_loss<", ">epoch<", "a&lt;b &amp; &quot;c&quot;"})
    EXPECT_NE(svg.find(text), std::string::npos) << text;
  EXPECT_EQ(svg.find("nan"), std::string::npos);
}

TEST(CurvePlot, DrawsAConstantOfOneEpoch) {
  auto plot = std::make_shared<CurvePlot>();
  EXPECT_EQ(elements_of(plot->svg()).at(0), "svg");
  plot->load_state({{"x", std::vector<double>{0.0}}});
  EXPECT_EQ(elements_of(plot->svg()).at(0), "svg");
  plot->load_state({{"y", std::vector<double>{1e300, 1e-300}}});
  EXPECT_EQ(elements_of(plot->svg()).at(0), "svg");
}

}  // namespace
}  // namespace anneal_test
