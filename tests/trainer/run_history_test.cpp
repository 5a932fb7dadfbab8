// The values of a run, by name.
#include "anneal/trainer/run_history.h"

#include <gtest/gtest.h>

#include <fstream>
#include <limits>

#include "anneal/tests/trainer/support.h"

namespace anneal_test {
namespace {

using Names = std::vector<std::string>;
using Values = std::vector<double>;

// T-684
TEST(RunHistory, KeepsValuesByName) {
  RunHistory history;
  EXPECT_EQ(history.current_epoch(), 1);
  history.update("b", 1);
  history.update("b", 2);
  history.set_prefix("fold_0/");
  history.update("a", 3);
  history.end_epoch();
  EXPECT_EQ(history.metric_names(), (Names{"b", "fold_0/a"}));
  EXPECT_EQ(history.values("b"), (Values{1, 2}));
  EXPECT_EQ(history.latest("b"), 2);
  EXPECT_EQ(history.latest("fold_0/a"), 3);
  EXPECT_EQ(history.current_epoch(), 2);
  EXPECT_NE(message_of<Error>([&] { history.latest("a"); }).find("b, fold_0/a"), std::string::npos);
  history.remove("b");
  history.remove("nothing");
  EXPECT_FALSE(history.contains("b"));
  history.reset();
  EXPECT_EQ(history.metric_names(), Names());
  EXPECT_EQ(history.current_epoch(), 1);
  EXPECT_EQ(history.prefix(), "fold_0/");
}

TEST(RunHistory, IsKeptInAFile) {
  const TempFolder dir;
  RunHistory history;
  history.update("loss", 0.1);
  history.update("loss", std::numeric_limits<double>::infinity());
  history.end_epoch();
  history.save(dir / "history.json");
  const RunHistory read = RunHistory::load(dir / "history.json");
  EXPECT_EQ(read.values("loss"), history.values("loss"));
  EXPECT_EQ(read.current_epoch(), 2);

  std::ofstream(dir / "broken.json") << "{\"run_history\": ";
  EXPECT_NE(message_of<Error>([&] { RunHistory::load(dir / "broken.json"); }).find("broken.json"), std::string::npos);
  EXPECT_THROW(RunHistory::load(dir / "none.json"), Error);
  EXPECT_THROW(history.save(dir / "no" / "folder.json"), Error);
}

}  // namespace
}  // namespace anneal_test
