// The page about a run.
#include "anneal/trainer/report.h"

#include <gtest/gtest.h>

#include <cmath>

#include "anneal/tests/trainer/markup.h"
#include "anneal/tests/trainer/support.h"

namespace anneal_test {
namespace {

MetricMap row(std::initializer_list<std::pair<const char*, double>> values) {
  MetricMap map;
  for (const auto& [name, value] : values) map.set(name, value);
  return map;
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// The page's elements, which must be well-formed.
std::vector<std::string> checked(const std::string& html) {
  const std::string doctype = "<!DOCTYPE html>\n";
  EXPECT_TRUE(html.starts_with(doctype));
  return elements_of(html.substr(doctype.size()));
}

TEST(Report, ShowsCurvesSummaryHyperParametersAndSystem) {
  const TempFolder dir;
  Report report({.save_dir = dir.path(), .name = "a&b", .version = "<v>"});
  report.log_hyperparams({{"lr", 0.1}, {"layers", 3}});
  report.log_hyperparams({{"optimizer", "<adam>"}, {"lr", 0.25}});
  for (std::int64_t i = 0; i < 5; ++i)
    report.log_metrics(
        row({{"train_loss", i == 3 ? 0.125 : 1.0 / static_cast<double>(i + 1)}, {"epoch", 0}, {"step", i}}), i);
  report.log_metrics(row({{"val_loss", std::nan("")}, {"val_acc<", 0.5}}), 4);
  report.log_metrics(row({{"val_loss", 0.75}}), 5);
  EXPECT_FALSE(fs::exists(dir / "a&b"));
  report.finalize("success");
  EXPECT_EQ(stems(report.log_dir()), std::vector<std::string>{"report"});
  const std::string html = read_text(dir / "a&b/<v>/report.html");
  const auto elements = checked(html);
  EXPECT_EQ(std::count(elements.begin(), elements.end(), "svg"), 1);
  EXPECT_EQ(std::count(elements.begin(), elements.end(), "path"), 3);
  EXPECT_EQ(std::count(elements.begin(), elements.end(), "script"), 0);
  EXPECT_FALSE(has(html, "src=") || has(html, "href="));
  EXPECT_TRUE(has(html, "<title>a&amp;b/&lt;v&gt;</title>"));
  EXPECT_TRUE(has(html, "<td>status</td><td>success</td>"));
  EXPECT_TRUE(
      has(html, "<td>train_loss</td><td>0.2 at step 4</td><td>0.125 at step 3</td><td>1 at step 0</td><td>5</td>"))
      << html;
  EXPECT_TRUE(
      has(html, "<td>val_loss</td><td>0.75 at step 5</td><td>0.75 at step 5</td><td>0.75 at step 5</td><td>2</td>"));
  EXPECT_TRUE(has(html, "<td>val_acc&lt;</td>"));
  EXPECT_FALSE(has(html, "<td>epoch</td>"));
  EXPECT_FALSE(has(html, "<td>step</td>"));
  EXPECT_TRUE(has(html,
                  "<td>lr</td><td>0.25</td></tr>\n<tr><td>layers</td><td>3</td></tr>\n"
                  "<tr><td>optimizer</td><td>&lt;adam&gt;</td>"));
  for (const char* name : {"compiler", "instruction set", "cores", "threads"})
    EXPECT_TRUE(has(html, std::string("<td>") + name + "</td><td>")) << name;
}

TEST(Report, OfNothing) {
  const TempFolder dir;
  Report report({.dir = dir.path(), .title = "t"});
  report.finalize("failed");
  const std::string html = read_text(dir / "report.html");
  checked(html);
  EXPECT_TRUE(has(html, "<h1>t</h1>"));
  EXPECT_TRUE(has(html, "<td>failed</td>"));
}

TEST(Report, ThinsOutLongCurvesButNotTheSummary) {
  const TempFolder dir;
  Report report({.dir = dir.path(), .max_points = 10});
  for (std::int64_t i = 0; i < 1000; ++i) report.log_metrics(row({{"a", i == 501 ? -1 : static_cast<double>(i)}}), i);
  const std::string html = report.html("success");
  const auto elements = checked(html);
  const auto dots = std::count(elements.begin(), elements.end(), "circle");
  EXPECT_GE(dots, 5);
  EXPECT_LE(dots, 11);
  EXPECT_TRUE(
      has(html, "<td>a</td><td>999 at step 999</td><td>-1 at step 501</td><td>999 at step 999</td><td>1000</td>"));
  EXPECT_THROW(Report({.max_points = 1}), ConfigError);
}

TEST(Report, OfAResumedRunShowsAllOfIt) {
  const TempFolder dir;
  const ReportOptions options{.save_dir = dir.path(), .max_points = 7};
  const auto log = [](Report& report, std::int64_t from, std::int64_t to) {
    for (std::int64_t i = from; i < to; ++i) report.log_metrics(row({{"a", std::sin(static_cast<double>(i))}}), i);
  };
  const auto body = [](const Report& report) {
    const std::string html = report.html("success");
    return html.substr(html.find("<h2>Summary"));
  };
  Report whole(options), first(options), second(options);
  log(whole, 0, 50);
  log(first, 0, 20);
  first.finalize("failed");
  const StateMap state = first.state();
  second.load_state(state);
  log(second, 20, 50);
  EXPECT_EQ(body(second), body(whole));
  EXPECT_EQ(second.version(), "0");
  second.load_state({{"rows", std::int64_t{1}}});  // another logger's
  EXPECT_THROW(second.load_state({{"folder", "x"}, {"start", 0.0}, {"metric a", std::vector<double>{1}}}), Error);
}

TEST(Report, IsWrittenWhenARunFails) {
  const TempFolder dir;
  TrainerOptions options = quiet({.max_epochs = 1, .log_every_n_steps = 1});
  options.logger = Report({.save_dir = dir.path()});
  Trainer trainer(options);
  Probe probe;
  probe.in_training_step = [](const Batch&, StepContext& step) {
    if (step.batch_idx() == 2) throw Error("enough");
    step.log("a", 0.5);
  };
  EXPECT_THROW(trainer.fit(probe, counting_loader(3)), Error);
  const std::string html = read_text(dir / "anneal_logs/version_0/report.html");
  checked(html);
  EXPECT_TRUE(has(html, "<td>failed</td>"));
  EXPECT_TRUE(has(html, "<td>a</td><td>0.5 at step 2</td>")) << html;
}

}  // namespace
}  // namespace anneal_test
