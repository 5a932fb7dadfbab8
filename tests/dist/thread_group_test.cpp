#include "anneal/dist/thread_group.h"

#include "anneal/tests/dist/collectives.h"

namespace anneal::testing {
namespace {

INSTANTIATE_TYPED_TEST_SUITE_P(Threads, Groups, ThreadEngine);

TEST(ThreadGroup, ARankThatIsGoneIsNamed) {
  auto groups = dist::thread_group(2);
  groups[1].reset();
  expect_contains(error_of([&] { groups[0]->barrier(); }), "barrier #1: rank 1 left the group");
}

TEST(ThreadGroup, WorkMayBeDropped) {
  auto groups = dist::thread_group(2);
  const Tensor x = ones({10}), y = ones({10});
  groups[0]->all_reduce_async(x);
  groups[1]->all_reduce(y);
  groups[0]->all_reduce_async(x);
  groups[1]->all_reduce(y);
  EXPECT_EQ(x.to_vector(), std::vector<double>(10, 4));
}

TEST(FlightRecorder, KeepsTheLastRecordsAndPrintsThem) {
  dist::FlightRecorder recorder;
  EXPECT_TRUE(recorder.last().empty());
  for (std::uint64_t i = 1; i <= 3000; ++i) {
    recorder.begin({.signature = {.count = 7, .kind = dist::Signature::Kind::all_reduce}, .what = "x", .sequence = i});
    if (i < 3000) recorder.end(i, i != 2999);
  }
  EXPECT_EQ(recorder.last().size(), dist::FlightRecorder::capacity);
  const auto last = recorder.last(3);
  ASSERT_EQ(last.size(), 3u);
  const auto text = [](const auto& record) { return (std::ostringstream() << record).str(); };
  expect_contains(text(last[0]), "all_reduce #2998 (x, 7 f32): done in ");
  expect_contains(text(last[1]), "all_reduce #2999 (x, 7 f32): failed after ");
  expect_contains(text(last[2]), "all_reduce #3000 (x, 7 f32): running for ");
}

}  // namespace
}  // namespace anneal::testing
